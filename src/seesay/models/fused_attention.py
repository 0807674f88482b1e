"""Additive attention in a time loop that is one function to autograd: a call of C a step, forward and backward."""

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from seesay.models.additive import doubled_exponential
from seesay.models.kernels import kernels_for
from seesay.models.packing import PackedCaptions
from seesay.models.products import quick

SPARE = 31
"""Rows that a step's product may reach beyond its own, as its number of rows is rounded up."""


class Step(NamedTuple):
    """A step's place among the tokens of a batch.

    Attributes:
        begin: its first token.
        before: the first of the step before; 0 of the first step.
        size: captions that run, R.
    """

    begin: int
    before: int
    size: int


def steps_of(captions: PackedCaptions) -> list[Step]:
    """Returns the steps of a batch."""
    begins = [0, *accumulate(captions.sizes)][:-1]
    return [Step(*places) for places in zip(begins, [0, *begins[:-1]], captions.sizes, strict=True)]


def can_fuse(memory: Tensor, weight: Tensor) -> bool:
    """Tells whether there are fused loops for memory (B, N, D) and a weight of the loop's."""
    if weight.dtype != torch.float32 or memory.dtype == torch.float64 or not memory.numel():
        return False
    asked = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
    return quick(weight, asked) and kernels_for(torch.empty(1, device=memory.device)) is not None


class FusedAttention:
    """What the steps of a batch see, and what they leave for the backward pass, M tokens in their order.

    Args:
        captions: the batch.
        memory: (B, N, D).
        keys: of the attention, (B, N, A).
        score: v, (1, A).
        dtype: of the loop's products.

    Attributes:
        kernels: where it is computed.
        weights: where each token looked, (M, N) float32.
        contexts: what it saw, (M + spare, D) in the products' precision.
    """

    def __init__(
        self, captions: PackedCaptions, memory: Tensor, keys: Tensor, score: Tensor, dtype: torch.dtype
    ) -> None:
        self._captions = captions
        self._doubled, self._seen = doubled_exponential(keys).contiguous(), memory.float().contiguous()
        self._score = score[0].float().contiguous()
        kernels = kernels_for(self._doubled)
        assert kernels is not None
        self.kernels, self._types = kernels, (memory.dtype, keys.dtype)
        tokens, (_, regions, size) = sum(captions.sizes), memory.shape
        self._factors = self._doubled.new_empty(tokens, keys.shape[2])
        self.weights = self._doubled.new_empty(tokens, regions)
        self.contexts = self._doubled.new_empty(tokens + SPARE, size, dtype=dtype)
        self._sums: tuple[Tensor, Tensor] | None = None

    def look(self, step: Step, projected: Tensor) -> None:
        """Fills in a step's weights and contexts, of (>= R, A and more), which begin with the queries."""
        results = [each[step.begin :] for each in (self._factors, self.weights, self.contexts)]
        image = self._captions.image_of_row
        self.kernels.attend(self._doubled, projected, self._score, self._seen, image, step.size, results)

    def attend_backward(self, step: Step, grad: Tensor, projected_grad: Tensor, more: Tensor | None = None) -> None:
        """Fills in the gradient of a step's queries.

        Args:
            step: the last one first.
            grad: of its contexts, (R, D).
            projected_grad: (>= R, A and more), in the precision of `grad`; the first A of R rows are filled.
            more: gradient of its weights but for that, (R, N) float32; None = nothing.
        """
        if self._sums is None:
            self._sums = torch.zeros_like(self._doubled), torch.zeros_like(self._score)
        given, looked = (
            (self._doubled, self._score, self._seen),
            (self._factors[step.begin :], self.weights[step.begin :]),
        )
        image = self._captions.image_of_row
        self.kernels.attend_backward(given, looked, grad, image, step.size, self._sums, projected_grad, more)

    def gradients(self, contexts: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the gradients of memory, keys and score, after the last `attend_backward`, and begins anew.

        Args:
            contexts: gradients of the steps' contexts, (R, D) each, in the order of the steps.
        """
        assert self._sums is not None
        (keys, score), self._sums = self._sums, None
        by_image, (memory_type, keys_type) = self._captions.by_image(len(self._seen)), self._types
        grad = torch.cat(list(contexts))
        looked_at, told = (by_image.pad(each) for each in (self.weights.to(grad.dtype), grad))
        memory = torch.matmul(looked_at.transpose(1, 2), told)
        return memory.to(memory_type), keys.mul_(4.0 * self._score).to(keys_type), (-2.0 * score)[None]
