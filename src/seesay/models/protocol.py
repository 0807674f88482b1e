"""What a caption decoder is to the code that drives it: two calls and an opaque state."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from seesay.models.packing import PackedCaptions


@dataclass(frozen=True)
class DecoderState:
    """A decoder's state between two words; only the decoder knows what the tensors mean.

    What depends on the image alone (memory, attention keys) is kept once an image, so that the beams of a
    image share it and reordering them moves none of it.

    Attributes:
        per_image: tensors (B, ...).
        per_row: tensors (B, K, ...), one row a hypothesis.
    """

    per_image: dict[str, Tensor]
    per_row: dict[str, Tensor]

    def keep(self, images: Tensor) -> "DecoderState":
        """Returns the state of the images at positions `images` (B',) int64, in that order."""
        return DecoderState(
            {name: tensor.index_select(0, images) for name, tensor in self.per_image.items()},
            {name: tensor.index_select(0, images) for name, tensor in self.per_row.items()},
        )

    def pick(self, parents: Tensor) -> "DecoderState":
        """Returns the state in which row k of image b continues its row `parents[b, k]` (B, K') int64."""
        if len(parents) == 1:  # in a third of the time
            return DecoderState(
                self.per_image, {name: tensor.index_select(1, parents[0]) for name, tensor in self.per_row.items()}
            )
        batch = torch.arange(parents.shape[0], device=parents.device)[:, None]
        return DecoderState(self.per_image, {name: tensor[batch, parents] for name, tensor in self.per_row.items()})


class StepOutput(NamedTuple):
    """What one decoding step gives.

    Attributes:
        logits: scores of the next word, (B, K, V); the caller may overwrite them.
        state: the state after the words that were fed.
        attention: where each row looked, (B, K, N), rows summing to 1; None of a decoder without attention.
    """

    logits: Tensor
    state: DecoderState
    attention: Tensor | None


def nothing_more() -> float:
    """Returns what most decoders' training adds to the loss."""
    return 0.0


class DecoderOutput(NamedTuple):
    """What a decoder gives under teacher forcing.

    Attributes:
        logits: scores of the word that follows every real token, (M, V).
        penalty: returns what training adds to the mean surprise of a token, in the same unit (nats a token): of
            attention that must be kept in bounds, or that is drawn and learns by reward. 0 in evaluation. To be
            called once, by who adds it to a loss: what is learnt by reward goes on with its baseline then.
    """

    logits: Tensor
    penalty: Callable[[], Tensor | float] = nothing_more


class Decoder(Protocol):
    """What `seesay.decoding` needs of a decoder."""

    def init_state(self, memory: Tensor, memory_mask: Tensor | None) -> DecoderState:
        """Returns the state before the start token, with one row an image.

        Args:
            memory: projected features (B, N, D).
            memory_mask: (B, N), True = may attend; None = all of them.
        """
        ...

    def step(self, tokens: Tensor, state: DecoderState) -> StepOutput:
        """Returns the scores of the words that may follow `tokens` (B, K) int64."""
        ...


class TrainableDecoder(Decoder, Protocol):
    """What training needs of a decoder beyond that; a decoder is a `torch.nn.Module` whose `forward` is this."""

    def __call__(self, memory: Tensor, memory_mask: Tensor | None, captions: PackedCaptions) -> DecoderOutput:
        """Returns the scores of the words that follow every real token under teacher forcing.

        Args:
            memory: (B, N, D).
            memory_mask: (B, N), True = may attend; None = all.
            captions: the batch's captions, packed.
        """
        ...
