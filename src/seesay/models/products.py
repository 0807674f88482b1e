"""Products with a layer's weight, by the quickest way that torch has for them on a processor."""

import functools
import platform
from typing import Any, NamedTuple, Self
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from seesay.models.kernels import Kernels, kernels_for

_MANY, _FEW = 32, 4  # rows that are filled up to: of a batch's tokens, of a step's captions
_SEARCHED = 32  # hypotheses of a search, about
_COPIED = 1 << 21  # numbers whose copy takes less time than compiling a product


class Prepackable(nn.Module):
    """A module that can prepare itself for being used, not trained.

    Attributes:
        fixed: its weights do not change any more.
    """

    fixed = False

    def fix(self) -> None:
        """Takes the weights for what they will be from now on, until the module is put in training."""
        self.fixed = True

    def unpack(self) -> None:
        """Lets go of what was made of the weights, which are going to change."""
        self.fixed = False

    def train(self, mode: bool = True) -> Self:
        """Puts the module in training or evaluation; in training its weights are no longer fixed."""
        if mode:
            self.unpack()
        return super().train(mode)


class Linear(Prepackable, nn.Linear):
    """`torch.nn.Linear`, in half of its time where the width is odd and some tenths less elsewhere.

    float32 products of torch go to a library that some processors are slow with; the library of its bfloat16
    products has float32 as well. A weight that is fixed is packed and rounded once for all calls.
    """

    @property
    def matrix(self) -> Tensor:
        """W, (O, I)."""
        return self.weight

    def forward(self, x: Tensor) -> Tensor:
        """Returns W x + b, (..., O), of x (..., I)."""
        weight, bias = self.matrix, self.bias
        asked = torch.is_autocast_enabled(x.device.type)
        dtype = torch.get_autocast_dtype(x.device.type) if asked else x.dtype
        if (weight.dtype != x.dtype and not asked) or not quick(x, dtype):
            return F.linear(x, weight, bias)
        if torch.is_grad_enabled():
            return linear(x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype))
        if self.fixed and x.shape[-1] == weight.shape[1]:  # what is packed does not tell its width
            return _packed_once(self, dtype)(x.to(dtype))
        # Autocast keeps the rounded weight from call to call, as long as it lasts.
        return F.linear(x, weight, bias) if asked else product(x, weight, bias)

    def unpack(self) -> None:
        """Lets go of the packed weight."""
        super().unpack()
        _packed.pop(self, None)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Returns W x + b, (..., O), of x (..., I) in a `quick` precision, with gradients."""
    found: Tensor = _Linear.apply(x, weight, bias)
    return found


def prepack_weights(network: nn.Module) -> None:
    """Tells a network that is only used from now on, not trained, that its weights do not change any more.

    It must be in evaluation mode, on the device where it is to be used, and not in use meanwhile. That the weights have
    not changed is nothing to look up: torch does not count the changes that some optimizers make.
    """
    for module in network.modules():
        if isinstance(module, Prepackable):
            module.fix()


class _Packed(NamedTuple):
    """A layer's weight as the quickest product likes it best: our own in float32, torch's in half precision."""

    dtype: torch.dtype
    weight: Tensor
    bias: Tensor | None
    outputs: int
    kernels: Kernels | None

    def __call__(self, x: Tensor) -> Tensor:
        """Returns W x + b, (..., O), of x (..., I)."""
        if self.kernels is None:
            return product(x, self.weight, self.bias)
        return self.kernels.rows_product(x.contiguous(), self.weight, self.bias, self.outputs)


# Not in the layers themselves, so that these are copied and saved without.
_packed: WeakKeyDictionary[Linear, _Packed] = WeakKeyDictionary()


def _packed_once(layer: Linear, dtype: torch.dtype) -> _Packed:
    found = _packed.get(layer)
    if found is None or found.dtype != dtype:
        weight, bias = layer.matrix.detach().to(dtype).contiguous(), layer.bias
        kernels = kernels_for(weight)
        packed = pack(weight, _SEARCHED) if kernels is None else kernels.pack_rows(weight)
        found = _Packed(dtype, packed, None if bias is None else bias.to(dtype), len(weight), kernels)
        _packed[layer] = found
    return found


def quick(x: Tensor, dtype: torch.dtype) -> bool:
    """Tells whether `product` and `pack` are there for x (..., I) in a precision."""
    if x.device.type != "cpu" or not x.numel() or torch.compiler.is_compiling() or torch._C._get_tracing_state():
        return False
    return dtype in _dtypes()


@functools.cache
def _dtypes() -> frozenset[torch.dtype]:
    operations = torch.ops.mkldnn
    if not library_has("_linear_pointwise", "_reorder_linear_weight"):
        return frozenset()
    bfloat16 = hasattr(operations, "_is_mkldnn_bf16_supported") and operations._is_mkldnn_bf16_supported()
    return frozenset({torch.float32, torch.bfloat16} if bfloat16 else {torch.float32})


def library_has(*operations: str) -> bool:
    """Tells whether torch's library for processors is there with some operations, on one that it is quick on."""
    here = torch.backends.mkldnn.is_available() and platform.machine() in ("x86_64", "AMD64")  # type: ignore[no-untyped-call]
    return here and all(hasattr(torch.ops.mkldnn, name) for name in operations)


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Returns W x + b of `quick` precision, without gradient; the weight may come from `pack`."""
    rows = x.reshape(-1, x.shape[-1])
    found: Tensor = torch.ops.mkldnn._linear_pointwise(_filled_up(rows), weight, bias, "none", [], "")
    return found[: len(rows)].view(*x.shape[:-1], found.shape[-1])


def outer_product(left: Tensor, right: Tensor) -> Tensor:
    """Returns left^T right, (O, I), of left (M, O) and right (M, I): a weight's gradient."""
    if quick(left, left.dtype) and left.numel() <= _COPIED:
        left, right = _filled_up(left), _filled_up(right)
    return torch.mm(left.T, right)


def _filled_up(rows: Tensor) -> Tensor:
    """Returns a matrix with rows of zeros below, up to one of few numbers of rows.

    For each number of rows the library compiles a product of its own, in a millisecond, and keeps a thousand of
    them; hardly two batches have the same number of tokens.
    """
    count = len(rows)
    missing = filled_rows(count) - count
    return F.pad(rows, (0, 0, 0, missing)) if missing else rows


def filled_rows(count: int) -> int:
    """Returns how many rows a product of `count` rows is computed with."""
    return count + -count % (_MANY if count > 4 * _MANY else _FEW)


def pack(weight: Tensor, rows: int) -> Tensor:
    """Returns a weight (O, I) laid out for many products with up to so many rows; of use to `product` alone."""
    found: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), rows)
    return found


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        rows = grad.reshape(-1, grad.shape[-1])
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        return (
            product(grad, weight.T) if needs_x else None,
            outer_product(rows, x.reshape(-1, x.shape[-1])) if needs_weight else None,
            rows.sum(0) if needs_bias else None,
        )
