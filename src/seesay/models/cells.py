"""GRU and LSTM updates from precomputed gates, so that a decoder can compute their parts outside the time loop."""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from seesay.models.kernels import Kernels, kernels_for
from seesay.models.loop import DeferredLinear


class LSTMGates(DeferredLinear):
    """A linear layer to the four gates of an LSTM, (..., I) -> (..., 4H), with their bias.

    `initialise_like_keras` recognises the forget gate's bias by this type.
    """


def gru_update(input_gates: Tensor, state_gates: Tensor, hidden: Tensor) -> Tensor:
    """Return the next hidden state (..., H) of a GRU whose reset gate is applied after the recurrent product.

    Cho et al. 2014 in the form of cuDNN, torch.nn.GRU and Keras' `reset_after=True`:
    r, z = sigmoid(x_rz + h_rz), n = tanh(x_n + r * h_n), h' = n + z * (h - n).

    Args:
        input_gates: the input's part of reset, update and candidate, (..., 3H).
        state_gates: the state's part of the same, (..., 3H).
        hidden: previous state, (..., H).
    """
    size = hidden.shape[-1]
    kernels = kernels_for(hidden) and kernels_for(input_gates, state_gates, half=True)
    if kernels is not None and input_gates.shape == state_gates.shape == (*hidden.shape[:-1], 3 * size):
        if not torch.is_grad_enabled():
            return kernels.gru(input_gates, state_gates, hidden)[0]
        found: Tensor = _GRUUpdate.apply(input_gates, state_gates, hidden, kernels)
        return found
    input_gates, state_gates = input_gates.to(hidden.dtype), state_gates.to(hidden.dtype)
    both = torch.sigmoid(input_gates[..., : 2 * size] + state_gates[..., : 2 * size])
    reset, update = both[..., :size], both[..., size:]
    candidate = torch.tanh(input_gates[..., 2 * size :] + reset * state_gates[..., 2 * size :])
    return torch.lerp(candidate, hidden, update)


class _GRUUpdate(torch.autograd.Function):
    """The update as a native kernel, one pass each forward and backward."""

    @staticmethod
    def forward(ctx: Any, input_gates: Tensor, state_gates: Tensor, hidden: Tensor, kernels: Kernels) -> Tensor:
        new, kept = kernels.gru(input_gates, state_gates, hidden)
        ctx.save_for_backward(state_gates, hidden, kept)
        ctx.kernels = kernels
        return new

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return (*ctx.kernels.gru_backward(grad.contiguous(), *ctx.saved_tensors), None)


def lstm_update(parts: Sequence[Tensor], cell: Tensor) -> tuple[Tensor, Tensor]:
    """Return the next hidden state and cell (..., H) of an LSTM.

    Hochreiter and Schmidhuber 1997 with forget gates, in torch's order: i, f, o = sigmoid, g = tanh;
    c' = f * c + i * g, h' = o * tanh(c').

    Args:
        parts: their sum is input, forget, candidate and output gates before activation; each broadcasts to (..., 4H).
        cell: previous cell, (..., H); the result has its dtype.
    """
    kernels = kernels_for(cell) and kernels_for(*parts, half=True)
    if kernels is not None and any(part.shape != parts[0].shape for part in parts):
        parts = [functools.reduce(torch.add, parts)]
    if kernels is not None and parts[0].shape == (*cell.shape[:-1], 4 * cell.shape[-1]):
        if not torch.is_grad_enabled():
            return kernels.lstm(parts, cell)[:2]
        found: tuple[Tensor, Tensor] = _LSTMUpdate.apply(kernels, cell, *parts)
        return found
    incoming, forget, candidate, outgoing = functools.reduce(torch.add, parts).to(cell.dtype).chunk(4, dim=-1)
    cell = torch.sigmoid(forget) * cell + torch.sigmoid(incoming) * torch.tanh(candidate)
    return torch.sigmoid(outgoing) * torch.tanh(cell), cell


class _LSTMUpdate(torch.autograd.Function):
    """The update as a native kernel, one pass each forward and backward."""

    @staticmethod
    def forward(ctx: Any, kernels: Kernels, cell: Tensor, *parts: Tensor) -> tuple[Tensor, Tensor]:
        hidden, new, kept = kernels.lstm(parts, cell)
        ctx.save_for_backward(cell, kept)
        ctx.kernels, ctx.parts, ctx.dtype = kernels, len(parts), parts[0].dtype
        return hidden, new

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, hidden_grad: Tensor, new_grad: Tensor) -> tuple[Tensor | None, ...]:
        grads = hidden_grad.contiguous(), new_grad.contiguous()
        gates, before = ctx.kernels.lstm_backward(*grads, *ctx.saved_tensors, ctx.dtype)
        return (None, before, *[gates] * ctx.parts)


def masked_mean(memory: Tensor, memory_mask: Tensor | None) -> Tensor:
    """Return the mean (B, D) over the regions of memory (B, N, D) where the mask (B, N) is True."""
    if memory_mask is None:
        return memory.mean(1)
    weights = memory_mask.to(memory.dtype)
    return torch.einsum("bnd,bn->bd", memory, weights) / weights.sum(1, keepdim=True).clamp(min=1.0)
