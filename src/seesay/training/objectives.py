"""What training minimises."""

import torch.nn.functional as F
from torch import Tensor


def cross_entropy(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Returns the mean negative log-likelihood, in nats, over real tokens only.

    Args:
        logits: scores of every real token, (M, V); padding is not among them.
        targets: the words that follow, (M,) int64.
        label_smoothing: probability spread evenly over the vocabulary (Szegedy et al. 2016, section 7).
    """
    return F.cross_entropy(logits.float(), targets, label_smoothing=label_smoothing)


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
