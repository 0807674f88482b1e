"""What decoders that attend at every word share: their state, one step, and the training loop around it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from seesay.config import ModelConfig
from seesay.models.attention import Regions, build_attention
from seesay.models.dropout import Dropout
from seesay.models.loop import shared_gradients
from seesay.models.packing import PackedCaptions, RegularIndex
from seesay.models.protocol import DecoderOutput, DecoderState, StepOutput

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

    def advance(self, words: Tensor, state: Tensors, fixed: Mapping[str, Tensor], regions: Regions) -> CellOutput:
        """Returns the decoder one word further.

        Args:
            words: from `words`, (..., G).
            state: from `start` or the step before, (..., H) each.
            fixed: what `image` and `dropout_masks` returned, (..., ...) each.
            regions: what `attend` takes.
        """
        raise NotImplementedError

    def compute_logits(self, output: Tensor, embedded: Tensor) -> Tensor:
        """Returns the logits (..., V) of outputs (..., O) and the embedded words (..., E) that led to them."""
        logits: Tensor = self.output(self.output_dropout(output))
        return logits

    def init_state(self, memory: Tensor, memory_mask: Tensor | None) -> DecoderState:
        """Returns the state before the start token over memory (B, N, D), one row an image."""
        keys, regions = self.attention.prepare(memory)
        fixed = {"keys": keys, "memory": regions, **self._image(memory, memory_mask)}
        state = self.start(memory, memory_mask)
        return DecoderState(*({name: tensor[:, None] for name, tensor in part.items()} for part in (fixed, state)))

    def step(self, tokens: Tensor, state: DecoderState) -> StepOutput:
        """Returns logits (B, K, V) and attention (B, K, N) after the words `tokens` (B, K)."""
        embedded, image = self.embedding(tokens), state.per_image
        mask = image["memory_mask"][:, 0] if "memory_mask" in image else None
        images, beams = tokens.shape
        rows = RegularIndex.regular(images, beams, tokens.device)
        regions = Regions(image["keys"][:, 0], image["memory"][:, 0], mask, rows)
        new = self.advance(self.words(embedded), state.per_row, image, regions)
        logits = self.compute_logits(new.output, embedded)
        return StepOutput(logits, DecoderState(image, new.state), new.attention)

    def forward(self, memory: Tensor, memory_mask: Tensor | None, captions: PackedCaptions) -> DecoderOutput:
        """Returns the logits (M, V) of every real token under teacher forcing, and the penalty of the attention.

        Args:
            memory: (B, N, D).
            memory_mask: (B, N), True = may attend; None = all.
            captions: the batch's captions, packed.
        """
        embedded = self.embedding_dropout(self.embedding(captions.inputs))
        words = self.words(embedded)
        fixed = rows_of(self._image(memory, memory_mask), captions) | self.dropout_masks(captions.rows)
        state = rows_of(self.start(memory, memory_mask), captions)
        regions = Regions(*self.attention.prepare(memory), memory_mask, captions.rows_by_image(len(memory)))
        steps = []
        with shared_gradients(self):
            for size, word in zip(captions.sizes, torch.split(words, captions.sizes), strict=True):
                new = self.advance(word, _first(state, size), _first(fixed, size), regions.first(size))
                state = new.state
                steps.append(new)
        logits = self.compute_logits(torch.cat([new.output for new in steps]), embedded)
        return DecoderOutput(logits, partial(self.penalty, SequenceOutput(captions, logits, steps, fixed)))

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
        """Returns the state (..., H) as gates and query see it: with the caption's dropout mask, if any."""
        return hidden * fixed["state_mask"] if "state_mask" in fixed else hidden

    def attend(self, query: Tensor, regions: Regions) -> tuple[Tensor, Tensor]:
        """Returns the context (..., D) and the weights (..., N) of a query (..., H)."""
        context, weights = self.attention(query.flatten(0, -2), regions)
        return context.unflatten(0, query.shape[:-1]), weights.unflatten(0, query.shape[:-1])

    def _image(self, memory: Tensor, memory_mask: Tensor | None) -> Tensors:
        """Returns what else of the image stays the same for all words, with its mask if it has one, (B, ...) each."""
        fixed = self.image(memory, memory_mask)
        return fixed if memory_mask is None else {**fixed, "memory_mask": memory_mask}


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
