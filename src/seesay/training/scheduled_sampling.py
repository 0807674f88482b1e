"""Scheduled sampling: now and then a decoder under training is fed its own guess instead of the true word."""

from dataclasses import replace

import torch
from torch import Tensor

from seesay.config import TrainingConfig
from seesay.models.captioning import CaptionModel
from seesay.models.packing import PackedCaptions
from seesay.tokenizer import SPECIALS


def guess_probability(training: TrainingConfig, epoch: int) -> float:
    """Returns how probable a guess is in an epoch, counted from 0: 0 in the first, then rising to the maximum.

    Bengio et al. 2015 ("Scheduled Sampling for Sequence Prediction with Recurrent Neural Networks"), their
    linear decay of the true words' share, epoch by epoch.
    """
    return training.scheduled_sampling * min(1.0, epoch / training.scheduled_sampling_epochs)


@torch.no_grad()
def mix_in_guesses(
    model: CaptionModel, features: Tensor, memory_mask: Tensor | None, captions: PackedCaptions, probability: float
) -> PackedCaptions:
    """Returns the captions with some input words replaced by words the model would say there itself.

    In the form of Mihaylova and Martins 2019 ("Scheduled Sampling for Transformers"): a first pass over the
    true words gives every position's distribution, from which a word is drawn; the second pass, by the
    caller, trains on the mixture. It costs one forward pass, works for any decoder, and differs from Bengio's in
    that a guess does not follow from the guesses before it. The start token stays, and so do all targets;
    guesses are words, never one of the special tokens.

    Args:
        model: the captioner.
        features: (B, N, F).
        memory_mask: (B, N), True = may attend; None = all.
        captions: the batch's captions, packed.
        probability: of a guess, at each position by itself.
    """
    logits = model(features, memory_mask, captions).float()
    logits[:, : len(SPECIALS)] = float("-inf")
    guesses = draw(logits)
    inputs = captions.inputs.clone()
    begin = captions.sizes[0] if captions.sizes else 0
    # Packed step after step: the guess at a row's position before lies as many places back as rows ran then.
    back = torch.repeat_interleave(torch.tensor(captions.sizes[:-1]), torch.tensor(captions.sizes[1:]))
    before = torch.arange(begin, len(inputs), device=inputs.device) - back.to(inputs.device)
    taken = torch.rand(len(before), device=inputs.device) < probability
    inputs[begin:] = torch.where(taken, guesses[before], inputs[begin:])
    return replace(captions, inputs=inputs)


def draw(log_probs: Tensor) -> Tensor:
    """Returns words (...) drawn with the probabilities of log_probs (..., V), which need not be normalised.

    Of exponential waiting times with the rates p the shortest is the word's with probability p, and a word of
    probability 0 never comes first.
    """
    waiting = torch.empty_like(log_probs, memory_format=torch.contiguous_format).exponential_()
    return (log_probs - waiting.log()).argmax(-1)
