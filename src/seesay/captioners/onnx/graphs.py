"""The encoder and decoder graphs of an exported captioner, and the decoder's state."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from seesay.captioners.onnx.manifest import DECODER_FILE, ENCODER_FILE
from seesay.errors import CheckpointError, EncoderError, MissingDependencyError
from seesay.onnx_sessions import open_session

PIXELS, TOKENS, LOGITS, ATTENTION = "pixels", "tokens", "logits", "attention"
IMAGE, ROW, NEXT = "image.", "row.", "next."
"""Prefixes of array names in the graphs: state per image, state per hypothesis, and its next value."""

Array = NDArray[Any]


@dataclass(frozen=True)
class State:
    """A decoder's state between two tokens, as `seesay.models.protocol.DecoderState`.

    Attributes:
        per_image: arrays (B, ...), shared by the hypotheses of an image.
        per_row: arrays (B, K, ...), one row per hypothesis.
    """

    per_image: dict[str, Array]
    per_row: dict[str, Array]

    def keep(self, images: NDArray[np.int64]) -> "State":
        """Return the state of the images at positions `images` (B',)."""
        return State(_each(self.per_image, images), _each(self.per_row, images))

    def pick(self, parents: NDArray[np.int64]) -> "State":
        """Return the state in which row k of image b continues its row `parents[b, k]` (B, K')."""
        return State(self.per_image, _each(self.per_row, (np.arange(len(parents))[:, None], parents)))


class StepOutput(NamedTuple):
    """The output of a decoding step: logits (B, K, V), the next state, attention (B, K, N) or None."""

    logits: Array
    state: State
    attention: Array | None


class Graphs:
    """The encoder and one step of the decoder of an exported folder.

    Args:
        folder: the exported folder.
        threads: threads of onnxruntime; 0: its default.

    Attributes:
        vocabulary_size: V of the decoder's logits.
        image_size: height and width of the encoder's input, in pixels.

    Raises:
        MissingDependencyError: onnxruntime is not installed.
        CheckpointError: a graph is missing or damaged, or the two are from different exports.
    """

    def __init__(self, folder: Path, threads: int = 0) -> None:
        self._encoder = open_graph(folder / ENCODER_FILE, threads)
        self._decoder = open_graph(folder / DECODER_FILE, threads)
        self._encoder_outputs = [each.name for each in self._encoder.get_outputs()]
        self._decoder_outputs = [each.name for each in self._decoder.get_outputs()]
        shapes = {each.name: each.shape for each in self._decoder.get_outputs()}
        expected = {each.name for each in self._decoder.get_inputs()}
        if expected != {TOKENS, *self._encoder_outputs} or LOGITS not in shapes:
            raise CheckpointError(
                f"{ENCODER_FILE} and {DECODER_FILE} in {folder} are from different exports; export the run again"
            )
        self.vocabulary_size = int(shapes[LOGITS][-1])
        self.image_size = int(self._encoder.get_inputs()[0].shape[1])

    def encode(self, pixels: NDArray[np.uint8]) -> State:
        """Return the state before the start token, one row per image, of pixels (B, size, size, 3).

        Raises:
            EncoderError: the encoder's features are not finite.
        """
        found = dict(zip(self._encoder_outputs, self._encoder.run(None, {PIXELS: pixels}), strict=True))
        if not all(np.isfinite(array).all() for array in found.values()):
            raise EncoderError("the encoder's features are not finite, or do not fit float16")
        return State(_named(found, IMAGE), _named(found, ROW))

    def step(self, tokens: NDArray[np.int64], state: State) -> StepOutput:
        """Return logits (B, K, V), the next state and attention (B, K, N) after `tokens` (B, K)."""
        inputs = {TOKENS: tokens}
        inputs |= {IMAGE + name: array for name, array in state.per_image.items()}
        inputs |= {ROW + name: array for name, array in state.per_row.items()}
        found = dict(zip(self._decoder_outputs, self._decoder.run(None, inputs), strict=True))
        return StepOutput(found[LOGITS], State(state.per_image, _named(found, NEXT)), found.get(ATTENTION))


def open_graph(path: Path, threads: int) -> Any:
    """Return an inference session for a graph.

    Raises:
        MissingDependencyError: onnxruntime is not installed.
        CheckpointError: the file is missing or damaged.
    """
    try:
        return open_session(path, threads)
    except MissingDependencyError:
        raise
    except Exception as error:  # onnxruntime's exception classes have no common base
        if not path.is_file():
            raise CheckpointError(f"{path.parent} has no {path.name}; export the run again") from error
        raise CheckpointError(f"{path} is damaged or truncated; export the run again") from error


def _each(arrays: Mapping[str, Array], places: Any) -> dict[str, Array]:
    return {name: array[places] for name, array in arrays.items()}


def _named(arrays: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    """Return the arrays whose names start with `prefix`, without it."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
