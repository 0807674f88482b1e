"""Linear layers of a few rows, as in decoding, with a weight that is laid out once for all calls."""

import torch.nn.functional as F
from torch import Tensor

from seesay.kernels.native import call, native


def pack_linear(weight: Tensor) -> Tensor | None:
    """Return a weight (O, I) laid out for `packed_linear`, (blocks, I, outputs per block).

    None where the native library is absent or does not work on such a weight: `F.linear` is faster than the reference.
    """
    weight = weight.detach().contiguous()
    library = native(weight)
    if library is None:
        return None
    width = int(library.packed_linear_width())
    padded = F.pad(weight, (0, 0, 0, -len(weight) % width))
    return padded.view(-1, width, weight.shape[1]).transpose(1, 2).contiguous()


def packed_linear(x: Tensor, packed: Tensor, bias: Tensor | None, outputs: int) -> Tensor:
    """Return W x + b, (..., O), without gradient.

    The result of a row does not depend on the other rows.

    Args:
        x: (..., I) float32.
        packed: W from `pack_linear`.
        bias: b, (O,).
        outputs: O.

    Raises:
        RuntimeError: x is of another width.
    """
    if x.shape[-1] != packed.shape[1]:
        raise RuntimeError(f"x has {x.shape[-1]} inputs, the packed weight {packed.shape[1]}")
    x = x.contiguous()
    library = native(x, packed, bias)
    if library is None:
        return reference(x, packed, bias, outputs)
    inputs = x.shape[-1]
    found = x.new_empty(*x.shape[:-1], outputs)
    call(library.packed_linear, x, packed, bias, x.numel() // inputs, inputs, outputs, found)
    return found


def reference(x: Tensor, packed: Tensor, bias: Tensor | None, outputs: int) -> Tensor:
    """Compute `packed_linear` in plain torch."""
    return F.linear(x, packed.transpose(1, 2).flatten(0, 1)[:outputs], bias)
