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
