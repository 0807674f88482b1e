"""Additive attention of queries over the regions of their images: one exponential per side instead of tanh per pair."""

from typing import Any

import torch
from torch import Tensor

from seesay.kernels.native import call, native


def exp_twice(values: Tensor) -> Tensor:
    """Return exp(2 x) in float32 or wider; x is clamped to where the result is finite: 43, or 350 in float64.

    A side beyond the bound counts as the bound. tanh(k + q) = +-1 hides that unless the other side is near the opposite
    bound: k = -60 and q = 50 give tanh(0), not tanh(-10).
    """
    wide = values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
    bound = 43.0 if wide.dtype == torch.float32 else 350.0
    return torch.exp(2.0 * wide.clamp(-bound, bound))


def additive_attention(
    keys: Tensor, factors: Tensor, score: Tensor, memory: Tensor, image_of_row: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the context (R, D) and the weights (R, N) of additive attention.

    The energy of a region is v . tanh(k + q), with tanh(k + q) = 1 - 2 r and r = 1 / (1 + exp(2 k) exp(2 q)). The 1
    adds sum(v) to each energy of a row, which the softmax cancels. A step costs a product and a reciprocal per region
    and unit, and keeps nothing of size (R, N, A) for the backward pass.

    Args:
        keys: exp(2 k), (B, N, A), from `exp_twice`.
        factors: exp(2 q), (R, A), from `exp_twice`.
        score: v, (A,).
        memory: (B, N, D), in the precision of the keys.
        image_of_row: image of each query, (R,) int64.
        mask: (B, N) bool, True = attend; None = all.
    """
    if torch.compiler.is_compiling():  # an exported graph holds operations that every runtime knows
        return reference(keys, factors, score, memory, image_of_row, mask)
    context, weights = _attend(keys, factors, score, memory, image_of_row, mask)
    return context, weights


def reference(
    keys: Tensor, factors: Tensor, score: Tensor, memory: Tensor, image_of_row: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Compute `additive_attention` in plain torch."""
    energies = torch.matmul(_reciprocals(keys, factors, image_of_row), -2.0 * score)
    if mask is not None:
        energies = energies.masked_fill(~mask.index_select(0, image_of_row), float("-inf"))
    weights = torch.softmax(energies, dim=-1)
    context = torch.bmm(weights.unsqueeze(1), memory.index_select(0, image_of_row)).squeeze(1)
    return context, weights


def reference_backward(
    keys: Tensor,
    factors: Tensor,
    score: Tensor,
    memory: Tensor,
    image_of_row: Tensor,
    weights: Tensor,
    grad_context: Tensor,
    grad_weights: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of keys, factors, score and memory in plain torch."""
    grad = grad_weights + torch.bmm(memory.index_select(0, image_of_row), grad_context.unsqueeze(2)).squeeze(2)
    grad = weights * (grad - (grad * weights).sum(-1, keepdim=True))  # of the energies, (R, N)
    r = _reciprocals(keys, factors, image_of_row)
    grad_score = -2.0 * torch.mv(r.flatten(0, 1).T, grad.flatten())
    slopes = r.square_().mul_(grad.unsqueeze(-1)).mul_(2.0 * score)  # (R, N, A)
    grad_factors = (slopes * keys.index_select(0, image_of_row)).sum(1)
    grad_keys = torch.zeros_like(keys).index_add_(0, image_of_row, slopes.mul_(factors.unsqueeze(1)))
    outer = weights.unsqueeze(2) * grad_context.unsqueeze(1)
    return grad_keys, grad_factors, grad_score, torch.zeros_like(memory).index_add_(0, image_of_row, outer)


def _reciprocals(keys: Tensor, factors: Tensor, image_of_row: Tensor) -> Tensor:
    """Return r, (R, N, A)."""
    return torch.reciprocal(1.0 + keys.index_select(0, image_of_row) * factors.unsqueeze(1))


@torch.library.custom_op("seesay::additive_attention", mutates_args=())
def _attend(
    keys: Tensor, factors: Tensor, score: Tensor, memory: Tensor, image_of_row: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    library = native(keys, factors, score, memory, image_of_row, mask)
    if library is None:
        return reference(keys, factors, score, memory, image_of_row, mask)
    context, weights = _outputs(keys, factors, memory)
    inputs = (keys, factors, score, memory, image_of_row, mask)
    call(library.additive_attention, *inputs, len(factors), *keys.shape[1:], memory.shape[2], weights, context)
    return context, weights


@_attend.register_fake
def _(
    keys: Tensor, factors: Tensor, score: Tensor, memory: Tensor, image_of_row: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    return _outputs(keys, factors, memory)


def _outputs(keys: Tensor, factors: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    return memory.new_empty(len(factors), memory.shape[2]), factors.new_empty(len(factors), keys.shape[1])


@torch.library.custom_op("seesay::additive_attention_backward", mutates_args=())
def _attend_backward(
    keys: Tensor,
    factors: Tensor,
    score: Tensor,
    memory: Tensor,
    image_of_row: Tensor,
    weights: Tensor,
    grad_context: Tensor,
    grad_weights: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    inputs = (keys, factors, score, memory, image_of_row, weights, grad_context, grad_weights)
    library = native(*inputs)
    if library is None:
        return reference_backward(*inputs)
    energies, grad_factors = torch.empty_like(weights), torch.empty_like(factors)
    grad_keys, grad_score, grad_memory = (torch.zeros_like(each) for each in (keys, score, memory))
    sizes = (len(factors), *keys.shape[1:], memory.shape[2])
    outputs = (energies, grad_factors, grad_keys, grad_score, grad_memory)
    call(library.additive_attention_backward, *inputs, *sizes, *outputs)
    return grad_keys, grad_factors, grad_score, grad_memory


@_attend_backward.register_fake
def _(
    keys: Tensor,
    factors: Tensor,
    score: Tensor,
    memory: Tensor,
    image_of_row: Tensor,
    weights: Tensor,
    grad_context: Tensor,
    grad_weights: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return torch.empty_like(keys), torch.empty_like(factors), torch.empty_like(score), torch.empty_like(memory)


def _setup(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:5], output[1])


def _backward(ctx: Any, grad_context: Tensor, grad_weights: Tensor) -> tuple[Tensor | None, ...]:
    grads = _attend_backward(*ctx.saved_tensors, grad_context.contiguous(), grad_weights.contiguous())
    return (*grads, None, None)


_attend.register_autograd(_backward, setup_context=_setup)
for _device in ("cpu", "cuda"):
    _attend.register_autocast(_device, torch.float32)
