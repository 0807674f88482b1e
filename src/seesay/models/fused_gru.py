"""A layer of GRUs over packed captions, forward and backward, with one product and one call of C a step."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from seesay.models.kernels import kernels_for
from seesay.models.products import outer_product, pack, product


def fused_gru(gates: Tensor, first: Tensor, weight: Tensor, bias: Tensor, sizes: list[int]) -> Tensor:
    """Returns the states (M, H) after every word, in the precision of `gates`.

    torch's layer multiplies the weight's gradient out in every step, and adds it up; here it is one product at the end.
    Only where `seesay.models.fused_loop.can_fuse` says so.

    Args:
        gates: the input's side of reset, update and candidate, (M, 3H); see `seesay.models.cells.gru_update`.
        first: the state before the first word, (R, H), a row a caption.
        weight: of the state's side, (3H, H).
        bias: of the same, (3H,).
        sizes: captions that run at each step; M is their sum.
    """
    found: Tensor = _FusedGRU.apply(gates.contiguous(), first, weight, bias, sizes)
    return found


class _FusedGRU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gates: Tensor, first: Tensor, weight: Tensor, bias: Tensor, sizes: list[int]) -> Tensor:
        dtype = gates.dtype
        packed, added, state = pack(weight.to(dtype), sizes[0]), bias.to(dtype), first.float().contiguous()
        kernels = kernels_for(state)
        assert kernels is not None
        steps, states = [], []
        for here in torch.split(gates, sizes):
            hidden = state[: len(here)]
            sides = product(hidden.to(dtype), packed, added)
            state, kept = kernels.gru(here, sides, hidden)
            steps.append((sides, hidden, kept))
            states.append(state)
        ctx.save_for_backward(weight)
        ctx.steps, ctx.kernels, ctx.types = steps, kernels, (first.dtype, bias.dtype)
        return torch.cat(states).to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        grad, dtype, sizes = grad.contiguous(), grad.dtype, [len(hidden) for _, hidden, _ in ctx.steps]
        packed = pack(weight.to(dtype).T, sizes[0])
        inputs, sides, states = [], [], []
        later: tuple[Tensor, Tensor] | None = None
        running = 0
        for here, given in zip(torch.split(grad, sizes)[::-1], ctx.steps[::-1], strict=True):
            projected, hidden, _ = given
            results = torch.empty_like(projected), torch.empty_like(projected), torch.empty_like(hidden)
            ctx.kernels.loop_gru_backward(here, later, running, given, len(hidden), results)
            inward, projected_grad, left = results
            later, running = (left, product(projected_grad, packed)), len(hidden)
            inputs.append(inward)
            sides.append(projected_grad)
            states.append(hidden.to(dtype))
        assert later is not None
        grads, before = torch.cat(sides[::-1]), torch.cat(states[::-1])
        first_type, bias_type = ctx.types
        return (
            torch.cat(inputs[::-1]),
            (later[0] + later[1]).to(first_type),
            outer_product(grads, before).to(weight.dtype),
            grads.sum(0, dtype=bias_type),
            None,
        )
