"""What training minimises."""

import torch
import torch.nn.functional as F
from torch import Tensor

from seesay.tokenizer import PAD_ID, START_ID, UNK_ID


def cross_entropy(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Returns the mean negative log-likelihood, in nats, over real tokens only.

    Args:
        logits: scores of every real token, (M, V); padding is not among them.
        targets: the words that follow, (M,) int64.
        label_smoothing: probability spread evenly over the vocabulary (Szegedy et al. 2016, section 7).
    """
    return F.cross_entropy(logits.float(), targets, label_smoothing=label_smoothing)


def policy(logits: Tensor, allow_unk: bool) -> Tensor:
    """Returns the log-probabilities (..., V) that samples are drawn by and learn by, in float32 or better.

    Of logits (..., V) without padding and the start token, which are never said, and without the unknown word
    unless it may be.
    """
    scores = logits.to(torch.promote_types(logits.dtype, torch.float32))
    never = torch.tensor([PAD_ID, START_ID] if allow_unk else [PAD_ID, START_ID, UNK_ID], device=logits.device)
    return torch.log_softmax(scores.index_fill(-1, never, float("-inf")), dim=-1)


def log_chances(log_probs: Tensor, cut: Tensor) -> Tensor:
    """Returns the log-chances (M,) of what was drawn, of the log-probabilities (M,) of its words.

    A caption that was cut at the longest drew one more time, and anything but the end: where `cut` (M,) is True,
    log(1 - p) instead of the end's log p.
    """
    safe = torch.where(cut, log_probs.clamp(max=-1e-7), -1.0)  # what is not taken must have a slope, too
    return torch.where(cut, torch.log(-torch.expm1(safe)), log_probs)


def policy_gradient(log_probs: Tensor, advantages: Tensor, samples: int) -> Tensor:
    """Returns the loss whose gradient estimates that of minus the expected reward of a sample.

    Williams 1992: the gradient of E[r] is E[(r - b) grad log p], with log p the sum over the sample's tokens,
    for any baseline b that does not depend on the sample.

    Args:
        log_probs: of every token of the samples, the end token among them, (M,).
        advantages: r - b of the sample that each token belongs to, (M,), without gradient.
        samples: over how many samples the mean is taken.
    """
    return -(advantages * log_probs).sum() / samples
