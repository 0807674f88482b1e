"""A decoding step of the attention GRU in one native call.

The products of a search are so small that calling them one by one from Python takes as long as computing them. The
reference is the same step in modules: `RecurrentDecoder.step`.
"""

import ctypes
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from seesay.kernels.native import call, native


@dataclass(frozen=True)
class AttentionGRUWeights:
    """The weights of a step; matrices are packed by `pack_linear`, except those marked.

    Attributes:
        word_gates: the word's part of the gates of every token, with its bias, (V, 3H), not packed.
        query: from the state to the attention's query, (A, H).
        score: v of the additive attention, (A,), not packed.
        context_gates: (3H, D).
        state_gates: (3H, H).
        state_bias: (3H,).
        dense: (O, H); None: no dense layer.
        dense_bias: (O,).
        vocabulary: (V, O), or (V, H) without a dense layer.
        vocabulary_bias: (V,).
    """

    word_gates: Tensor
    query: Tensor
    score: Tensor
    context_gates: Tensor
    state_gates: Tensor
    state_bias: Tensor
    dense: Tensor | None
    dense_bias: Tensor | None
    vocabulary: Tensor
    vocabulary_bias: Tensor

    @property
    def sizes(self) -> tuple[int, int, int, int, int]:
        """The widths D, H, A, O (0: no dense layer) and V."""
        words, gates = self.word_gates.shape
        dense = 0 if self.dense_bias is None else len(self.dense_bias)
        return self.context_gates.shape[1], gates // 3, len(self.score), dense, words


class _Struct(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_longlong) for name in ("size", "hidden", "units", "dense_size", "words")),
        *((field.name, ctypes.c_void_p) for field in fields(AttentionGRUWeights)),
    ]


class AttentionGRUStep:
    """The step of one set of weights, without gradient.

    Args:
        weights: float32 weights on the CPU; they must not change.

    Raises:
        RuntimeError: the native library cannot work on these weights.
    """

    def __init__(self, weights: AttentionGRUWeights) -> None:
        tensors = [getattr(weights, field.name) for field in fields(weights)]
        library = native(*tensors)
        if library is None:
            raise RuntimeError("the native library cannot work on these weights; use the decoder's modules")
        self._function, self._weights = library.attention_gru_step, weights
        self._struct = _Struct(*weights.sizes, *(None if each is None else each.data_ptr() for each in tensors))

    def __call__(
        self, tokens: Tensor, hidden: Tensor, keys: Tensor, memory: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the next state (B, K, H), attention weights (B, K, N) and logits (B, K, V).

        Args:
            tokens: last tokens, (B, K) int64.
            hidden: previous state, (B, K, H).
            keys: exp(2 k), (B, N, A); see `seesay.kernels.additive_attention`.
            memory: (B, N, D).
            mask: (B, N) bool, True = attend; None = all.

        Raises:
            IndexError: a token is not in the vocabulary.
        """
        rows, regions = tokens.numel(), keys.shape[1]
        size, wide, units, dense, words = self._weights.sizes
        room = hidden.new_empty(rows * (6 * wide + units + size + dense))
        image = torch.empty_like(tokens)
        next_hidden = torch.empty_like(hidden)
        attention, logits = (hidden.new_empty(*tokens.shape, count) for count in (regions, words))
        inputs = (tokens, hidden, keys, memory, mask, rows, tokens.shape[1], regions, image, room)
        if call(self._function, ctypes.byref(self._struct), *inputs, next_hidden, attention, logits):
            raise IndexError(f"a token is not in the vocabulary of {words} words")
        return next_hidden, attention, logits
