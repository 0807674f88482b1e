"""What stays the same in a time loop: its gradient is worked out once, after the last step, not added up in each."""

import contextlib
from collections.abc import Iterator
from functools import cached_property
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from seesay.models.kernels import Kernels, kernels_for
from seesay.models.packing import PackedCaptions
from seesay.models.products import Linear, outer_product, pack, product, quick

Factors = tuple[Tensor, ...]
Term = TypeVar("Term", bound="DeferredGradient")


class DeferredGradient:
    """Tensors that every step uses, with what each step's backward pass leaves for their gradients.

    Attributes:
        loop: the loop that they are used in.
        inputs: the tensors, whose gradients `gradients` returns.
    """

    def __init__(self, loop: "DeferredGradients", *inputs: Tensor) -> None:
        self.loop = loop
        self.inputs = inputs
        self._notes: dict[int, Factors] = {}
        self._calls = 0

    def call(self) -> int:
        """Returns the number of this use of the term."""
        self._calls += 1
        return self._calls

    def note(self, call: int, *factors: Tensor) -> None:
        """Keeps the factors of a use's part of the gradient; a second backward pass takes the first's place."""
        self._notes[call] = factors

    def settle(self) -> tuple[Tensor | None, ...]:
        """Returns the gradients of the inputs, and forgets the notes."""
        notes, self._notes = [self._notes[call] for call in sorted(self._notes)], {}
        if not notes:
            return (None,) * len(self.inputs)
        return self.gradients([torch.cat(factors) for factors in zip(*notes, strict=True)])

    def gradients(self, factors: list[Tensor]) -> tuple[Tensor | None, ...]:
        """Returns the gradients of the inputs from the factors of all tokens, (M, ...) each, packed."""
        raise NotImplementedError


class DeferredGradients:
    """The loop over the words of a batch under teacher forcing.

    Autograd adds up the gradient of what every step uses (weights, keys, memory) step by step: a product as large
    as the tensor itself each time, and a sum. Here a step's backward pass only notes the factors of its product;
    when the last of them is through, one product over all tokens gives the same gradient.

    Args:
        captions: the batch.
        images: images B of the batch.
        device_type: where it runs, for the precision that autocast asks for.
    """

    def __init__(self, captions: PackedCaptions, images: int, device_type: str) -> None:
        self.captions = captions
        self.by_image = captions.by_image(images)
        asked = torch.is_autocast_enabled(device_type)
        self.dtype = torch.get_autocast_dtype(device_type) if asked else None
        self.anchor = torch.zeros(())
        self._terms: dict[tuple[nn.Module, str], DeferredGradient] = {}

    def cast(self, tensor: Tensor) -> Tensor:
        """Returns a tensor in the precision of the loop's products."""
        return tensor if self.dtype is None else tensor.to(self.dtype)

    def rows(self, tensor: Tensor) -> Tensor:
        """Returns a tensor (B, ...), one an image, as (R, ...), one a caption, without gradient."""
        return tensor.detach().index_select(0, self.captions.image_of_row)

    def add(self, owner: nn.Module, name: str, term: DeferredGradient) -> None:
        """Takes in a term of a module; all of them before `begin`."""
        self._terms[owner, name] = term

    def term(self, owner: nn.Module, name: str, kind: type[Term]) -> Term:
        """Returns the term that a module has added under a name."""
        found = self._terms[owner, name]
        assert isinstance(found, kind)
        return found

    def begin(self) -> None:
        """Ties the terms' gradients to the end of the backward pass through the steps."""
        terms = list(self._terms.values())
        self.anchor = _Accumulation.apply(terms, *[tensor for term in terms for tensor in term.inputs])

    def end(self) -> None:
        """Lets go of the terms, which the steps have taken.

        They know the loop: a batch's tensors would stay until Python looks for such circles, gigabytes later.
        """
        self._terms, self.anchor = {}, torch.zeros(())


class _Accumulation(torch.autograd.Function):
    """Gives the terms' gradients once every step that took the anchor has had its backward pass."""

    @staticmethod
    def forward(ctx: Any, terms: list[DeferredGradient], *inputs: Tensor) -> Tensor:
        ctx.terms = terms
        ctx.set_materialize_grads(False)
        return torch.zeros((), device=inputs[0].device)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: Tensor | None) -> tuple[Tensor | None, ...]:
        return (None, *[gradient for term in ctx.terms for gradient in term.settle()])


class DeferredModule(nn.Module):
    """A module that knows the time loop it is in; `loop` is None outside of any."""

    loop: DeferredGradients | None = None


@contextlib.contextmanager
def deferring_gradients(module: nn.Module, loop: DeferredGradients) -> Iterator[None]:
    """Puts all parts of a module into a time loop; its linear layers add their weights to those it holds."""
    parts = [part for part in module.modules() if isinstance(part, DeferredModule)]
    try:
        for part in parts:
            part.loop = loop
            if isinstance(part, DeferredLinear):
                loop.add(part, "weights", LinearGradient(part, loop))
        loop.begin()
        yield
    finally:
        loop.end()
        for part in parts:
            part.loop = None


class DeferredLinear(Linear, DeferredModule):
    """A linear layer that is applied at each step of a time loop."""

    def forward(self, x: Tensor) -> Tensor:
        """Returns W x + b, (..., O), of x (..., I); in a loop (R, I), R running captions."""
        if self.loop is None:
            return super().forward(x)
        return self.loop.term(self, "weights", LinearGradient).product(x)


class LinearGradient(DeferredGradient):
    """A layer's weight (O, I) and bias (O,)."""

    def __init__(self, layer: nn.Linear, loop: DeferredGradients) -> None:
        super().__init__(loop, *([layer.weight] if layer.bias is None else [layer.weight, layer.bias]))

    @cached_property
    def weight(self) -> Tensor:
        """The weight in the loop's precision; made by the first step, as not every layer is used in the loop."""
        return self.loop.cast(self.inputs[0].detach())

    @cached_property
    def bias(self) -> Tensor | None:
        """The bias, likewise."""
        return self.loop.cast(self.inputs[1].detach()) if len(self.inputs) > 1 else None

    @cached_property
    def _packed(self) -> tuple[Tensor, Tensor] | None:
        """The weight and its transpose laid out for the products of all steps, where torch can do that."""
        if not quick(self.weight, self.weight.dtype):
            return None
        rows = self.loop.captions.rows
        return pack(self.weight, rows), pack(self.weight.T, rows)

    def times(self, x: Tensor) -> Tensor:
        """Returns W x + b, (R, O), of x (R, I), without gradient."""
        if self._packed is None or not len(x):
            return F.linear(x, self.weight, self.bias)
        return product(x, self._packed[0], self.bias)

    def times_backward(self, grad: Tensor) -> Tensor:
        """Returns grad W, (R, I), of grad (R, O)."""
        if self._packed is None or not len(grad):
            return torch.mm(grad, self.weight)
        return product(grad, self._packed[1])

    def product(self, x: Tensor) -> Tensor:
        """Returns W x + b, (R, O), of x (R, I)."""
        found: Tensor = _LinearStep.apply(self.loop.cast(x), self.loop.anchor, self)
        return found

    def gradients(self, factors: list[Tensor]) -> tuple[Tensor | None, ...]:
        """Returns the gradients of weight and bias from every token's input and gradient."""
        x, grad = factors
        weight = outer_product(grad, x).to(self.inputs[0].dtype)
        return (weight,) if self.bias is None else (weight, grad.sum(0, dtype=self.inputs[1].dtype))


class _LinearStep(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, anchor: Tensor, term: LinearGradient) -> Tensor:
        ctx.save_for_backward(x)
        ctx.term, ctx.call = term, term.call()
        return term.times(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        ctx.term.note(ctx.call, x, grad)
        return (ctx.term.times_backward(grad) if ctx.needs_input_grad[0] else None), None, None


class ImageGradient(DeferredGradient):
    """A matrix an image (B, ..., K, L), by which the steps multiply vectors of their captions (R, ..., K)."""

    def __init__(self, matrix: Tensor, loop: DeferredGradients) -> None:
        super().__init__(loop, matrix)

    @cached_property
    def rows(self) -> Tensor:
        """The matrix of each caption, (R, ..., K, L); made by the first step, as not every attention needs all."""
        return self.loop.rows(self.loop.cast(self.inputs[0]))

    @cached_property
    def _compiled(self) -> tuple[Kernels, Tensor] | None:
        """What multiplies by the image's own matrix, (B, K, L) float32, where it can be and there is one an image.

        The copies of `rows`, one a caption, take longer to fetch than to multiply by.
        """
        matrix = self.inputs[0].detach()
        if matrix.ndim != 3 or matrix.dtype == torch.float64:
            return None
        matrix = matrix.float().contiguous()
        kernels = kernels_for(matrix)
        return None if kernels is None else (kernels, matrix)

    def product(self, x: Tensor) -> Tensor:
        """Returns x times the matrix of its caption's image, (R, ..., L), of x (R, ..., K)."""
        x = self.loop.cast(x) if self._compiled is None else x.float()
        found: Tensor = _ImageStep.apply(x, self.loop.anchor, self)
        return found

    def times(self, x: Tensor) -> Tensor:
        """Returns the product without gradient."""
        if self._compiled is None:
            return torch.matmul(x.unsqueeze(-2), self.rows[: len(x)]).squeeze(-2)
        kernels, matrix = self._compiled
        return kernels.image_product(matrix, x.contiguous(), self.loop.captions.image_of_row)

    def times_backward(self, grad: Tensor) -> Tensor:
        """Returns grad (R, ..., L) times the transposed matrix, (R, ..., K)."""
        if self._compiled is None:
            return torch.matmul(self.rows[: len(grad)], grad.unsqueeze(-1)).squeeze(-1)
        kernels, matrix = self._compiled
        return kernels.image_product_back(matrix, grad.contiguous(), self.loop.captions.image_of_row)

    def gradients(self, factors: list[Tensor]) -> tuple[Tensor | None, ...]:
        """Returns the gradient of the matrix from every token's vector and gradient."""
        x, grad = (self.loop.by_image.pad(self.loop.cast(factor)).movedim(1, -2) for factor in factors)
        return (torch.matmul(x.transpose(-1, -2), grad).to(self.inputs[0].dtype),)


class _ImageStep(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, anchor: Tensor, term: ImageGradient) -> Tensor:
        ctx.save_for_backward(x)
        ctx.term, ctx.call = term, term.call()
        return term.times(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        ctx.term.note(ctx.call, x, grad)
        return (ctx.term.times_backward(grad) if ctx.needs_input_grad[0] else None), None, None
