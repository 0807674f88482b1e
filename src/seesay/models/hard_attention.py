"""Hard attention: sampled regions, and the score-function loss that trains the attention."""

import torch
from torch import Tensor, nn

from seesay.models.recurrent import SequenceOutput

_BASELINE_DECAY = 0.9
"""Decay of the baseline per batch (Xu et al. 2015, section 4.1)."""


def sample_regions(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Sample one region per row with the probabilities `weights` (..., N).

    Returns:
        one-hot (..., N) without gradient, and the log-probability (...,) of the sample with gradient.
    """
    flat = _at_least_float32(weights.detach().flatten(0, -2))
    chosen = torch.multinomial(flat, 1).reshape(*weights.shape[:-1], 1)
    log_probs = _log(weights).gather(-1, chosen).squeeze(-1)
    return torch.zeros_like(weights).scatter(-1, chosen, 1.0), log_probs


class HardAttentionLoss(nn.Module):
    """The variance-reduced estimator of Xu et al. 2015, section 4.1, as a loss added to the cross-entropy.

    The score function estimates the gradient through the sampled regions: samples that led to a likelihood above a
    moving average become more probable. An entropy term prevents early collapse of the attention. With `reward` 1 and
    `entropy` 0, the expected gradient of cross-entropy plus this loss is that of the expected cross-entropy, for any
    baseline.

    Args:
        reward: lambda_r of the paper.
        entropy: lambda_e of the paper.
    """

    baseline: Tensor

    def __init__(self, reward: float, entropy: float) -> None:
        super().__init__()
        self.reward = reward
        self.entropy = entropy
        # Decayed sums of the batches' mean likelihoods and of their weights; the quotient is the moving average from
        # the first batch on. A buffer, so that a resumed run restores it.
        self.register_buffer("baseline", torch.zeros(2))

    def forward(self, sequence: SequenceOutput) -> Tensor:
        """Return the loss in nats per token, and update the baseline.

        Args:
            sequence: with `draws`, and `is_sampled` (R,) in `fixed`: captions whose regions were sampled.
        """
        rows = sequence.captions.row_of_token()
        words = torch.log_softmax(_at_least_float32(sequence.logits.detach()), dim=-1)
        words = words.gather(-1, sequence.captions.targets[:, None])[:, 0]
        zeros = words.new_zeros(sequence.captions.rows)
        likelihood = zeros.index_add(0, rows, words)  # of each caption, (R,)
        is_sampled = sequence.fixed["is_sampled"].to(words.dtype)
        draws = zeros.index_add(0, rows, sequence.draws.to(words.dtype))
        advantage = (likelihood - self._update_baseline(likelihood)) * is_sampled
        attention = sequence.attention
        entropy = -(attention * _log(attention)).sum(-1) * is_sampled[rows]
        gain = self.reward * (advantage * draws).sum() + self.entropy * entropy.sum()
        return -gain / len(rows)

    def _update_baseline(self, likelihood: Tensor) -> Tensor:
        """Return the moving average of the previous batches (the mean of the first batch), then update it."""
        total, weight = self.baseline
        mean = likelihood.mean()
        before = torch.where(weight > 0, total / weight.clamp(min=1e-12), mean)
        self.baseline.mul_(_BASELINE_DECAY).add_(
            (1 - _BASELINE_DECAY) * torch.stack([mean, torch.ones_like(mean)]).to(self.baseline)
        )
        return before


def _log(weights: Tensor) -> Tensor:
    """Return log weights, finite for masked regions."""
    weights = _at_least_float32(weights)
    return weights.clamp(min=torch.finfo(weights.dtype).tiny).log()


def _at_least_float32(tensor: Tensor) -> Tensor:
    """Return a tensor in at least float32."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
