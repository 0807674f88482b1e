"""The elementwise part of an LSTM, after its matrix products."""

from typing import Any

import torch
from torch import Tensor

from seesay.kernels.native import call, native, rows_of


def lstm_cell(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """Return the next hidden state and cell (..., H) of an LSTM.

    Hochreiter and Schmidhuber 1997 with forget gates, in torch's order: i, f, o = sigmoid, g = tanh;
    c' = f * c + i * g, h' = o * tanh(c').

    Args:
        gates: input, forget, candidate and output before their activations, (..., 4H).
        cell: previous cell, (..., H).
    """
    fits = gates.shape == (*cell.shape[:-1], 4 * cell.shape[-1])
    if not fits or native(gates, cell) is None or torch.compiler.is_compiling():
        return reference(gates, cell)
    hidden, new, _ = _cell(gates, cell)
    return hidden, new


def reference(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """Compute `lstm_cell` in plain torch."""
    incoming, forget, candidate, outgoing = gates.chunk(4, dim=-1)
    cell = torch.sigmoid(forget) * cell + torch.sigmoid(incoming) * torch.tanh(candidate)
    return torch.sigmoid(outgoing) * torch.tanh(cell), cell


@torch.library.custom_op("seesay::lstm_cell", mutates_args=(), device_types="cpu")
def _cell(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the next state, the next cell and the gates after their activations."""
    library = native(gates, cell)
    assert library is not None
    hidden, new, active = torch.empty_like(cell), torch.empty_like(cell), gates.clone()
    call(library.lstm_cell, active, cell, *rows_of(cell), hidden, new)
    return hidden, new, active


@_cell.register_fake
def _(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(cell), torch.empty_like(cell), torch.empty_like(gates)


@torch.library.custom_op("seesay::lstm_cell_backward", mutates_args=(), device_types="cpu")
def _cell_backward(
    grad_hidden: Tensor, grad_new: Tensor, active: Tensor, cell: Tensor, new: Tensor
) -> tuple[Tensor, Tensor]:
    library = native(grad_hidden, grad_new, active, cell, new)
    assert library is not None
    grads = torch.empty_like(active), torch.empty_like(cell)
    call(library.lstm_cell_backward, grad_hidden, grad_new, active, cell, new, *rows_of(cell), *grads)
    return grads


@_cell_backward.register_fake
def _(grad_hidden: Tensor, grad_new: Tensor, active: Tensor, cell: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(active), torch.empty_like(cell)


def _setup(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[2], inputs[1], output[1])


def _backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor, Tensor]:
    active, cell, new = ctx.saved_tensors
    of_hidden, of_new = (torch.zeros_like(cell) if grad is None else grad.contiguous() for grad in grads[:2])
    found: tuple[Tensor, Tensor] = _cell_backward(of_hidden, of_new, active, cell, new)
    return found


_cell.register_autograd(_backward, setup_context=_setup)
