"""`RecurrentDecoder`, the base of recurrent decoders with attention: state, step, and training loop."""

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
    """The output of one step of the recurrent cell.

    Attributes:
        state: the decoder's next state by name, each (..., H).
        output: input of `compute_logits`, (..., O).
        attention: attention weights, (..., N).
        draw: log-probability of the sampled region, (...,); None with soft attention.
    """

    state: Tensors
    output: Tensor
    attention: Tensor
    draw: Tensor | None = None


@dataclass(frozen=True)
class SequenceOutput:
    """The outputs of the training loop for a batch, M tokens in the order of `captions`.

    Attributes:
        captions: the batch.
        logits: (M, V).
        steps: output of each step of the loop.
        fixed: tensors constant over the loop, one row per caption: `memory_mask`, dropout masks.
    """

    captions: PackedCaptions
    logits: Tensor
    steps: Sequence[CellOutput]
    fixed: Tensors

    @property
    def attention(self) -> Tensor:
        """Attention weights per token, (M, N)."""
        return torch.cat([step.attention for step in self.steps])

    @property
    def draws(self) -> Tensor:
        """Log-probabilities of the sampled regions, (M,); hard attention only."""
        return torch.cat([step.draw for step in self.steps if step.draw is not None])


OPTIONS = frozenset(
    (
        *("embedding_size", "hidden_size", "attention_score", "attention_size", "num_heads", "tie_weights"),
        *("doubly_stochastic", "embedding_dropout", "attention_dropout", "state_dropout", "output_dropout"),
    )
)
"""The fields of `ModelConfig` that a `RecurrentDecoder` and its vocabulary layer read."""


class RecurrentDecoder(nn.Module):
    """Base class of recurrent decoders that attend to regions at every step.

    A subclass has the layers `word_gates` and `output`, implements `start` and `advance`, and overrides `words` and
    `compute_logits` if these layers do not suffice. This class implements `init_state`, `step` and `forward`: terms
    that depend on the image only are computed once per image, those that depend on the words only before the time
    loop, and the vocabulary layer after it, on real tokens only; finished captions are removed from the loop.

    Args:
        config: sizes of the network; `model.projection_size` is the width D of the memory.
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
        """Return the state before the first word by name, (B, H) each."""
        raise NotImplementedError

    def image(self, memory: Tensor, memory_mask: Tensor | None) -> Tensors:
        """Return further tensors of the image that each step needs, by name, (B, ...) each; none by default."""
        return {}

    def dropout_masks(self, rows: int) -> Tensors:
        """Return the random tensors sampled once per caption in training, by name, (R, ...) each: the state's dropout.

        One mask per caption for all its steps: Gal and Ghahramani 2016, "A Theoretically Grounded Application of
        Dropout in Recurrent Neural Networks".
        """
        if not self.training or self.state_dropout.p == 0:
            return {}
        return {"state_mask": self.state_dropout(self.zeros(rows) + 1)}

    def words(self, embedded: Tensor) -> Tensor:
        """Return the word part of the gates (..., G) from embedded words (..., E)."""
        gates: Tensor = self.word_gates(embedded)
        return gates

    def advance(self, words: Tensor, state: Tensors, fixed: Mapping[str, Tensor], regions: Regions) -> CellOutput:
        """Return the next state and output.

        Args:
            words: from `words`, (..., G).
            state: from `start` or the previous step, (..., H) each.
            fixed: from `image` and `dropout_masks`, by name.
            regions: regions to `attend` to.
        """
        raise NotImplementedError

    def compute_logits(self, output: Tensor, embedded: Tensor) -> Tensor:
        """Return the logits (..., V) of outputs (..., O) and their embedded input words (..., E)."""
        logits: Tensor = self.output(self.output_dropout(output))
        return logits

    def init_state(self, memory: Tensor, memory_mask: Tensor | None) -> DecoderState:
        """Return the state before the start token over memory (B, N, D), one row per image."""
        keys, regions = self.attention.prepare(memory)
        fixed = {"keys": keys, "memory": regions, **self._image(memory, memory_mask)}
        state = self.start(memory, memory_mask)
        return DecoderState(*({name: tensor[:, None] for name, tensor in part.items()} for part in (fixed, state)))

    def step(self, tokens: Tensor, state: DecoderState) -> StepOutput:
        """Return logits (B, K, V) and attention (B, K, N) after the words `tokens` (B, K)."""
        embedded, image = self.embedding(tokens), state.per_image
        mask = image["memory_mask"][:, 0] if "memory_mask" in image else None
        images, beams = tokens.shape
        rows = RegularIndex.regular(images, beams, tokens.device)
        regions = Regions(image["keys"][:, 0], image["memory"][:, 0], mask, rows)
        new = self.advance(self.words(embedded), state.per_row, image, regions)
        logits = self.compute_logits(new.output, embedded)
        return StepOutput(logits, DecoderState(image, new.state), new.attention)

    def forward(self, memory: Tensor, memory_mask: Tensor | None, captions: PackedCaptions) -> DecoderOutput:
        """Return the logits (M, V) of every real token under teacher forcing, and the penalty of the attention.

        Args:
            memory: (B, N, D).
            memory_mask: (B, N), True = attend; None: attend to all regions.
            captions: the packed captions of the batch.
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

    def penalty(self, sequence: SequenceOutput) -> Tensor | float:
        """Return the term that training adds to the mean cross-entropy, in nats per token."""
        if self.doubly_stochastic == 0 or not self.training:
            return 0.0
        mask = sequence.fixed.get("memory_mask")
        return self.doubly_stochastic * doubly_stochastic_penalty(sequence.attention, sequence.captions, mask)

    def zeros(self, rows: int) -> Tensor:
        """Return zeros (rows, H) in the precision of the weights, which the state keeps in bfloat16 training."""
        return self.embedding.weight.new_zeros(rows, self.hidden_size)

    def recurrent(self, hidden: Tensor, fixed: Mapping[str, Tensor]) -> Tensor:
        """Return the state (..., H) for gates and query: with the caption's dropout mask, if any."""
        return hidden * fixed["state_mask"] if "state_mask" in fixed else hidden

    def attend(self, query: Tensor, regions: Regions) -> tuple[Tensor, Tensor]:
        """Return the context (..., D) and the weights (..., N) of a query (..., H)."""
        context, weights = self.attention(query.flatten(0, -2), regions)
        return context.unflatten(0, query.shape[:-1]), weights.unflatten(0, query.shape[:-1])

    def _image(self, memory: Tensor, memory_mask: Tensor | None) -> Tensors:
        """Return the image's tensors that are constant over the steps, and its mask if any, (B, ...) each."""
        fixed = self.image(memory, memory_mask)
        return fixed if memory_mask is None else {**fixed, "memory_mask": memory_mask}


def doubly_stochastic_penalty(attention: Tensor, captions: PackedCaptions, memory_mask: Tensor | None) -> Tensor:
    """Return sum_i (1 - sum_t attention_ti)^2 over all captions, divided by the number of tokens.

    Xu et al. 2015, "Show, Attend and Tell", eq. 14, adds it to the summed cross-entropy of a caption; here both are
    means over tokens.

    Args:
        attention: (M, N), in the order of `captions`.
        captions: the batch.
        memory_mask: (R, N), True = a real region; the others are ignored. None: all are real.
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
    """Return per-image tensors (B, ...) as per-caption tensors (R, ...)."""
    return {name: tensor.index_select(0, captions.image_of_row) for name, tensor in tensors.items()}


def _first(tensors: Tensors, rows: int) -> Tensors:
    """Return the first rows of each tensor: the captions that are still running."""
    # Slicing makes autograd allocate zeros of the full size; most steps need no slice.
    return {name: tensor if len(tensor) == rows else tensor[:rows] for name, tensor in tensors.items()}
