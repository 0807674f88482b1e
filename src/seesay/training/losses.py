"""Losses of training: cross-entropy and policy gradient."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from seesay.decoding.logits_processing import mask_special_tokens
from seesay.models.kernels import Kernels, kernels_for
from seesay.tokenizer import PAD_ID


def cross_entropy(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Return the mean negative log-likelihood per token, in nats.

    Args:
        logits: logits of the real tokens, without padding, (M, V).
        targets: target tokens, (M,) int64.
        label_smoothing: probability spread uniformly over the vocabulary (Szegedy et al. 2016, section 7).
    """
    kernels = _kernels(logits, targets)
    if kernels is None:
        return F.cross_entropy(logits.float(), targets, label_smoothing=label_smoothing)
    losses: Tensor = _CrossEntropies.apply(logits, targets, label_smoothing, None, kernels)
    return losses.mean()


def _kernels(logits: Tensor, targets: Tensor) -> Kernels | None:
    """Return the native kernels of cross-entropy; None if unavailable or if a target is invalid (torch raises)."""
    kernels = kernels_for(logits, half=True)
    if kernels is None or targets.dtype != torch.int64 or targets.shape != logits.shape[:1]:
        return None
    if int(targets.min()) < 0 or int(targets.max()) >= logits.shape[1]:
        return None
    return kernels


class _CrossEntropies(torch.autograd.Function):
    """Native cross-entropy per token; it allocates no array of the logits' size except their gradient."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, targets: Tensor, label_smoothing: float, offsets: Tensor | None, kernels: Kernels
    ) -> Tensor:
        targets = targets.contiguous()
        losses, log_sums = kernels.cross_entropy_rows(logits, targets, label_smoothing, offsets)
        ctx.save_for_backward(logits, targets, log_sums)
        ctx.more, ctx.kernels = (label_smoothing, offsets), kernels
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return (
            ctx.kernels.cross_entropy_rows_backward(grad.contiguous(), *ctx.saved_tensors, *ctx.more),
            None,
            None,
            None,
            None,
        )


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
    kernels = _kernels(logits, words)
    if kernels is None:
        return policy(logits, allow_unk).gather(1, words[:, None])[:, 0]
    offsets = mask_special_tokens(torch.zeros(logits.shape[1], dtype=torch.float32), allow_unk)
    losses: Tensor = _CrossEntropies.apply(logits, words, 0.0, offsets, kernels)
    return -losses


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
