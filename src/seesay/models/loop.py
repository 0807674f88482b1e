"""Linear layers of a time loop, whose weights get their gradient in one product over all steps."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from seesay.models.products import Linear


class StepLinear(Linear):
    """A linear layer that a decoder applies at each step of its time loop.

    Autograd computes the gradient of the weight at every step, a matrix product, and adds them up. In
    `shared_gradients` the backward pass of a step only records the two factors of its product; the first step, whose
    backward pass is the last one, returns the product over all steps. The state that is carried from step to step
    keeps this order.
    """

    steps: "_Steps | None" = None

    def forward(self, x: Tensor) -> Tensor:
        """Return W x + b, (..., O), of x (..., I); in `shared_gradients` of x (R, I)."""
        if self.steps is None or not torch.is_grad_enabled():
            return super().forward(x)
        found: Tensor = _StepLinear.apply(x, self.weight, self.bias, self.steps)
        return found


@contextlib.contextmanager
def shared_gradients(module: nn.Module) -> Iterator[None]:
    """Treat the calls of a module's `StepLinear` layers in this block as the steps of one loop."""
    layers = [part for part in module.modules() if isinstance(part, StepLinear)]
    try:
        for layer in layers:
            layer.steps = _Steps()
        yield
    finally:
        for layer in layers:
            layer.steps = None


class _Steps:
    """The steps of a layer: their count, and the inputs and gradients (R, ...) of those whose backward pass has run.

    Steps are keyed by number, so that a second backward pass replaces the first.
    """

    def __init__(self) -> None:
        self.count = 0
        self.factors: dict[int, tuple[Tensor, Tensor]] = {}


class _StepLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, steps: _Steps) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.steps, ctx.number = steps, steps.count
        steps.count += 1
        return F.linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        factors: dict[int, tuple[Tensor, Tensor]] = ctx.steps.factors
        factors[ctx.number] = (x.detach().to(grad.dtype), grad)
        of_x = torch.mm(grad, weight.to(grad.dtype)).to(x.dtype) if ctx.needs_input_grad[0] else None
        if ctx.number > 0:
            return of_x, None, None, None
        inputs, grads = (torch.cat(part) for part in zip(*factors.values(), strict=True))
        factors.clear()
        of_weight = torch.mm(grads.T, inputs).to(weight.dtype) if ctx.needs_input_grad[1] else None
        return of_x, of_weight, grads.sum(0, dtype=weight.dtype) if ctx.needs_input_grad[2] else None, None
