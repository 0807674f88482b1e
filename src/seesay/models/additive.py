"""Additive attention without tanh: an exponential each of keys and queries, then a product and a reciprocal."""

import math
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from seesay.models.kernels import Kernels, kernels_for
from seesay.models.loop import DeferredGradient, DeferredGradients

# Elements of a temporary; on a CPU, as many as stay in the cache between two passes.
_CACHED = 1 << 18
_DEVICE_NUMBERS = 1 << 26


def doubled_exponential(values: Tensor) -> Tensor:
    """Return exp(2 x), at least float32, with x clamped to +-43, or +-350 in float64, so that it stays finite.

    Clamping has no effect on tanh(k + q) = +-1 unless the other operand is near or beyond the opposite bound: k = -60
    and q = 50 give tanh(0), not tanh(-10).
    """
    wide = values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
    bound = 43.0 if wide.dtype == torch.float32 else 350.0
    return torch.exp(2.0 * wide.clamp(-bound, bound))


def energies(factors: Tensor, keys: Tensor, score: Tensor, in_parts: bool = True) -> Tensor:
    """Return the energies (..., N) of additive attention up to a constant over the regions.

    tanh(k + q) = 1 - 2 r with r = 1 / (1 + exp(2 k) exp(2 q)). The 1 adds sum(v) to every energy, which has no effect
    on the softmax; a multiplication, a reciprocal and the product with -2 v remain.

    Args:
        factors: exp(2 q) of the queries, (I, ..., A).
        keys: exp(2 k) of the regions, (I, N, A), shared by all queries of a row.
        score: v, (A,).
        in_parts: process as many rows at a time as fit in the CPU's cache; False: all, as a graph export needs.
    """
    # Autograd supports neither the kernel nor the reused buffer.
    if not in_parts or torch.is_grad_enabled():
        return _reciprocals(factors, keys).matmul(-2.0 * score)
    if len(keys) and (kernels := kernels_for(keys)) is not None:
        return kernels.additive_energies(keys, factors.contiguous(), score.contiguous(), None)
    found = factors.new_empty(*factors.shape[:-1], keys.shape[1])
    for rows, part in _parts(factors, keys):
        torch.matmul(part, -2.0 * score, out=found[rows])
    return found


def _reciprocals(factors: Tensor, keys: Tensor, out: Tensor | None = None) -> Tensor:
    """Return r, (I, ..., N, A)."""
    between = (1,) * (factors.ndim - 2)
    expanded = keys.view(keys.shape[0], *between, *keys.shape[1:])  # len() would fix the number in an exported graph
    found = torch.addcmul(keys.new_ones(()), expanded, factors.unsqueeze(-2), out=out)
    return found.reciprocal() if out is None else found.reciprocal_()


def _slopes(r: Tensor) -> Tensor:
    """Return r (1 - r), a quarter of the derivative of tanh(k + q)."""
    return torch.addcmul(r, r, r, value=-1.0)


def _at_once(size: int, device: torch.device) -> int:
    """Return the number of temporaries of `size` elements to process together."""
    return max(1, (_CACHED if device.type == "cpu" else _DEVICE_NUMBERS) // max(1, size))


def _parts(factors: Tensor, keys: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield r for as many rows I as fit in the cache, all in one buffer; allocating costs more than computing."""
    shape = (*factors.shape[1:-1], *keys.shape[1:])
    size = math.prod(shape)
    count = _at_once(size, keys.device)
    buffer = keys.new_empty(min(count, len(keys)) * size)
    for begin in range(0, len(keys), count):
        rows = slice(begin, min(begin + count, len(keys)))
        size_of_part = rows.stop - rows.start
        yield rows, _reciprocals(factors[rows], keys[rows], buffer[: size_of_part * size].view(size_of_part, *shape))


class AdditiveGradient(DeferredGradient):
    """Gradients of the keys of a batch's images and of the score's weights in a time loop.

    No step stores a tensor of size (R, N, A) for its backward pass, since recomputing it is faster than loading it.

    Args:
        keys: k, (B, N, A).
        score: v, (1, A).
        doubled: exp(2 k).
        loop: the loop.
    """

    def __init__(self, keys: Tensor, score: Tensor, doubled: Tensor, loop: DeferredGradients) -> None:
        super().__init__(loop, keys, score)
        self.keys = doubled
        self.score = score.detach()[0].to(self.keys.dtype).contiguous()

    @cached_property
    def rows(self) -> Tensor:
        """exp(2 k) of each caption, (R, N, A)."""
        return self.loop.rows(self.keys)

    def energies(self, query: Tensor) -> Tensor:
        """Return the energies (R, N) of queries (R, A), up to a constant over the regions."""
        found: Tensor = _AdditiveStep.apply(query, self.loop.anchor, self)
        return found

    def energies_of(self, factors: Tensor) -> Tensor:
        """Return the energies (R, N) of factors (R, A)."""
        return energies(factors, self.rows[: len(factors)], self.score)

    def slopes_of(self, call: int, factors: Tensor, grad: Tensor) -> Tensor:
        """Return sum_n g_n r_n (1 - r_n), (R, A), from gradients (R, N) of energies; record them for the inputs'."""
        self.note(call, factors, grad)
        slopes = torch.empty_like(factors)
        for rows, r in _parts(factors, self.rows[: len(factors)]):
            torch.matmul(grad[rows].unsqueeze(-2), _slopes(r), out=slopes[rows].unsqueeze(-2))
        return slopes

    def gradients(self, factors: list[Tensor]) -> tuple[Tensor | None, ...]:
        """Return the gradients of keys and score from every token's query and gradient of its energies."""
        queries, grads = (self.loop.by_image.pad(factor) for factor in factors)  # (B, S, A), (B, S, N)
        keys, score = torch.zeros_like(self.keys), torch.zeros_like(self.score)
        for images, places in self._pieces(*queries.shape[:2]):
            grad = grads[images, places]  # (I, S, N)
            r = _reciprocals(queries[images, places], self.keys[images])  # (I, S, N, A)
            score += torch.mv(r.flatten(0, 2).T, grad.flatten())
            keys[images] += _slopes(r).mul_(grad.unsqueeze(-1)).sum(1)
        return self._of_inputs(keys, score)

    def _pieces(self, images: int, places: int) -> Iterator[tuple[slice, slice]]:
        """Yield slices of images and of their tokens to process together: several images, or a part of one."""
        count = _at_once(math.prod(self.keys.shape[1:]), self.keys.device)
        together = max(1, count // max(1, places))
        for image in range(0, images, together):
            for begin in range(0, places, count):
                yield slice(image, image + together), slice(begin, begin + count)

    def _of_inputs(self, keys: Tensor, score: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients of the inputs from the sums of g r (1 - r), (B, N, A), and of g r, (A,)."""
        keys *= 4.0 * self.score
        return keys.to(self.inputs[0].dtype), (-2.0 * score)[None].to(self.inputs[1].dtype)


class _CompiledGradient(AdditiveGradient):
    """`AdditiveGradient` with native kernels, which compute all gradients of a step in one pass over the keys."""

    def __init__(self, keys: Tensor, score: Tensor, doubled: Tensor, loop: DeferredGradients, kernels: Kernels) -> None:
        super().__init__(keys, score, doubled, loop)
        self._kernels = kernels
        self._sums: tuple[Tensor, Tensor] | None = None
        self._done: set[int] = set()

    def energies_of(self, factors: Tensor) -> Tensor:
        """Return the energies (R, N)."""
        return self._kernels.additive_energies(self.keys, factors, self.score, self.loop.captions.image_of_row)

    def slopes_of(self, call: int, factors: Tensor, grad: Tensor) -> Tensor:
        """Return the slopes (R, A), and add to the sums of the inputs' gradients."""
        if self._sums is None or call in self._done:  # a further backward pass replaces the first
            self._sums, self._done = (torch.zeros_like(self.keys), torch.zeros_like(self.score)), set()
        self._done.add(call)
        image_of_row = self.loop.captions.image_of_row
        return self._kernels.additive_gradients(
            self.keys, factors, grad.to(factors.dtype).contiguous(), image_of_row, self._sums
        )

    def settle(self) -> tuple[Tensor | None, ...]:
        """Return the gradients of the inputs, and reset the sums."""
        sums, self._sums, self._done = self._sums, None, set()
        return (None, None) if sums is None else self._of_inputs(*sums)


def additive_gradient(keys: Tensor, score: Tensor, loop: DeferredGradients) -> AdditiveGradient:
    """Return the deferred gradient of keys (B, N, A) and a score's weights (1, A), native if available."""
    doubled = doubled_exponential(keys.detach()).contiguous()
    kernels = kernels_for(doubled)
    if kernels is None:
        return AdditiveGradient(keys, score, doubled, loop)
    return _CompiledGradient(keys, score, doubled, loop, kernels)


class _AdditiveStep(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, anchor: Tensor, term: AdditiveGradient) -> Tensor:
        factors = doubled_exponential(query).contiguous()
        ctx.save_for_backward(factors)
        ctx.term, ctx.call, ctx.dtype = term, term.call(), query.dtype
        return term.energies_of(factors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (factors,) = ctx.saved_tensors
        term: AdditiveGradient = ctx.term
        slopes = term.slopes_of(ctx.call, factors, grad)
        return (4.0 * term.score * slopes).to(ctx.dtype), None, None
