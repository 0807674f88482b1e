"""Self-critical sequence training: captions are sampled, scored, and made likelier the better they score."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from seesay.config import DecodingOptions, TrainingConfig
from seesay.data.batches import Batch, Example, pad_captions
from seesay.decoding import GenerationRequest, Hypothesis, generate, init_state, sample_captions
from seesay.models.captioning import CaptionModel
from seesay.models.packing import PAD_ID, PackedCaptions, pack_captions
from seesay.tokenizer import END_ID, START_ID
from seesay.training.losses import drawn_log_probs, policy_gradient, sequence_log_probs
from seesay.training.rewards import CaptionReward


class ScstOutput(NamedTuple):
    """What a batch of samples teaches.

    Attributes:
        loss: to be minimised, on the scale of nats a word.
        reward: mean reward of the samples.
        baseline: mean of what they were held against.
    """

    loss: Tensor
    reward: float
    baseline: float


class Samples(NamedTuple):
    """Sampled captions, on the CPU.

    Attributes:
        tokens: with start and end, padded at the end, (B, K, T) int64.
        cut: True = it did not end by itself, but was cut at the longest, (B, K) bool.
    """

    tokens: Tensor
    cut: Tensor

    @property
    def rewarded(self) -> NDArray[np.int64]:
        """The captions as the reward takes them, (B, K, T - 1): without start, the end only where it was reached."""
        said: Tensor = self.tokens[..., 1:]
        return said.masked_fill(self.cut[..., None] & (said == END_ID), PAD_ID).numpy()


@dataclass(frozen=True)
class SelfCritic:
    """The second stage's loss (Rennie et al. 2017, "Self-critical Sequence Training for Image Captioning").

    The network is taken as it is used, dropout off, where it samples; and, unless `dropout` is True, where its
    samples are scored under gradient, so that the gradient is that of its expected reward and of nothing else.

    Attributes:
        reward: the worth of captions.
        samples: captions sampled an image, K.
        baseline: "others", the mean reward of the K - 1 other samples of the image (Luo 2020, "A Better
            Variant of Self-Critical Sequence Training"), or "greedy", that of the greedy caption.
        options: the longest caption, and whether the unknown word may be said.
        dropout: the samples are scored under gradient with dropout on. The gradient is then that of networks
            near the one that sampled, which learn the training images less by heart.
    """

    reward: CaptionReward
    samples: int
    baseline: str
    options: DecodingOptions
    dropout: bool = False

    def __call__(self, model: CaptionModel, features: Tensor, batch: Batch) -> ScstOutput:
        """Returns the loss of a batch, whose random samples come from torch's global generator.

        Args:
            model: the captioner.
            features: (B, N, F).
            batch: the images' ids, mask and human captions, whose mean length only sets the loss's scale.
        """
        samples = self.sample(model, features, batch.memory_mask)
        rewards = self.reward(batch.ids, samples.rewarded)
        baselines = self._baselines(model, features, batch, rewards)
        advantages = torch.from_numpy(rewards - baselines)
        mean_length = len(batch.captions.targets) / max(1, batch.captions.rows)
        loss = self.loss(model, features, batch.memory_mask, samples, advantages) / mean_length
        return ScstOutput(loss, float(rewards.mean()), float(baselines.mean()))

    def sample(self, model: CaptionModel, features: Tensor, memory_mask: Tensor | None) -> Samples:
        """Returns K independent samples of every image."""
        draws = self.draws(len(features), features.device)
        with without_dropout(model), torch.no_grad():
            state = init_state(model.search, model.project(features), memory_mask)
            drawn = sample_captions(model.search, state, self.sampling, draws)
        tokens = [[[START_ID, *one.tokens, END_ID] for one in of_image] for of_image in drawn]
        cut = torch.tensor([[not one.finished for one in of_image] for of_image in drawn])
        return Samples(pad_captions(tokens), cut)

    def loss(
        self, model: CaptionModel, features: Tensor, memory_mask: Tensor | None, samples: Samples, advantages: Tensor
    ) -> Tensor:
        """Returns the loss of samples that are worth so much more than the baseline, (B, K), float64 on the CPU."""
        captions = pack_captions(samples.tokens).to(features.device)
        with contextlib.nullcontext() if self.dropout else without_dropout(model):
            logits = model(features, memory_mask, captions)
        return sampled_loss(logits, captions, samples.cut, advantages, self.options.allow_unk)

    def draws(self, images: int, device: torch.device) -> Tensor:
        """Returns the uniform numbers that decide the samples, (B, K, max_length + 1), from torch's generator."""
        kind = torch.float32 if device.type == "mps" else torch.float64  # Apple's devices have no float64
        return torch.rand((images, self.samples, self.options.max_length + 1), dtype=kind).to(device)

    @property
    def sampling(self) -> DecodingOptions:
        """How samples are searched for."""
        return self.options.with_strategy("sample").replace(num_return_sequences=self.samples)

    def _baselines(
        self, model: CaptionModel, features: Tensor, batch: Batch, rewards: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Returns what each sample's reward (B, K) is held against; it does not depend on the sample itself."""
        if self.baseline == "others":
            others: NDArray[np.float64] = rewards.sum(1, keepdims=True) - rewards
            return others / (self.samples - 1)
        with without_dropout(model), torch.no_grad():
            state = init_state(model.search, model.project(features), batch.memory_mask)
            best = generate(model.search, state, GenerationRequest(self.options))
        earned: NDArray[np.float64] = self.reward(batch.ids, _rewarded(best))
        return earned.repeat(self.samples, axis=1)


def sampled_loss(logits: Tensor, captions: PackedCaptions, cut: Tensor, advantages: Tensor, allow_unk: bool) -> Tensor:
    """Returns the loss of samples, a sample on average.

    Args:
        logits: (M, V).
        captions: the samples.
        cut: whether they were cut, (B, K).
        advantages: what they are worth above the baseline, (B, K).
        allow_unk: whether the unknown word could be drawn.
    """
    log_probs = drawn_log_probs(logits, captions.targets, allow_unk)
    place = captions.caption_of_row[captions.row_of_token()]  # of every token's sample among the B * K
    cut, advantages = cut.to(place.device).flatten(), advantages.to(log_probs.device, log_probs.dtype).flatten()
    log_probs = sequence_log_probs(log_probs, cut[place] & (captions.targets == END_ID))
    if captions.real is not None:
        log_probs = torch.where(captions.real, log_probs, 0.0)  # of padding -inf, which times nothing is no number
    return policy_gradient(log_probs, advantages[place], captions.rows)


def make_critic(
    training: TrainingConfig,
    options: DecodingOptions,
    max_length: int,
    examples: Sequence[Example],
    kind: type[SelfCritic] = SelfCritic,
) -> SelfCritic:
    """Returns the loss that a configuration describes.

    Args:
        training: samples, baseline and dropout.
        options: whose longest caption and unknown word hold for samples too; the rest does not.
        max_length: of the longest training caption in words, which bounds samples where `options` does not.
        examples: the training images.
        kind: how it is computed.
    """
    options = DecodingOptions(max_length=options.max_length or max_length, allow_unk=options.allow_unk)
    reward = CaptionReward(examples)
    return kind(reward, training.scst_samples, training.scst_baseline, options, training.scst_dropout)


def _rewarded(captions: Sequence[Sequence[Hypothesis]]) -> NDArray[np.int64]:
    """Returns captions (B, K) as the reward takes them, (B, K, T): with the end where they reached it."""
    return pad_captions(
        [[[*one.tokens, *([END_ID] if one.finished else [])] for one in of_image] for of_image in captions]
    ).numpy()


@contextlib.contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """Holds the model as it is used, not as it is trained; gradients still pass.

    Recurrent layers of torch stay in training mode, in which alone cuDNN computes their gradients, with the
    dropout between them set to 0.
    """
    modes = {module: module.training for module in model.modules()}
    between = {module: module.dropout for module in modes if isinstance(module, nn.RNNBase)}
    try:
        for module in modes:
            module.training = module in between
        for module in between:
            module.dropout = 0.0
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for module, dropout in between.items():
            module.dropout = dropout
