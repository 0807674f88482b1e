"""The two graphs of an exported captioner, and the state that goes from one to the other and from word to word."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from seesay.errors import CheckpointError, EncoderError, MissingDependencyError
from seesay.onnx_runtime.manifest import DECODER_FILE, ENCODER_FILE
from seesay.onnx_sessions import open_session

PIXELS, TOKENS, LOGITS, ATTENTION = "pixels", "tokens", "logits", "attention"
IMAGE, ROW, NEXT = "image.", "row.", "next."
"""How names of the graphs begin: of what stays an image's, of a hypothesis's state before a word, and after it."""

Array = NDArray[Any]


@dataclass(frozen=True)
class State:
    """A decoder's state between two words, as `seesay.models.protocol.DecoderState`.

    Attributes:
        per_image: arrays (B, ...), shared by the hypotheses of an image.
        per_row: arrays (B, K, ...), one row a hypothesis.
    """

    per_image: dict[str, Array]
    per_row: dict[str, Array]

    def keep(self, images: NDArray[np.int64]) -> "State":
        """Returns the state of the images at positions `images` (B',)."""
        return State(_each(self.per_image, images), _each(self.per_row, images))

    def pick(self, parents: NDArray[np.int64]) -> "State":
        """Returns the state in which row k of image b continues its row `parents[b, k]` (B, K')."""
        return State(self.per_image, _each(self.per_row, (np.arange(len(parents))[:, None], parents)))


class StepOutput(NamedTuple):
    """What one decoding step gives: logits (B, K, V), the next state, attention (B, K, N) or None."""

    logits: Array
    state: State
    attention: Array | None


class Decoder(Protocol):
    """What a search needs of a decoder."""

    def step(self, tokens: NDArray[np.int64], state: State) -> StepOutput:
        """Returns the scores of the words that may follow `tokens` (B, K)."""
        ...


class Graphs:
    """The encoder and one step of the decoder of an exported folder.

    Args:
        folder: it.
        threads: of onnxruntime; 0 = as many as it chooses.

    Attributes:
        vocabulary_size: V of the decoder's scores.
        image_size: side of the square that the encoder is shown.

    Raises:
        MissingDependencyError: onnxruntime is not installed.
        CheckpointError: a graph is missing or damaged, or the two do not fit together.
    """

    def __init__(self, folder: Path, threads: int = 0) -> None:
        self._encoder = open_graph(folder / ENCODER_FILE, threads)
        self._decoder = open_graph(folder / DECODER_FILE, threads)
        self._kept = [each.name for each in self._encoder.get_outputs()]
        self._given = [each.name for each in self._decoder.get_outputs()]
        shapes = {each.name: each.shape for each in self._decoder.get_outputs()}
        wanted = {each.name for each in self._decoder.get_inputs()}
        if wanted != {TOKENS, *self._kept} or LOGITS not in shapes:
            raise CheckpointError(f"{ENCODER_FILE} and {DECODER_FILE} in {folder} are not of one export; export again")
        self.vocabulary_size = int(shapes[LOGITS][-1])
        self.image_size = int(self._encoder.get_inputs()[0].shape[1])

    def encode(self, pixels: NDArray[np.uint8]) -> State:
        """Returns the state before the start token, one row an image, of pixels (B, size, size, 3).

        Raises:
            EncoderError: the encoder's features are no finite numbers.
        """
        found = dict(zip(self._kept, self._encoder.run(None, {PIXELS: pixels}), strict=True))
        if not all(np.isfinite(array).all() for array in found.values()):
            raise EncoderError("the encoder's features are no finite numbers, or do not fit float16")
        return State(_named(found, IMAGE), _named(found, ROW))

    def step(self, tokens: NDArray[np.int64], state: State) -> StepOutput:
        """Returns logits (B, K, V) and attention (B, K, N) after the words `tokens` (B, K)."""
        given = {TOKENS: tokens}
        given |= {IMAGE + name: array for name, array in state.per_image.items()}
        given |= {ROW + name: array for name, array in state.per_row.items()}
        found = dict(zip(self._given, self._decoder.run(None, given), strict=True))
        return StepOutput(found[LOGITS], State(state.per_image, _named(found, NEXT)), found.get(ATTENTION))


def open_graph(path: Path, threads: int) -> Any:
    """Returns a graph ready to run.

    Raises:
        MissingDependencyError: onnxruntime is not installed.
        CheckpointError: the file is missing or damaged.
    """
    try:
        return open_session(path, threads)
    except MissingDependencyError:
        raise
    except Exception as error:  # onnxruntime has a class of its own for each kind, with no common base
        if not path.is_file():
            raise CheckpointError(f"{path.parent} has no {path.name}; export the run again") from error
        raise CheckpointError(f"{path} is damaged or cut short; export the run again") from error


def _each(arrays: Mapping[str, Array], places: Any) -> dict[str, Array]:
    return {name: array[places] for name, array in arrays.items()}


def _named(arrays: Mapping[str, Array], beginning: str) -> dict[str, Array]:
    """Returns the arrays whose names begin so, by the rest of their names."""
    return {name.removeprefix(beginning): array for name, array in arrays.items() if name.startswith(beginning)}
