"""Dropout that draws its masks cheaply on a CPU."""

import torch
from torch import Tensor, nn

_LEVELS = 1 << 16


class Dropout(nn.Dropout):
    """`torch.nn.Dropout`, with masks from 16 random bits per element on a CPU.

    On a CPU torch draws a 53-bit number per element, one after the other, which takes longer than the largest matrix
    product of a training step. Here one 64-bit draw of torch's generator serves four elements. The dropout
    probability is rounded to a multiple of 2^-16; the remaining elements are scaled by the rounded one.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return x; in training with a share `p` of its elements zero and the others scaled by 1 / (1 - p)."""
        dropped = round(self.p * _LEVELS)
        if not self.training or dropped in (0, _LEVELS) or x.device.type != "cpu":
            return super().forward(x)
        drawn = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(1 << 63), None)
        kept = drawn.view(torch.int16)[: x.numel()].view(x.shape) >= dropped - _LEVELS // 2
        return (x * kept).mul_(_LEVELS / (_LEVELS - dropped))
