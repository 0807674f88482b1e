"""Hard attention: regions drawn at random, and the loss by which the attention learns from what came of it."""

import torch
from torch import Tensor, nn

from seesay.models.recurrent import SequenceOutput

_KEPT = 0.9
"""Share of the baseline that is kept at each batch (Xu et al. 2015, section 4.1)."""


def draw_regions(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Returns one region a row, drawn with the probabilities `weights` (..., N).

    Returns:
        one-hot (..., N), which no gradient passes, and the log-probability (...,) of the draw, which it does.
    """
    flat = _exact(weights.detach().flatten(0, -2))
    chosen = torch.multinomial(flat, 1).reshape(*weights.shape[:-1], 1)
    log_probs = _log(weights).gather(-1, chosen).squeeze(-1)
    return torch.zeros_like(weights).scatter(-1, chosen, 1.0), log_probs


class HardAttentionLoss(nn.Module):
    """The variance-reduced estimator of Xu et al. 2015, section 4.1, as a loss to be added to the cross-entropy.

    The gradient of the likelihood through the draws is estimated by the score function: a caption whose draws led
    to a likelihood above a moving average makes these draws likelier. An entropy term keeps the attention from
    settling early. With `reward` 1 and `entropy` 0 the gradient of cross-entropy plus this is, over the draws'
    chances, that of the expected cross-entropy, whatever the baseline.

    Args:
        reward: lambda_r of the paper.
        entropy: lambda_e of the paper.
    """

    baseline: Tensor

    def __init__(self, reward: float, entropy: float) -> None:
        super().__init__()
        self.reward = reward
        self.entropy = entropy
        # Decayed sum of the batches' mean likelihoods, and of their weights: their quotient is the moving average,
        # from the first batch on. A buffer, so that a resumed run goes on with it.
        self.register_buffer("baseline", torch.zeros(2))

    def forward(self, lesson: SequenceOutput) -> Tensor:
        """Returns the loss in nats a token, and moves the baseline on.

        Args:
            lesson: with `draws`, and `is_drawn` (R,) in `fixed`: which captions' regions were drawn.
        """
        rows = lesson.captions.row_of_token()
        words = torch.log_softmax(_exact(lesson.logits.detach()), dim=-1)
        words = words.gather(-1, lesson.captions.targets[:, None])[:, 0]
        zeros = words.new_zeros(lesson.captions.rows)
        likelihood = zeros.index_add(0, rows, words)  # of each caption, (R,)
        is_drawn = lesson.fixed["is_drawn"].to(words.dtype)
        draws = zeros.index_add(0, rows, lesson.draws.to(words.dtype))
        advantage = (likelihood - self._move_on(likelihood)) * is_drawn
        attention = lesson.attention
        entropy = -(attention * _log(attention)).sum(-1) * is_drawn[rows]
        gain = self.reward * (advantage * draws).sum() + self.entropy * entropy.sum()
        return -gain / len(rows)

    def _move_on(self, likelihood: Tensor) -> Tensor:
        """Returns the mean of the batches before this one (of this one if it is the first), then takes it in."""
        total, weight = self.baseline
        mean = likelihood.mean()
        before = torch.where(weight > 0, total / weight.clamp(min=1e-12), mean)
        self.baseline.mul_(_KEPT).add_((1 - _KEPT) * torch.stack([mean, torch.ones_like(mean)]).to(self.baseline))
        return before


def _log(weights: Tensor) -> Tensor:
    """Returns log weights, with no infinity for regions that are masked away."""
    weights = _exact(weights)
    return weights.clamp(min=torch.finfo(weights.dtype).tiny).log()


def _exact(tensor: Tensor) -> Tensor:
    """Returns a tensor in float32, or as it is where that is wider."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
