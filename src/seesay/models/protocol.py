"""The interface of caption decoders."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from seesay.models.packing import PackedCaptions


@dataclass(frozen=True)
class DecoderState:
    """A decoder's state between two tokens; the meaning of its tensors is private to the decoder.

    Tensors that depend on the image only (memory, attention keys) are stored once per image: the hypotheses of an image
    share them, and reordering hypotheses does not copy them.

    Attributes:
        per_image: tensors (B, ...).
        per_row: tensors (B, K, ...), one row per hypothesis.
    """

    per_image: dict[str, Tensor]
    per_row: dict[str, Tensor]

    def keep(self, images: Tensor) -> "DecoderState":
        """Return the state of the images at positions `images` (B',) int64, in that order."""
        return DecoderState(
            {name: tensor.index_select(0, images) for name, tensor in self.per_image.items()},
            {name: tensor.index_select(0, images) for name, tensor in self.per_row.items()},
        )

    def pick(self, parents: Tensor) -> "DecoderState":
        """Return the state in which row k of image b continues its row `parents[b, k]` (B, K') int64."""
        if len(parents) == 1:  # three times as fast
            return DecoderState(
                self.per_image, {name: tensor.index_select(1, parents[0]) for name, tensor in self.per_row.items()}
            )
        batch = torch.arange(parents.shape[0], device=parents.device)[:, None]
        return DecoderState(self.per_image, {name: tensor[batch, parents] for name, tensor in self.per_row.items()})


class StepOutput(NamedTuple):
    """The output of a decoding step.

    Attributes:
        logits: logits of the next token, (B, K, V); the caller may overwrite them.
        state: the state after the input tokens.
        attention: attention weights, (B, K, N), rows sum to 1; None if the decoder has no attention.
    """

    logits: Tensor
    state: DecoderState
    attention: Tensor | None


def no_penalty() -> float:
    """Return the penalty of decoders without one."""
    return 0.0


class DecoderOutput(NamedTuple):
    """The output of a decoder under teacher forcing.

    Attributes:
        logits: logits of the token after every real token, (M, V).
        penalty: returns the term that training adds to the cross-entropy, in nats per token, for example to regularise
            attention or to train hard attention; 0 in evaluation. Call it once per batch: it may update the baseline of
            hard attention.
    """

    logits: Tensor
    penalty: Callable[[], Tensor | float] = no_penalty


class Decoder(Protocol):
    """The interface of a decoder that `seesay.decoding` needs."""

    def init_state(self, memory: Tensor, memory_mask: Tensor | None) -> DecoderState:
        """Return the state before the start token, with one row per image.

        Args:
            memory: projected features (B, N, D).
            memory_mask: (B, N), True = attend; None: attend to all regions.
        """
        ...

    def step(self, tokens: Tensor, state: DecoderState) -> StepOutput:
        """Return the logits of the token after `tokens` (B, K) int64."""
        ...


class TrainableDecoder(Decoder, Protocol):
    """The interface that training needs in addition; a decoder is a `torch.nn.Module` with this `forward`."""

    def __call__(self, memory: Tensor, memory_mask: Tensor | None, captions: PackedCaptions) -> DecoderOutput:
        """Return the logits (M, V) of the token after every real token under teacher forcing.

        Args:
            memory: (B, N, D).
            memory_mask: (B, N), True = attend; None: attend to all regions.
            captions: the packed captions of the batch.
        """
        ...
