"""Self-critical sequence training (SCST): policy gradients whose reward is CIDEr-D, with BLEU-4 if wanted."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

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
from seesay.training.losses import policy_gradient, sampled_log_probs, sequence_log_probs
from seesay.training.rewards import CaptionReward


class ScstOutput(NamedTuple):
    """The loss and the rewards of a batch.

    Attributes:
        loss: the loss, on the scale of nats per token.
        reward: mean reward of the samples.
        baseline: mean reward of the baseline.
    """

    loss: Tensor
    reward: float
    baseline: float


class Samples(NamedTuple):
    """Sampled captions, on the CPU.

    Attributes:
        tokens: with start and end tokens, padded at the end, (B, K, T) int64.
        cut: True if the caption was truncated at the maximum length, (B, K) bool.
    """

    tokens: Tensor
    cut: Tensor

    @property
    def rewarded(self) -> NDArray[np.int64]:
        """The captions for the reward, (B, K, T - 1): without start, with the end only if it was sampled."""
        tokens: Tensor = self.tokens[..., 1:]
        return tokens.masked_fill(self.cut[..., None] & (tokens == END_ID), PAD_ID).numpy()


class RatedSamples(NamedTuple):
    """The rewards of sampled captions.

    Attributes:
        advantages: rewards minus baselines, (B, K).
        reward: mean reward of the samples.
        baseline: mean reward of the baselines.
    """

    advantages: NDArray[np.float64]
    reward: float
    baseline: float


@dataclass(frozen=True)
class Critic:
    """How captions are sampled and rewarded.

    Attributes:
        reward: the reward of captions.
        samples: samples per image, K.
        baseline: "others", the mean reward of the K - 1 other samples of the image (Luo 2020, "A Better
            Variant of Self-Critical Sequence Training"), or "greedy", the reward of the greedy caption.
        options: maximum length and `allow_unk`.
        dropout: keep dropout active when computing the log-probabilities of samples, which reduces overfitting.
    """

    reward: CaptionReward
    samples: int
    baseline: str
    options: DecodingOptions
    dropout: bool = False

    @property
    def sampling(self) -> DecodingOptions:
        """Decoding options of the samples."""
        return self.options.with_strategy("sample").replace(num_return_sequences=self.samples)

    def draws(self, images: int, device: torch.device) -> Tensor:
        """Return the uniform numbers of the samples, (B, K, max_length + 1), from torch's generator."""
        dtype = torch.float32 if device.type == "mps" else torch.float64  # MPS devices have no float64
        return torch.rand((images, self.samples, self.options.max_length + 1), dtype=dtype).to(device)

    def rate(
        self, ids: Sequence[str], samples: NDArray[np.int64], greedy: Callable[[], NDArray[np.int64]]
    ) -> RatedSamples:
        """Return the advantages of samples; a baseline does not depend on the sample.

        Args:
            ids: image ids, length B.
            samples: from `rewarded_tokens`, (B, K, T).
            greedy: returns the greedy captions, (B, 1, T); called only if they are the baseline.
        """
        rewards = self.reward(ids, samples)
        if self.baseline == "others":
            baselines = mean_of_others(rewards)
        else:
            baselines = self.reward(ids, greedy()).repeat(self.samples, axis=1)
        return RatedSamples(rewards - baselines, float(rewards.mean()), float(baselines.mean()))

    def policy_dropout(self, model: nn.Module) -> contextlib.AbstractContextManager[None]:
        """Return the context of the samples' log-probabilities: with or without dropout."""
        return contextlib.nullcontext() if self.dropout else without_dropout(model)


@dataclass(frozen=True)
class SelfCritic(Critic):
    """The SCST loss (Rennie et al. 2017, "Self-critical Sequence Training for Image Captioning").

    The model samples without dropout; unless `dropout` is True, it also computes the log-probabilities of the samples
    without dropout, so that the gradient is that of its expected reward.
    """

    def __call__(self, model: CaptionModel, features: Tensor, batch: Batch) -> ScstOutput:
        """Return the loss of a batch; samples use torch's global generator.

        Args:
            model: the model.
            features: (B, N, F).
            batch: the images' ids, mask and reference captions; their mean length only scales the loss.
        """
        samples = self.sample(model, features, batch.memory_mask)
        rated = self.rate(batch.ids, samples.rewarded, lambda: self._greedy(model, features, batch.memory_mask))
        mean_length = len(batch.captions.targets) / max(1, batch.captions.rows)
        advantages = torch.from_numpy(rated.advantages)
        loss = self.loss(model, features, batch.memory_mask, samples, advantages) / mean_length
        return ScstOutput(loss, rated.reward, rated.baseline)

    def sample(self, model: CaptionModel, features: Tensor, memory_mask: Tensor | None) -> Samples:
        """Return K independent samples per image."""
        draws = self.draws(len(features), features.device)
        with without_dropout(model), torch.no_grad():
            state = init_state(model.step_decoder, model.project(features), memory_mask)
            samples = sample_captions(model.step_decoder, state, self.sampling, draws)
        tokens = [[[START_ID, *one.tokens, END_ID] for one in of_image] for of_image in samples]
        cut = torch.tensor([[not one.finished for one in of_image] for of_image in samples])
        return Samples(pad_captions(tokens), cut)

    def loss(
        self, model: CaptionModel, features: Tensor, memory_mask: Tensor | None, samples: Samples, advantages: Tensor
    ) -> Tensor:
        """Return the loss of samples with the given advantages, (B, K), float64 on the CPU."""
        captions = pack_captions(samples.tokens).to(features.device)
        with self.policy_dropout(model):
            logits = model(features, memory_mask, captions)
        return sampled_loss(logits, captions, samples.cut, advantages, self.options.allow_unk)

    def _greedy(self, model: CaptionModel, features: Tensor, memory_mask: Tensor | None) -> NDArray[np.int64]:
        """Return the greedy captions for the reward, (B, 1, T)."""
        with without_dropout(model), torch.no_grad():
            state = init_state(model.step_decoder, model.project(features), memory_mask)
            return rewarded_tokens(generate(model.step_decoder, state, GenerationRequest(self.options)))


def mean_of_others(rewards: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return for each sample the mean reward of the other samples of its image, (B, K), of rewards (B, K)."""
    mean: NDArray[np.float64] = (rewards.sum(1, keepdims=True) - rewards) / (rewards.shape[1] - 1)
    return mean


def sampled_loss(logits: Tensor, captions: PackedCaptions, cut: Tensor, advantages: Tensor, allow_unk: bool) -> Tensor:
    """Return the mean loss per sample.

    Args:
        logits: (M, V).
        captions: the packed samples.
        cut: whether they were truncated, (B, K).
        advantages: rewards minus baselines, (B, K).
        allow_unk: whether the unknown token could be sampled.
    """
    log_probs = sampled_log_probs(logits, captions.targets, allow_unk)
    place = captions.caption_of_row[captions.row_of_token()]  # index of each token's sample among the B * K
    cut, advantages = cut.to(place.device).flatten(), advantages.to(log_probs.device, log_probs.dtype).flatten()
    log_probs = sequence_log_probs(log_probs, cut[place] & (captions.targets == END_ID))
    if captions.real is not None:
        log_probs = torch.where(captions.real, log_probs, 0.0)  # padding has -inf, and 0 * -inf is NaN
    return policy_gradient(log_probs, advantages[place], captions.rows)


CriticKind = TypeVar("CriticKind", bound=Critic)


def make_critic(
    training: TrainingConfig,
    options: DecodingOptions,
    max_length: int,
    examples: Sequence[Example],
    kind: type[CriticKind],
) -> CriticKind:
    """Return the critic of a configuration.

    Args:
        training: number of samples, baseline, dropout and weight of BLEU-4.
        options: decoding options; samples use `max_length` and `allow_unk` only.
        max_length: maximum length of samples if `options` sets none, in words.
        examples: the training images; their captions are the references of the reward.
        kind: class of the critic.
    """
    options = DecodingOptions(max_length=options.max_length or max_length, allow_unk=options.allow_unk)
    reward = CaptionReward(examples, training.scst_bleu)
    return kind(reward, training.scst_samples, training.scst_baseline, options, training.scst_dropout)


def rewarded_tokens(captions: Sequence[Sequence[Hypothesis]]) -> NDArray[np.int64]:
    """Return the token ids (B, K, T) of captions (B, K) for the reward, with the end token if they are finished."""
    return pad_captions(
        [[[*one.tokens, *([END_ID] if one.finished else [])] for one in of_image] for of_image in captions]
    ).numpy()


@contextlib.contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """Run the model in evaluation mode with gradients.

    torch's recurrent layers stay in training mode with their dropout set to 0, since cuDNN computes their gradients
    in no other mode.
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
