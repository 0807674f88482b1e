"""Dropout whose chances cost little."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from seesay.models.kernels import Kernels, kernels_for

_CHANCES, _FINE = 1 << 16, 1 << 32


class Dropout(nn.Dropout):
    """`torch.nn.Dropout`, on a processor in a fraction of its time.

    torch draws a 53-bit number for each element there, one after the other, and keeps which were dropped. In C the
    chance of an element is a hash of its place under a key that torch draws: the way back works it out again. Without
    a compiler sixteen bits do, four of which come of one number drawn. The chance of being dropped is rounded to a
    multiple of 2^-32 or 2^-16, and what is kept is scaled by the chance that it really has.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Returns x, in training with a share `p` of its elements zero and the others larger for it."""
        dropped, coarse = round(self.p * _FINE), round(self.p * _CHANCES)
        if not self.training or coarse in (0, _CHANCES) or x.device.type != "cpu":
            return super().forward(x)
        x = x.contiguous()
        kernels = kernels_for(x, half=True)
        if kernels is not None:
            key = int(torch.empty((), dtype=torch.int64).random_(-(1 << 63), None))
            found: Tensor = _Dropped.apply(x, dropped, key, kernels)
            return found
        drawn = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(1 << 63), None)
        kept = drawn.view(torch.int16)[: x.numel()].view(x.shape) >= coarse - _CHANCES // 2
        return (x * kept) * (_CHANCES / (_CHANCES - coarse))


class _Dropped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dropped: int, key: int, kernels: Kernels) -> Tensor:
        ctx.dropout_masks, ctx.kernels = (dropped, key), kernels
        return kernels.dropout(x, *ctx.dropout_masks)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.kernels.dropout(grad.contiguous(), *ctx.dropout_masks), None, None, None
