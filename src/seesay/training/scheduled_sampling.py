"""Scheduled sampling: some inputs of teacher forcing are replaced by the model's own predictions."""

from dataclasses import replace

import torch
from torch import Tensor

from seesay.config import TrainingConfig
from seesay.models.captioning import CaptionModel
from seesay.models.packing import PackedCaptions
from seesay.tokenizer import SPECIALS


def sampling_probability(training: TrainingConfig, epoch: int) -> float:
    """Return the probability of a replacement in an epoch, counted from 0: 0 in the first, then rising linearly.

    The linear schedule of Bengio et al. 2015 ("Scheduled Sampling for Sequence Prediction with Recurrent Neural
    Networks"), per epoch.
    """
    return training.scheduled_sampling * min(1.0, epoch / training.scheduled_sampling_epochs)


@torch.no_grad()
def mix_in_samples(
    model: CaptionModel, features: Tensor, memory_mask: Tensor | None, captions: PackedCaptions, probability: float
) -> PackedCaptions:
    """Return the captions with some input tokens replaced by samples of the model's predictions.

    As in Mihaylova and Martins 2019 ("Scheduled Sampling for Transformers"): a first pass over the true tokens gives
    the distribution at every position, from which tokens are sampled; the caller trains on the mixture in a second
    pass. It costs one forward pass and works for any decoder. Unlike in Bengio et al., a sample does not depend on
    earlier samples. The start token and the targets are unchanged; samples exclude the special tokens.

    Args:
        model: the model.
        features: (B, N, F).
        memory_mask: (B, N), True = attend; None: attend to all regions.
        captions: the packed captions of the batch.
        probability: probability of a replacement, independent per position.
    """
    logits = model(features, memory_mask, captions).float()
    logits[:, : len(SPECIALS)] = float("-inf")
    samples = draw(logits)
    inputs = captions.inputs.clone()
    begin = captions.sizes[0] if captions.sizes else 0
    # Tokens are packed by step: a row's previous position is sizes[t - 1] entries back.
    back = torch.repeat_interleave(torch.tensor(captions.sizes[:-1]), torch.tensor(captions.sizes[1:]))
    before = torch.arange(begin, len(inputs), device=inputs.device) - back.to(inputs.device)
    taken = torch.rand(len(before), device=inputs.device) < probability
    inputs[begin:] = torch.where(taken, samples[before], inputs[begin:])
    return replace(captions, inputs=inputs)


def draw(log_probs: Tensor) -> Tensor:
    """Return tokens (...) sampled from log_probs (..., V), which need not be normalised.

    Of exponential variables with rates p, the smallest is that of a token with probability p; a token of probability 0
    is never sampled.
    """
    exponentials = torch.empty_like(log_probs, memory_format=torch.contiguous_format).exponential_()
    return (log_probs - exponentials.log()).argmax(-1)
