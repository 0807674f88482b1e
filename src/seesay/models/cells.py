"""GRU and LSTM updates from precomputed gates, so that a decoder can compute their parts outside the time loop."""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from seesay.kernels.gru_cell import gru_cell
from seesay.kernels.lstm_cell import lstm_cell
from seesay.models.loop import StepLinear


class LSTMGates(StepLinear):
    """A linear layer to the four gates of an LSTM, (..., I) -> (..., 4H), that holds their bias.

    `initialise_like_keras` recognises the forget gate's bias by this type.
    """


def gru_update(input_gates: Tensor, state_gates: Tensor, hidden: Tensor) -> Tensor:
    """Return the next hidden state (..., H) of a GRU; see `seesay.kernels.gru_cell`.

    Args:
        input_gates: the input's part of reset, update and candidate, (..., 3H).
        state_gates: the state's part of the same, (..., 3H).
        hidden: previous state, (..., H); its precision is kept.
    """
    return gru_cell(input_gates.to(hidden.dtype), state_gates.to(hidden.dtype), hidden)


def lstm_update(parts: Sequence[Tensor], cell: Tensor) -> tuple[Tensor, Tensor]:
    """Return the next hidden state and cell (..., H) of an LSTM; see `seesay.kernels.lstm_cell`.

    Args:
        parts: their sum is input, forget, candidate and output gates before activation; each broadcasts to (..., 4H).
        cell: previous cell, (..., H); the result has its dtype.
    """
    return lstm_cell(functools.reduce(torch.add, parts).to(cell.dtype), cell)


def masked_mean(memory: Tensor, memory_mask: Tensor | None) -> Tensor:
    """Return the mean (B, D) over the regions of memory (B, N, D) where the mask (B, N) is True."""
    if memory_mask is None:
        return memory.mean(1)
    weights = memory_mask.to(memory.dtype)
    return torch.einsum("bnd,bn->bd", memory, weights) / weights.sum(1, keepdim=True).clamp(min=1.0)
