"""What decoders that attend at every word share: their state, one step, and the training loop around it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from seesay.config import ModelConfig
from seesay.models.attention import AdditiveAttention, build_attention
from seesay.models.cells import LSTMGates
from seesay.models.dropout import Dropout
from seesay.models.fused_attention import can_fuse
from seesay.models.loop import DeferredGradients, DeferredLinear, deferring_gradients
from seesay.models.packing import PackedCaptions
from seesay.models.products import Linear
from seesay.models.protocol import DecoderOutput, DecoderState, StepOutput
from seesay.models.vocabulary import VocabularyLayer

Tensors = dict[str, Tensor]


class CellOutput(NamedTuple):
    """One word further.

    Attributes:
        state: the decoder's next state by name, each (..., H).
        output: what `compute_logits` turns into scores, (..., O).
        attention: where it looked, (..., N).
        draw: log-probability of the region drawn, (...,); None where attention is soft.
    """

    state: Tensors
    output: Tensor
    attention: Tensor
    draw: Tensor | None = None


@dataclass(frozen=True)
class SequenceOutput:
    """A batch as it went through the training loop, M tokens in the order of `captions`.

    Attributes:
        captions: the batch.
        logits: (M, V).
        steps: what each turn of the loop gave.
        fixed: what stayed the same in the loop, a row a caption: memory, mask, chances.
    """

    captions: PackedCaptions
    logits: Tensor
    steps: Sequence[CellOutput]
    fixed: Tensors

    @property
    def attention(self) -> Tensor:
        """Where each word looked, (M, N)."""
        return torch.cat([step.attention for step in self.steps])

    @property
    def draws(self) -> Tensor:
        """Log-probabilities of the regions drawn, (M,); of hard attention only."""
        return torch.cat([step.draw for step in self.steps if step.draw is not None])


OPTIONS = frozenset(
    (
        *("embedding_size", "hidden_size", "attention_score", "attention_size", "num_heads", "tie_weights"),
        *("doubly_stochastic", "embedding_dropout", "attention_dropout", "state_dropout", "output_dropout"),
    )
)
"""The fields of `ModelConfig` that a `RecurrentDecoder` and its vocabulary layer read."""


class RecurrentDecoder(nn.Module):
    """The frame of a recurrent decoder that attends to regions at every word.

    A decoder has the layers `word_gates` and `output`, and implements `start` and `advance`, and `words` and
    `compute_logits` where there is more to them than these layers. The frame builds `init_state`, `step` and
    `forward` from them, and keeps their costs where they belong: what depends on the image alone is computed once an
    image, what depends on the words alone before the time loop, and the vocabulary layer after it, on real tokens
    only; captions that have ended leave the loop.

    Args:
        config: the network's sizes; `model.projection_size` is the width D of the memory.
        vocabulary_size: V.
    """

    word_gates: nn.Linear
    output: nn.Module

    def __init__(self, config: ModelConfig, vocabulary_size: int) -> None:
        super().__init__()
        self.hidden_size = config.hidden_size
        self.doubly_stochastic = config.doubly_stochastic
        self.embedding = nn.Embedding(vocabulary_size, config.embedding_size)
        self.attention = build_attention(config, config.hidden_size)
        self.embedding_dropout = Dropout(config.embedding_dropout)
        self.state_dropout = Dropout(config.state_dropout)
        self.output_dropout = Dropout(config.output_dropout)

    def start(self, memory: Tensor, memory_mask: Tensor | None) -> Tensors:
        """Returns the state before the first word by name, (B, H) each."""
        raise NotImplementedError

    def image(self, memory: Tensor, memory_mask: Tensor | None) -> Tensors:
        """Returns what else each step needs of the image by name, (B, ...) each; nothing unless overridden."""
        return {}

    def dropout_masks(self, rows: int) -> Tensors:
        """Returns what is drawn once a caption in training, by name, (R, ...) each: the mask of the dropped state.

        One mask for all words of a caption: Gal and Ghahramani 2016, "A Theoretically Grounded Application of
        Dropout in Recurrent Neural Networks".
        """
        if not self.training or self.state_dropout.p == 0:
            return {}
        return {"state_mask": self.state_dropout(self.zeros(rows) + 1)}

    def words(self, embedded: Tensor) -> Tensor:
        """Returns the words' part of the gates (..., G) of embedded words (..., E)."""
        gates: Tensor = self.word_gates(embedded)
        return gates

    def advance(self, words: Tensor, state: Tensors, fixed: Mapping[str, Tensor]) -> CellOutput:
        """Returns the decoder one word further.

        Args:
            words: from `words`, (..., G).
            state: from `start` or the step before, (..., H) each.
            fixed: `memory_mask` (..., N) if there is one, what `image` and `dropout_masks` gave, and what `look` needs.
        """
        raise NotImplementedError

    def compute_logits(self, output: Tensor, embedded: Tensor) -> Tensor:
        """Returns the logits (..., V) of outputs (..., O) and the embedded words (..., E) that led to them."""
        logits: Tensor = self.output(self.output_dropout(output))
        return logits

    def init_state(self, memory: Tensor, memory_mask: Tensor | None) -> DecoderState:
        """Returns the state before the start token over memory (B, N, D), one row an image."""
        keys = {"search_keys": self.attention.search_keys(memory), "memory": memory}
        fixed, state = keys | self._seen(memory, memory_mask), self.start(memory, memory_mask)
        return DecoderState(*({name: tensor[:, None] for name, tensor in part.items()} for part in (fixed, state)))

    def step(self, tokens: Tensor, state: DecoderState) -> StepOutput:
        """Returns logits (B, K, V) and attention (B, K, N) after the words `tokens` (B, K)."""
        embedded = self.embedding(tokens)
        new = self.advance(self.words(embedded), state.per_row, state.per_image)
        logits = self.compute_logits(new.output, embedded)
        return StepOutput(logits, DecoderState(state.per_image, new.state), new.attention)

    def forward(self, memory: Tensor, memory_mask: Tensor | None, captions: PackedCaptions) -> DecoderOutput:
        """Returns the logits (M, V) of every real token under teacher forcing, and the penalty of the attention.

        Args:
            memory: (B, N, D).
            memory_mask: (B, N), True = may attend; None = all.
            captions: the batch's captions, packed.
        """
        embedded = self.embedding_dropout(self.embedding(captions.inputs))
        words = self.words(embedded)
        fixed = rows_of(self._seen(memory, memory_mask), captions) | self.dropout_masks(captions.rows)
        state = rows_of(self.start(memory, memory_mask), captions)
        loop = DeferredGradients(captions, len(memory), memory.device.type)
        self.attention.enter(memory, loop)
        steps = []
        with deferring_gradients(self, loop):
            for size, word in zip(captions.sizes, torch.split(words, captions.sizes), strict=True):
                new = self.advance(word, _first(state, size), _first(fixed, size))
                state = new.state
                steps.append(new)
        logits = self.compute_logits(torch.cat([new.output for new in steps]), embedded)
        return DecoderOutput(logits, partial(self.penalty, SequenceOutput(captions, logits, steps, fixed)))

    def fusible(self, memory: Tensor, memory_mask: Tensor | None, captions: PackedCaptions) -> bool:
        """Tells whether nothing is dropped or masked in the loop, of tensors such as fused loops are there for."""
        dropout = self.attention.dropout
        dropped = (self.training and self.state_dropout.p > 0) or (dropout.training and dropout.p > 0)
        return memory_mask is None and not dropped and captions.rows > 0 and can_fuse(memory, self.word_gates.weight)

    def consists_of_ours(self, kind: type["RecurrentDecoder"]) -> bool:
        """Tells whether this is a decoder of a kind with additive attention, all of whose parts are this package's own.

        A subclass's, what was put in the place of one, or what has hooks may do something else than what was written
        for these.
        """
        ours = (
            AdditiveAttention,
            Linear,
            DeferredLinear,
            LSTMGates,
            VocabularyLayer,
            Dropout,
            nn.Sequential,
            nn.Embedding,
        )
        if type(self) is not kind or type(self.attention) is not AdditiveAttention:
            return False
        return all((part is self or type(part) in ours) and not _is_altered(part) for part in self.modules())

    def penalty(self, lesson: SequenceOutput) -> Tensor | float:
        """Returns what training adds to the mean surprise of a token, in nats a token."""
        if self.doubly_stochastic == 0 or not self.training:
            return 0.0
        mask = lesson.fixed.get("memory_mask")
        return self.doubly_stochastic * doubly_stochastic_penalty(lesson.attention, lesson.captions, mask)

    def zeros(self, rows: int) -> Tensor:
        """Returns zeros (rows, H) in the weights' precision, which bfloat16 training keeps for the state."""
        return self.embedding.weight.new_zeros(rows, self.hidden_size)

    def recurrent(self, hidden: Tensor, fixed: Mapping[str, Tensor]) -> Tensor:
        """Returns the state (..., H) as gates and query see it: with the caption's dropout mask, if any.

        In the precision of the loop's products, which else would each round it for themselves.
        """
        hidden = hidden * fixed["state_mask"] if "state_mask" in fixed else hidden
        return hidden if self.attention.loop is None else self.attention.loop.cast(hidden)

    def look(self, query: Tensor, fixed: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Returns the context (..., D) and the weights (..., N) of a query (..., H)."""
        mask = fixed.get("memory_mask")
        if self.attention.loop is not None:
            return self.attention.loop_attend(query, mask)
        # What the hypotheses of an image share stands once, (B, 1, ...).
        shared = None if mask is None else mask[:, 0]
        return self.attention.search(query, fixed["search_keys"][:, 0], fixed["memory"][:, 0], shared)

    def _seen(self, memory: Tensor, memory_mask: Tensor | None) -> Tensors:
        """Returns what of the image, memory and keys aside, does not change from word to word, (B, ...) each."""
        fixed = self.image(memory, memory_mask)
        return fixed if memory_mask is None else {**fixed, "memory_mask": memory_mask}


def _is_altered(part: nn.Module) -> bool:
    """Tells whether an instance does something else than its class: it has hooks, or methods of its own."""
    hooks = (part._forward_hooks, part._forward_pre_hooks, part._backward_hooks, part._backward_pre_hooks)
    return any(hooks) or any(callable(getattr(type(part), name, None)) for name in vars(part))


def doubly_stochastic_penalty(attention: Tensor, captions: PackedCaptions, memory_mask: Tensor | None) -> Tensor:
    """Returns sum_i (1 - sum_t attention_ti)^2 of all captions, divided by their tokens.

    Xu et al. 2015, "Show, Attend and Tell", eq. 14, where it is added to a caption's summed surprise; ours is a
    mean over tokens, and so is this.

    Args:
        attention: (M, N), in the order of `captions`.
        captions: the batch.
        memory_mask: (R, N), True = a real region, which alone counts; None = all.
    """
    rows, real = captions.row_of_token(), captions.real
    total = attention.new_zeros(captions.rows, attention.shape[1])
    if real is None:
        missed, tokens = (1 - total.index_add(0, rows, attention)).square(), attention.new_tensor(len(attention))
    else:
        counts = attention.new_zeros(captions.rows).index_add(0, rows, real.to(attention.dtype))
        missed = (1 - total.index_add(0, rows, attention * real[:, None])).square() * (counts > 0)[:, None]
        tokens = counts.sum()
    if memory_mask is not None:
        missed = missed * memory_mask
    return missed.sum() / tokens


def rows_of(tensors: Tensors, captions: PackedCaptions) -> Tensors:
    """Returns tensors (B, ...), one an image, as (R, ...), one a caption."""
    return {name: tensor.index_select(0, captions.image_of_row) for name, tensor in tensors.items()}


def _first(tensors: Tensors, rows: int) -> Tensors:
    """Returns the first rows of each tensor: the captions that are still running."""
    # Of a slice autograd makes zeros as large as the whole; most steps need none.
    return {name: tensor if len(tensor) == rows else tensor[:rows] for name, tensor in tensors.items()}
