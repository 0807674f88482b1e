"""Recurrent updates with their gates already summed, so that a decoder decides when each part is computed."""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from seesay.kernels.gru_cell import gru_cell
from seesay.kernels.lstm_cell import lstm_cell
from seesay.models.loop import StepLinear


class LSTMGates(StepLinear):
    """A linear layer to the four gates of an LSTM, (..., I) -> (..., 4H), that holds their bias.

    Its type tells `initialise_like_keras` where the forget gate's bias is.
    """


def gru_update(input_gates: Tensor, state_gates: Tensor, hidden: Tensor) -> Tensor:
    """Returns the next hidden state (..., H) of a GRU; see `seesay.kernels.gru_cell`.

    Args:
        input_gates: the input's side of reset, update and candidate, (..., 3H).
        state_gates: the state's side of the same, (..., 3H).
        hidden: previous state, (..., H); its precision is kept.
    """
    return gru_cell(input_gates.to(hidden.dtype), state_gates.to(hidden.dtype), hidden)


def lstm_update(parts: Sequence[Tensor], cell: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the next hidden state and cell (..., H) of an LSTM; see `seesay.kernels.lstm_cell`.

    Args:
        parts: whose sum is input, forget, candidate and output before their activations, (..., 4H) each, or what
            broadcasts to that.
        cell: previous cell, (..., H); its precision is kept.
    """
    return lstm_cell(functools.reduce(torch.add, parts).to(cell.dtype), cell)


def masked_mean(memory: Tensor, memory_mask: Tensor | None) -> Tensor:
    """Returns the mean (B, D) of the regions of memory (B, N, D) that the mask (B, N) lets through."""
    if memory_mask is None:
        return memory.mean(1)
    weights = memory_mask.to(memory.dtype)
    return torch.einsum("bnd,bn->bd", memory, weights) / weights.sum(1, keepdim=True).clamp(min=1.0)
