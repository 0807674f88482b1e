"""The time loop of the tutorials' decoder, forward and backward, with four calls of C and four products a step.

It is what `RecurrentDecoder.forward` does with `AttentionGRUDecoder` and additive attention. There each step is some
two hundred operations on tensors, autograd's among them, which with two threads take longer than the arithmetic that
the threads share.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from seesay.models.fused_attention import SPARE, FusedAttention, steps_of
from seesay.models.packing import PackedCaptions
from seesay.models.products import filled_rows, outer_product, pack, product


class LoopWeights(NamedTuple):
    """What the loop uses at every step.

    Attributes:
        score: v of the attention, (1, A).
        query: of the attention, (A, H).
        context: the context's part of the gates, (3H, D).
        state: the state's part of the gates, (3H, H).
        bias: the same, (3H,).
    """

    score: Tensor
    query: Tensor
    context: Tensor
    state: Tensor
    bias: Tensor


def fused_loop(words: Tensor, memory: Tensor, keys: Tensor, weights: LoopWeights, captions: PackedCaptions) -> Tensor:
    """Returns the states (M, H) after every word, from a zero state, in the precision of `words`.

    Args:
        words: the words' part of the gates, (M, 3H).
        memory: (B, N, D).
        keys: of the attention, (B, N, A).
        weights: the loop's.
        captions: the batch's.
    """
    found: Tensor = _FusedLoop.apply(captions, words.contiguous(), memory, keys, *weights)
    return found


class _Left(NamedTuple):
    """What a batch's steps leave for the backward pass, M tokens in their order.

    Attributes:
        captions: the batch.
        attention: what they saw.
        states: (M + spare, H) in float32.
        rounded: the same in the products' precision.
        projected: queries and the state's part of the gates, a tensor (R, A + 3H) each step.
        kept: the gates, (M, 3H).
    """

    captions: PackedCaptions
    attention: FusedAttention
    states: Tensor
    rounded: Tensor
    projected: list[Tensor]
    kept: Tensor


class _FusedLoop(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, captions: PackedCaptions, words: Tensor, memory: Tensor, keys: Tensor, *given: Tensor
    ) -> Tensor:
        weights, tokens, dtype = LoopWeights(*given), len(words), words.dtype
        attention = FusedAttention(captions, memory, keys, weights.score, dtype)
        states = words.new_empty(tokens + SPARE, weights.query.shape[1], dtype=torch.float32)
        rounded = states if dtype == torch.float32 else torch.empty_like(states, dtype=dtype)
        kept = words.new_empty(tokens, words.shape[1], dtype=torch.float32)
        left = _Left(captions, attention, states, rounded, [], kept)
        _forward(left, words, weights)
        ctx.save_for_backward(memory, *weights)  # and torch tells if one is changed before the way back
        ctx.left = left
        return rounded[:tokens].clone()  # which its user may write over

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        _, *given = ctx.saved_tensors
        return (None, *_backward(ctx.left, LoopWeights(*given), grad.to(ctx.left.rounded.dtype).contiguous()))


def _forward(left: _Left, words: Tensor, weights: LoopWeights) -> None:
    """Fills in what the steps leave."""
    dtype, rows, units = words.dtype, left.captions.rows, len(weights.query)
    both = pack(torch.cat([weights.query, weights.state]).to(dtype), rows)
    bias = torch.cat([weights.bias.new_zeros(units), weights.bias]).to(dtype)
    context = pack(weights.context.to(dtype), rows)
    zero, attention = left.states.new_zeros(rows, left.states.shape[1]), left.attention
    for number, step in enumerate(steps_of(left.captions)):
        begin, before, size = step
        width = filled_rows(size)
        if number:
            hidden = left.states[before:]
            projected = product(left.rounded[before : before + width], both, bias)
        else:
            hidden, projected = zero, bias.repeat(size, 1)
        left.projected.append(projected)
        attention.look(step, projected)
        seen = product(attention.contexts[begin : begin + width], context)
        results = [each[begin:] for each in (left.states, left.rounded, left.kept)]
        attention.kernels.loop_gru(words[begin:], seen, projected, hidden, size, results)


def _backward(left: _Left, weights: LoopWeights, grad: Tensor) -> Sequence[Tensor]:
    """Returns the gradients of words, memory, keys and weights from that of the states (M, H)."""
    dtype, rows, tokens, units = grad.dtype, left.captions.rows, len(grad), len(weights.query)
    both = pack(torch.cat([weights.query, weights.state]).to(dtype).T, rows)
    context = pack(weights.context.to(dtype).T, rows)
    zero, attention = left.states.new_zeros(rows, left.states.shape[1]), left.attention
    inputs = grad.new_empty(tokens + SPARE, len(weights.state))
    projecteds = grad.new_empty(tokens + SPARE, units + len(weights.state))
    contexts: list[Tensor] = []
    later: tuple[Tensor, Tensor] | None = None
    running = 0
    steps = steps_of(left.captions)
    for number, step in reversed(list(enumerate(steps))):
        begin, before, size = step
        width = filled_rows(size)
        hidden = left.states[before:] if number else zero
        inward, projected, own = inputs[begin:], projecteds[begin:], hidden.new_empty(size, hidden.shape[1])
        given = (left.projected[number], hidden, left.kept[begin:])
        attention.kernels.loop_gru_backward(grad[begin:], later, running, given, size, (inward, projected, own))
        contexts.append(product(inward[:width], context)[:size])
        attention.attend_backward(step, contexts[-1], projected)
        if number:
            later, running = (own, product(projected[:width], both)), size
    memory, keys, score = attention.gradients(contexts[::-1])
    first = left.captions.rows
    said = [left.rounded[before : before + size] for _, before, size in steps[1:]]
    inputs, projecteds = inputs[:tokens], projecteds[:tokens]
    # The first step's state is zero, and says nothing of the weights.
    nothing = grad.new_zeros(projecteds.shape[1], grad.shape[1])
    asked = outer_product(projecteds[first:], torch.cat(said)) if said else nothing
    gradients = LoopWeights(
        score,
        asked[:units],
        outer_product(inputs, attention.contexts[:tokens]),
        asked[units:],
        projecteds[:, units:].sum(0, dtype=weights.bias.dtype),
    )
    return (inputs, memory, keys, *(each.to(weight.dtype) for each, weight in zip(gradients, weights, strict=True)))
