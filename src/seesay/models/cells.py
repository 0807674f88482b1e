"""GRU and LSTM updates from precomputed gates, so that a decoder can compute their parts outside the time loop."""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from seesay.models.loop import StepLinear


class LSTMGates(StepLinear):
    """A linear layer to the four gates of an LSTM, (..., I) -> (..., 4H), that holds their bias.

    `initialise_like_keras` recognises the forget gate's bias by this type.
    """


def gru_update(input_gates: Tensor, state_gates: Tensor, hidden: Tensor) -> Tensor:
    """Return the next hidden state (..., H) of a GRU whose reset gate acts after the recurrent product.

    Cho et al. 2014 in the form of cuDNN, torch.nn.GRU and Keras' `reset_after=True`:
    r, z = sigmoid(x_rz + h_rz), n = tanh(x_n + r * h_n), h' = n + z * (h - n).

    Args:
        input_gates: the input's part of reset, update and candidate, (..., 3H).
        state_gates: the state's part of the same, (..., 3H).
        hidden: previous state, (..., H); its precision is kept.
    """
    size = hidden.shape[-1]
    inputs, recurrent = input_gates.to(hidden.dtype), state_gates.to(hidden.dtype)
    # Backward of a split is one concatenation; backward of slices fills a tensor of zeros for each.
    (input_part, input_candidate), (state_part, state_candidate) = (
        torch.split(gates, [2 * size, size], dim=-1) for gates in (inputs, recurrent)
    )
    reset, update = torch.sigmoid(input_part + state_part).chunk(2, dim=-1)
    candidate = torch.tanh(torch.addcmul(input_candidate, reset, state_candidate))
    return torch.lerp(candidate, hidden, update)


def lstm_update(parts: Sequence[Tensor], cell: Tensor) -> tuple[Tensor, Tensor]:
    """Return the next hidden state and cell (..., H) of an LSTM.

    Hochreiter and Schmidhuber 1997 with forget gates, in torch's order: i, f, o = sigmoid, g = tanh;
    c' = f * c + i * g, h' = o * tanh(c').

    Args:
        parts: their sum is input, forget, candidate and output gates before activation; each broadcasts to (..., 4H).
        cell: previous cell, (..., H); the result has its dtype.
    """
    gates = functools.reduce(torch.add, parts).to(cell.dtype)
    incoming, forget, candidate, outgoing = gates.chunk(4, dim=-1)
    cell = torch.sigmoid(forget) * cell + torch.sigmoid(incoming) * torch.tanh(candidate)
    return torch.sigmoid(outgoing) * torch.tanh(cell), cell


def masked_mean(memory: Tensor, memory_mask: Tensor | None) -> Tensor:
    """Return the mean (B, D) over the regions of memory (B, N, D) where the mask (B, N) is True."""
    if memory_mask is None:
        return memory.mean(1)
    weights = memory_mask.to(memory.dtype)
    return torch.einsum("bnd,bn->bd", memory, weights) / weights.sum(1, keepdim=True).clamp(min=1.0)
