"""The elementwise part of a GRU, after its matrix products."""

from typing import Any

import torch
from torch import Tensor

from seesay.kernels.native import call, native, rows_of


def gru_cell(inputs: Tensor, recurrent: Tensor, hidden: Tensor) -> Tensor:
    """Return the next hidden state (..., H) of a GRU whose reset gate acts after the recurrent product.

    Cho et al. 2014 in the form of cuDNN, torch.nn.GRU and Keras' `reset_after=True`:
    r, z = sigmoid(x_rz + h_rz), n = tanh(x_n + r * h_n), h' = n + z * (h - n).

    Args:
        inputs: the input's side of reset, update and candidate, (..., 3H).
        recurrent: the state's side of the same, (..., 3H).
        hidden: previous state, (..., H).
    """
    fits = inputs.shape == recurrent.shape == (*hidden.shape[:-1], 3 * hidden.shape[-1])
    if not fits or native(inputs, recurrent, hidden) is None or torch.compiler.is_compiling():
        return reference(inputs, recurrent, hidden)
    new, _ = _cell(inputs, recurrent, hidden)
    assert isinstance(new, Tensor)
    return new


def reference(inputs: Tensor, recurrent: Tensor, hidden: Tensor) -> Tensor:
    """Compute `gru_cell` in plain torch."""
    size = hidden.shape[-1]
    both = torch.sigmoid(inputs[..., : 2 * size] + recurrent[..., : 2 * size])
    reset, update = both[..., :size], both[..., size:]
    candidate = torch.tanh(inputs[..., 2 * size :] + reset * recurrent[..., 2 * size :])
    return torch.lerp(candidate, hidden, update)


@torch.library.custom_op("seesay::gru_cell", mutates_args=(), device_types="cpu")
def _cell(inputs: Tensor, recurrent: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Return the next state and the gates (..., 3H)."""
    library = native(inputs, recurrent, hidden)
    assert library is not None
    new, gates = torch.empty_like(hidden), torch.empty_like(recurrent)
    call(library.gru_cell, inputs, recurrent, hidden, *rows_of(hidden), new, gates)
    return new, gates


@_cell.register_fake
def _(inputs: Tensor, recurrent: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(hidden), torch.empty_like(recurrent)


@torch.library.custom_op("seesay::gru_cell_backward", mutates_args=(), device_types="cpu")
def _cell_backward(grad: Tensor, recurrent: Tensor, hidden: Tensor, gates: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    library = native(grad, recurrent, hidden, gates)
    assert library is not None
    grads = torch.empty_like(gates), torch.empty_like(gates), torch.empty_like(hidden)
    call(library.gru_cell_backward, grad, recurrent, hidden, gates, *rows_of(hidden), *grads)
    return grads


@_cell_backward.register_fake
def _(grad: Tensor, recurrent: Tensor, hidden: Tensor, gates: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(gates), torch.empty_like(gates), torch.empty_like(hidden)


def _setup(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[1:], output[1])


def _backward(ctx: Any, grad: Tensor, _: None) -> tuple[Tensor, Tensor, Tensor]:
    grads: tuple[Tensor, Tensor, Tensor] = _cell_backward(grad.contiguous(), *ctx.saved_tensors)
    return grads


_cell.register_autograd(_backward, setup_context=_setup)
