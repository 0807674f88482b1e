"""Dropout whose chances are drawn four at a time."""

import torch
from torch import Tensor, nn

_CHANCES = 1 << 16


class Dropout(nn.Dropout):
    """`torch.nn.Dropout`, on a processor in a third of its time.

    torch draws a 53-bit number for each element there, one after the other. Sixteen bits do: the chance of being
    dropped is rounded to a multiple of 2^-16, and what is kept is scaled by the chance that it really has.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Returns x, in training with a share `p` of its elements zero and the others larger for it."""
        dropped = round(self.p * _CHANCES)
        if not self.training or dropped in (0, _CHANCES) or x.device.type != "cpu":
            return super().forward(x)
        drawn = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(1 << 63), None)
        kept = drawn.view(torch.int16)[: x.numel()].view(x.shape) >= dropped - _CHANCES // 2
        return (x * kept) * (_CHANCES / (_CHANCES - dropped))
