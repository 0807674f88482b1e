"""Losses of training: cross-entropy and policy gradient."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from seesay.decoding.logits_processing import mask_special_tokens
from seesay.models.vocabulary import aligned_rows
from seesay.tokenizer import PAD_ID


def cross_entropy(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Return the mean negative log-likelihood per token, in nats.

    Args:
        logits: logits of the real tokens, without padding, (M, V).
        targets: target tokens, (M,) int64.
        label_smoothing: probability spread uniformly over the vocabulary (Szegedy et al. 2016, section 7).
    """
    losses: Tensor = _CrossEntropies.apply(logits, targets, label_smoothing)
    return losses.mean()


class _CrossEntropies(torch.autograd.Function):
    """`F.cross_entropy` without reduction, whose backward pass makes one tensor of the logits' size instead of four."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
        log_probs = torch.log_softmax(logits, -1, dtype=torch.promote_types(logits.dtype, torch.float32))
        ctx.save_for_backward(log_probs, targets)
        ctx.label_smoothing, ctx.dtype = label_smoothing, logits.dtype
        losses = (label_smoothing - 1) * log_probs.gather(1, targets[:, None])[:, 0]
        return losses - label_smoothing * log_probs.mean(1) if label_smoothing else losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        log_probs, targets = ctx.saved_tensors
        rows, words = log_probs.shape
        found = torch.exp(log_probs, out=aligned_rows(rows, words, log_probs))
        if ctx.label_smoothing:
            found -= ctx.label_smoothing / words
        found.scatter_add_(1, targets[:, None], found.new_full((rows, 1), ctx.label_smoothing - 1))
        return found.mul_(grad[:, None]).to(ctx.dtype), None, None


def padded_cross_entropy(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Return the cross-entropy of tokens that include padding, which is ignored."""
    return F.cross_entropy(logits.float(), targets, ignore_index=PAD_ID, label_smoothing=label_smoothing)


def policy(logits: Tensor, allow_unk: bool) -> Tensor:
    """Return the log-probabilities (..., V) of the sampling policy, at least float32.

    They exclude padding and the start token, and the unknown token unless `allow_unk`.
    """
    return torch.log_softmax(mask_special_tokens(logits, allow_unk), dim=-1)


def sampled_log_probs(logits: Tensor, words: Tensor, allow_unk: bool) -> Tensor:
    """Return the `policy` log-probabilities (M,) of sampled tokens (M,) from logits (M, V)."""
    return policy(logits, allow_unk).gather(1, words[:, None])[:, 0]


def sequence_log_probs(log_probs: Tensor, cut: Tensor) -> Tensor:
    """Return the log-probabilities (M,) of the sampling events, from the log-probabilities (M,) of their tokens.

    A truncated caption sampled a further token other than the end: where `cut` (M,) is True, the event has
    log(1 - p) instead of log p of the end token.
    """
    safe = torch.where(cut, log_probs.clamp(max=-1e-7), -1.0)  # keeps the gradient of the unused branch finite
    return torch.where(cut, torch.log(-torch.expm1(safe)), log_probs)


def policy_gradient(log_probs: Tensor, advantages: Tensor, samples: int) -> Tensor:
    """Return a loss whose gradient estimates the negative gradient of the expected reward of a sample.

    Williams 1992: the gradient of E[r] is E[(r - b) grad log p], with log p the sum over the sample's tokens,
    for any baseline b that does not depend on the sample.

    Args:
        log_probs: log-probabilities of all tokens of the samples, end tokens included, (M,).
        advantages: r - b of each token's sample, (M,), without gradient.
        samples: number of samples of the mean.
    """
    return -(advantages * log_probs).sum() / samples
