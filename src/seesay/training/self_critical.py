"""Self-critical sequence training: captions are sampled, scored, and made likelier the better they score."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seesay.config import DecodingOptions, TrainingConfig
from seesay.data.batches import Batch, Example, pad_captions
from seesay.decoding import decode
from seesay.models.captioning import CaptionModel
from seesay.models.packing import pack_captions
from seesay.tokenizer import END_ID, START_ID
from seesay.training.objectives import policy_gradient
from seesay.training.rewards import CaptionReward
from seesay.training.sampling import policy, sample_captions, without_dropout


class Criticism(NamedTuple):
    """What a batch of samples teaches.

    Attributes:
        loss: to be minimised, on the scale of nats a word.
        reward: mean reward of the samples.
        baseline: mean of what they were held against.
    """

    loss: Tensor
    reward: float
    baseline: float


@dataclass(frozen=True)
class SelfCritic:
    """The second stage's loss (Rennie et al. 2017, "Self-critical Sequence Training for Image Captioning").

    The network is taken as it is used, dropout off, both where it samples and where its samples are scored
    under gradient, so that the gradient is that of its expected reward and of nothing else.

    Attributes:
        reward: the worth of captions.
        samples: captions sampled a picture, K.
        baseline: "others", the mean reward of the K - 1 other samples of the picture (Luo 2020, "A Better
            Variant of Self-Critical Sequence Training"), or "greedy", that of the greedy caption.
        options: the longest caption, and whether the unknown word may be said.
    """

    reward: CaptionReward
    samples: int
    baseline: str
    options: DecodingOptions

    def __call__(self, model: CaptionModel, features: Tensor, batch: Batch) -> Criticism:
        """Returns the loss of a batch, whose random samples come from torch's global generator.

        Args:
            model: the captioner.
            features: (B, N, F).
            batch: the pictures' ids, mask and human captions, whose mean length only sets the loss's scale.
        """
        with without_dropout(model):
            with torch.no_grad():
                memory = model.remember(features)
                tokens = sample_captions(
                    model.search,
                    memory,
                    batch.memory_mask,
                    self.samples,
                    self.options.max_length,
                    self.options.allow_unk,
                ).cpu()
            rewards = self.reward(batch.ids, tokens.numpy())
            baselines = self._baselines(model, memory, batch, rewards)
            started = torch.cat([torch.full_like(tokens[..., :1], START_ID), tokens], dim=-1)
            captions = pack_captions(started).to(features.device)
            logits = model(features, batch.memory_mask, captions)
        log_probs = policy(logits, self.options.allow_unk).gather(1, captions.targets[:, None])[:, 0]
        advantages = torch.from_numpy(rewards - baselines).to(log_probs.device, log_probs.dtype).flatten()
        each = advantages[captions.caption_of_row][captions.row_of_token()]
        mean_length = len(batch.captions.targets) / max(1, batch.captions.rows)
        loss = policy_gradient(log_probs, each, captions.rows) / mean_length
        return Criticism(loss, float(rewards.mean()), float(baselines.mean()))

    def _baselines(
        self, model: CaptionModel, memory: Tensor, batch: Batch, rewards: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Returns what each sample's reward (B, K) is held against; it does not depend on the sample itself."""
        if self.baseline == "others":
            others: NDArray[np.float64] = rewards.sum(1, keepdims=True) - rewards
            return others / (self.samples - 1)
        found = decode(model.search, memory, batch.memory_mask, self.options)
        greedy = [[[*best.tokens, *([END_ID] if best.finished else [])]] for best, *_ in found]
        earned: NDArray[np.float64] = self.reward(batch.ids, pad_captions(greedy).numpy())
        return earned.repeat(self.samples, axis=1)


def make_critic(
    training: TrainingConfig, options: DecodingOptions, max_length: int, examples: Sequence[Example]
) -> SelfCritic:
    """Returns the loss that a configuration describes.

    Args:
        training: samples and baseline.
        options: whose longest caption and unknown word hold for samples too; the rest does not.
        max_length: of the longest training caption in words, which bounds samples where `options` does not.
        examples: the training pictures.
    """
    options = DecodingOptions(max_length=(options.max_length or max_length) + 1, allow_unk=options.allow_unk)
    return SelfCritic(CaptionReward(examples), training.scst_samples, training.scst_baseline, options)
