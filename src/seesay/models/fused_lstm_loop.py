"""The time loop of Show, Attend and Tell, forward and backward, as `fused_loop` is that of the tutorials' decoder."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from seesay.models.fused_attention import SPARE, FusedAttention, steps_of
from seesay.models.packing import PackedCaptions
from seesay.models.products import filled_rows, outer_product, pack, product


class LSTMLoopWeights(NamedTuple):
    """What the loop uses at every step.

    Attributes:
        score: v of the attention, (1, A).
        query: of the attention, (A, H).
        beta: of the gate of what is seen, (1, H).
        beta_bias: the same, (1,).
        context: the gated context's part of the gates, (4H, D).
        state: the state's part of the gates, (4H, H).
    """

    score: Tensor
    query: Tensor
    beta: Tensor
    beta_bias: Tensor
    context: Tensor
    state: Tensor


def fused_lstm_loop(
    words: Tensor,
    memory: Tensor,
    keys: Tensor,
    start: tuple[Tensor, Tensor],
    weights: LSTMLoopWeights,
    captions: PackedCaptions,
) -> tuple[Tensor, Tensor]:
    """Returns the states beside the gated contexts after every word, (M, H + D), and where each looked, (M, N).

    The former in the precision of `words`, the latter in float32.

    Args:
        words: the words' part of the gates, (M, 4H).
        memory: (B, N, D).
        keys: of the attention, (B, N, A).
        start: first state and cell of each caption, (R, H) float32.
        weights: the loop's.
        captions: the batch's.
    """
    found: tuple[Tensor, Tensor] = _FusedLoop.apply(captions, words.contiguous(), memory, keys, *start, *weights)
    return found


class _Left(NamedTuple):
    """What a batch's steps leave for the backward pass, M tokens in their order.

    Attributes:
        captions: the batch.
        attention: what they saw.
        states: states before each token's step, (M + spare, H) in the products' precision.
        gates: of what was seen, (M, 1) float32.
        gated: what came through them, (M + spare, D) in the products' precision.
        cells: before each step, (R, H) float32 each.
        kept: of the LSTM, (R, 5H) each.
    """

    captions: PackedCaptions
    attention: FusedAttention
    states: Tensor
    gates: Tensor
    gated: Tensor
    cells: list[Tensor]
    kept: list[Tensor]


class _FusedLoop(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, captions: PackedCaptions, words: Tensor, memory: Tensor, keys: Tensor, *given: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        hidden, cell, *rest = given
        weights, tokens = LSTMLoopWeights(*rest), len(words)
        attention = FusedAttention(captions, memory, keys, weights.score, words.dtype)
        left = _Left(
            captions,
            attention,
            words.new_empty(tokens + SPARE, hidden.shape[1]),
            hidden.new_empty(tokens, 1),
            torch.empty_like(attention.contexts),
            [],
            [],
        )
        said = _forward(left, words, hidden, cell, weights)
        ctx.save_for_backward(memory, *weights)  # and torch tells if one is changed before the way back
        ctx.left = left
        # Copies, which their users may write over.
        return torch.cat([said, left.gated[:tokens]], 1), attention.weights.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, more: Tensor | None) -> tuple[Tensor | None, ...]:
        left, (_, *given) = ctx.left, ctx.saved_tensors
        if grad is None:
            grad = left.states.new_zeros(len(left.gates), left.states.shape[1] + left.gated.shape[1])
        more = None if more is None else more.float().contiguous()
        return (None, *_backward(left, LSTMLoopWeights(*given), grad.to(left.states.dtype).contiguous(), more))


def _forward(left: _Left, words: Tensor, hidden: Tensor, cell: Tensor, weights: LSTMLoopWeights) -> Tensor:
    """Fills in what the steps leave, and returns the states after them, (M, H) in the products' precision."""
    dtype, rows, attention = words.dtype, left.captions.rows, left.attention
    units = len(weights.query)
    asking = pack(torch.cat([weights.query, weights.beta]).to(dtype), rows)
    bias = torch.cat([weights.beta_bias.new_zeros(units), weights.beta_bias]).to(dtype)
    context, state = pack(weights.context.to(dtype), rows), pack(weights.state.to(dtype), rows)
    said = torch.empty_like(left.states[: len(words)])
    for step in steps_of(left.captions):
        size = step.size
        tokens, wide = slice(step.begin, step.begin + size), slice(step.begin, step.begin + filled_rows(size))
        left.states[tokens] = hidden[:size]
        asked = product(left.states[wide], asking, bias)
        attention.look(step, asked)
        torch.sigmoid(asked[:size, units:].float(), out=left.gates[tokens])
        torch.mul(attention.contexts[tokens], left.gates[tokens].to(dtype), out=left.gated[tokens])
        parts = [words[tokens], product(left.gated[wide], context)[:size], product(left.states[wide], state)[:size]]
        left.cells.append(cell[:size])
        hidden, cell, kept = attention.kernels.lstm(parts, left.cells[-1])
        left.kept.append(kept)
        said[tokens] = hidden
    return said


def _backward(left: _Left, weights: LSTMLoopWeights, grad: Tensor, more: Tensor | None) -> Sequence[Tensor]:
    """Returns the gradients of words, memory, keys, first state and cell, and weights, of what the loop gave."""
    dtype, rows, attention = grad.dtype, left.captions.rows, left.attention
    tokens, units, size_of_state = len(grad), len(weights.query), left.states.shape[1]
    asking = pack(torch.cat([weights.query, weights.beta]).to(dtype).T, rows)
    context, state = pack(weights.context.to(dtype).T, rows), pack(weights.state.to(dtype).T, rows)
    of_states, of_gated = grad[:, :size_of_state].to(torch.float32, copy=True), grad[:, size_of_state:]
    gates = grad.new_empty(tokens + SPARE, len(weights.state))
    asked = grad.new_empty(tokens + SPARE, units + 1)
    contexts: list[Tensor] = []
    hidden_grad = cell_grad = of_states.new_zeros(0, size_of_state)
    for step, cell, kept in reversed(list(zip(steps_of(left.captions), left.cells, left.kept, strict=True))):
        here, wide = slice(step.begin, step.begin + step.size), slice(step.begin, step.begin + filled_rows(step.size))
        own, later = of_states[here], cell.new_zeros(step.size, size_of_state)
        own[: len(hidden_grad)] += hidden_grad
        later[: len(cell_grad)] = cell_grad
        gates[here], cell_grad = attention.kernels.lstm_backward(own, later, cell, kept, dtype)
        through = product(gates[wide], context)[: step.size] + of_gated[here]
        gate, seen = left.gates[here], attention.contexts[here]
        slope = torch.linalg.vecdot(through.float(), seen.float())[:, None] * gate * (1 - gate)
        contexts.append(through * gate.to(dtype))
        attention.attend_backward(step, contexts[-1], asked[step.begin :], None if more is None else more[here])
        asked[here, units:] = slope.to(dtype)
        hidden_grad = (product(asked[wide], asking) + product(gates[wide], state))[: step.size]
    memory, keys, score = attention.gradients(contexts[::-1])
    gates, asked, states = gates[:tokens], asked[:tokens], left.states[:tokens]
    by_state = outer_product(asked, states)
    gradients = LSTMLoopWeights(
        score,
        by_state[:units],
        by_state[units:],
        asked[:, units].sum(0, keepdim=True, dtype=weights.beta_bias.dtype),
        outer_product(gates, left.gated[:tokens]),
        outer_product(gates, states),
    )
    of_weights = [each.to(weight.dtype) for each, weight in zip(gradients, weights, strict=True)]
    return gates, memory, keys, hidden_grad.float(), cell_grad, *of_weights
