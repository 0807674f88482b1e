"""The time loop of the tutorials' decoder, forward and backward, with four calls of C and four products a step.

It is what `RecurrentDecoder.forward` does with `AttentionGRUDecoder` and additive attention. There each step is some
two hundred operations on tensors, autograd's among them, which with two threads take longer than the arithmetic that
the threads share.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from seesay.models.additive import doubled_exponential
from seesay.models.kernels import Kernels, kernels_for
from seesay.models.packing import PackedCaptions
from seesay.models.products import filled_rows, outer_product, pack, product, quick

_SPARE = 31  # rows that a step's product may reach beyond its own, as its number of rows is rounded up


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


def can_fuse(memory: Tensor, weight: Tensor) -> bool:
    """Tells whether `fused_loop` is there for memory (B, N, D) and a weight of the loop's."""
    if weight.dtype != torch.float32 or memory.dtype == torch.float64 or not memory.numel():
        return False
    asked = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
    return quick(weight, asked) and kernels_for(torch.empty(1, device=memory.device)) is not None


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


class _Steps(NamedTuple):
    """What a batch's steps have left for the backward pass, M tokens in their order.

    Attributes:
        captions: the batch.
        kernels: where it is computed.
        doubled: exp(2 k), (B, N, A).
        seen: the memory, (B, N, D) in float32.
        states: (M + spare, H) in float32.
        rounded: the same in the products' precision.
        projected: queries and the state's part of the gates, a tensor (R, A + 3H) each step.
        factors: exp(2 q), (M, A).
        weights: (M, N).
        contexts: (M + spare, D).
        kept: the gates, (M, 3H).
    """

    captions: PackedCaptions
    kernels: Kernels
    doubled: Tensor
    seen: Tensor
    states: Tensor
    rounded: Tensor
    projected: list[Tensor]
    factors: Tensor
    weights: Tensor
    contexts: Tensor
    kept: Tensor

    def places(self) -> list[tuple[int, int, int]]:
        """Returns for each step where its tokens begin, where those of the step before do, and how many it has."""
        sizes = self.captions.sizes
        begins = [0, *accumulate(sizes)][:-1]
        return list(zip(begins, [0, *begins[:-1]], sizes, strict=True))


class _FusedLoop(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, captions: PackedCaptions, words: Tensor, memory: Tensor, keys: Tensor, *given: Tensor
    ) -> Tensor:
        weights = LoopWeights(*given)
        steps = _begin(captions, words, memory, keys, weights)
        _forward(steps, words, weights)
        ctx.save_for_backward(memory, *weights)  # and torch tells if one is changed before the way back
        ctx.steps, ctx.types = steps, (memory.dtype, keys.dtype)
        return steps.rounded[: len(words)].clone()  # which its user may write over

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (_, *given), (memory_type, keys_type) = ctx.saved_tensors, ctx.types
        grad = grad.to(ctx.steps.rounded.dtype).contiguous()
        words, memory, keys, *weights = _backward(ctx.steps, LoopWeights(*given), grad)
        return (None, words, memory.to(memory_type), keys.to(keys_type), *weights)


def _begin(captions: PackedCaptions, words: Tensor, memory: Tensor, keys: Tensor, weights: LoopWeights) -> _Steps:
    doubled, seen = doubled_exponential(keys).contiguous(), memory.float().contiguous()
    tokens, hidden, dtype = len(words), weights.query.shape[1], words.dtype
    kernels = kernels_for(doubled)
    assert kernels is not None
    states = doubled.new_empty(tokens + _SPARE, hidden)
    return _Steps(
        captions,
        kernels,
        doubled,
        seen,
        states,
        states if dtype == torch.float32 else words.new_empty(tokens + _SPARE, hidden),
        [],
        doubled.new_empty(tokens, keys.shape[2]),
        doubled.new_empty(tokens, memory.shape[1]),
        words.new_empty(tokens + _SPARE, memory.shape[2]),
        doubled.new_empty(tokens, words.shape[1]),
    )


def _forward(steps: _Steps, words: Tensor, weights: LoopWeights) -> None:
    """Fills in what the steps leave."""
    dtype, rows, units = words.dtype, steps.captions.rows, len(weights.query)
    both = pack(torch.cat([weights.query, weights.state]).to(dtype), rows)
    bias = torch.cat([weights.bias.new_zeros(units), weights.bias]).to(dtype)
    context = pack(weights.context.to(dtype), rows)
    score, zero = weights.score[0].float().contiguous(), steps.states.new_zeros(rows, steps.states.shape[1])
    kernels, image = steps.kernels, steps.captions.image_of_row
    for number, (begin, before, size) in enumerate(steps.places()):
        width = filled_rows(size)
        if number:
            hidden = steps.states[before:]
            projected = product(steps.rounded[before : before + width], both, bias)
        else:
            hidden, projected = zero, bias.repeat(size, 1)
        steps.projected.append(projected)
        factors, looked, contexts, kept, states, rounded = (
            tensor[begin:]
            for tensor in (steps.factors, steps.weights, steps.contexts, steps.kept, steps.states, steps.rounded)
        )
        kernels.attend(steps.doubled, projected, score, steps.seen, image, size, (factors, looked, contexts))
        seen = product(contexts[:width], context)
        kernels.loop_gru(words[begin:], seen, projected, hidden, size, (states, rounded, kept))


def _backward(steps: _Steps, weights: LoopWeights, grad: Tensor) -> Sequence[Tensor]:
    """Returns the gradients of words, memory, keys and weights from that of the states (M, H)."""
    dtype, rows, tokens, units = grad.dtype, steps.captions.rows, len(grad), len(weights.query)
    both = pack(torch.cat([weights.query, weights.state]).to(dtype).T, rows)
    context = pack(weights.context.to(dtype).T, rows)
    score, zero = weights.score[0].float().contiguous(), steps.states.new_zeros(rows, steps.states.shape[1])
    inputs = grad.new_empty(tokens + _SPARE, len(weights.state))
    projecteds = grad.new_empty(tokens + _SPARE, units + len(weights.state))
    keys, scores = torch.zeros_like(steps.doubled), score.new_zeros(units)
    kernels, image = steps.kernels, steps.captions.image_of_row
    contexts: list[Tensor] = []
    later: tuple[Tensor, Tensor] | None = None
    running = 0
    for number, (begin, before, size) in reversed(list(enumerate(steps.places()))):
        width = filled_rows(size)
        hidden = steps.states[before:] if number else zero
        inward, projected, left = inputs[begin:], projecteds[begin:], hidden.new_empty(size, hidden.shape[1])
        given = (steps.projected[number], hidden, steps.kept[begin:])
        kernels.loop_gru_back(grad[begin:], later, running, given, size, (inward, projected, left))
        contexts.append(product(inward[:width], context)[:size])
        looked = (steps.factors[begin:], steps.weights[begin:])
        sums = (keys, scores)
        kernels.attend_back((steps.doubled, score, steps.seen), looked, contexts[-1], image, size, sums, projected)
        if number:
            later, running = (left, product(projected[:width], both)), size
    first = steps.captions.rows
    said = [steps.rounded[before : before + size] for _, before, size in steps.places()[1:]]
    inputs, projecteds = inputs[:tokens], projecteds[:tokens]
    by_image = steps.captions.by_image(len(steps.seen))
    looked_at, told = (by_image.pad(each) for each in (steps.weights.to(dtype), torch.cat(contexts[::-1])))
    # The first step's state is zero, and says nothing of the weights.
    own = outer_product(projecteds[first:], torch.cat(said)) if said else torch.zeros_like(projecteds[:0])
    return (
        inputs,
        torch.matmul(looked_at.transpose(1, 2), told),
        keys.mul_(4.0 * score),
        *_like(
            weights,
            (-2.0 * scores)[None],
            own[:units] if said else torch.zeros_like(weights.query),
            outer_product(inputs, steps.contexts[:tokens]),
            own[units:] if said else torch.zeros_like(weights.state),
            projecteds[:, units:].sum(0, dtype=weights.bias.dtype),
        ),
    )


def _like(weights: LoopWeights, *gradients: Tensor) -> list[Tensor]:
    return [gradient.to(weight.dtype) for weight, gradient in zip(weights, gradients, strict=True)]
