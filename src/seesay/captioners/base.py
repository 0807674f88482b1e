"""`Captioner`, the interface of all captioners, and `Caption`, its result. Does not need torch."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Self, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from seesay.captioners.identity import ModelIdentity, identify_folder
from seesay.config import DecodingOptions
from seesay.errors import ConfigError, ImageError
from seesay.images.loading import ImageInput, Preprocessing
from seesay.images.prefetch import prefetch
from seesay.images.sources import ImageBytes


@dataclass(frozen=True)
class Caption:
    """The caption of an image, with its scores.

    Attributes:
        text: the caption.
        words: the words of the caption.
        log_probs: natural log-probability of each word; empty if a model server returns none, and `score` is then NaN.
        end_log_prob: natural log-probability of the end token, which is part of the score; NaN if it is unknown.
        score: the sum of these log-probabilities (those of repeated words times `repetition_penalty`), in beam search
            divided by (words + 1) ** `length_penalty`; the search maximises it.
        finished: False if the caption was truncated at the maximum length.
        attention: attention weights per word, (T, N), rows sum to 1; None if not requested.
        grid: (rows, columns) of the N regions; None if they form no grid.
        alternatives: the other captions requested by `num_return_sequences`, best first; theirs are empty.
        top_tokens: the most probable words at each position and at the end, with their natural log-probabilities
            conditioned on the previous words, most probable first; None stands for the end token. Empty if not
            requested.
    """

    text: str
    words: tuple[str, ...]
    log_probs: tuple[float, ...]
    end_log_prob: float
    score: float
    finished: bool
    attention: NDArray[np.float32] | None = None
    grid: tuple[int, int] | None = None
    alternatives: tuple["Caption", ...] = ()
    top_tokens: tuple[tuple[tuple[str | None, float], ...], ...] = ()

    @property
    def probability(self) -> float:
        """Probability (0..1) of the words, without the end token; NaN if it is unknown."""
        if len(self.log_probs) < len(self.words):
            return float("nan")
        return float(np.exp(sum(self.log_probs)))


@dataclass(frozen=True)
class CaptionSettings:
    """What to generate for the images of a batch.

    Attributes:
        options: decoding options; None: the captioner's defaults.
        attention: return attention weights.
        top_tokens: most probable words to return per position; 0: none.
    """

    options: DecodingOptions | None = None
    attention: bool = False
    top_tokens: int = 0


DEFAULT_SETTINGS = CaptionSettings()


class Captioner(ABC):
    """Interface of captioners, with the pipeline that loads, encodes and captions images.

    A subclass provides `load_inputs`, `encode`, `generate` and `take`. They run in different threads at the same time,
    each on another batch.
    """

    @property
    def folders(self) -> tuple[Path, ...]:
        """Folders of the models; empty if they are not in folders of this machine."""
        return ()

    @property
    def name(self) -> str:
        """Name of the model, for people: of a folder its name, of an ensemble the joined names."""
        return "+".join(folder.resolve().name for folder in self.folders)

    def identities(self) -> tuple[ModelIdentity, ...]:
        """Return what identifies the models; recorded beside an output."""
        return tuple(map(identify_folder, self.folders))

    def describe(self) -> dict[str, Any]:
        """Return facts about the model for people and programs: names of parts, sizes."""
        return {}

    @property
    @abstractmethod
    def defaults(self) -> DecodingOptions:
        """The decoding options that are used without others."""

    def options(self, options: DecodingOptions | None = None) -> DecodingOptions:
        """Return `options`, by default the captioner's, with all values that depend on the captioner set."""
        return options or self.defaults

    def check(self, options: DecodingOptions) -> None:  # noqa: B027
        """Check the options before a search.

        Raises:
            ConfigError: the captioner cannot satisfy them, for example a required word is not in the vocabulary.
        """

    @overload
    def caption(  # type: ignore[overload-overlap]  # a str is a sequence of str too; the first form wins
        self,
        images: ImageInput,
        options: DecodingOptions | None = None,
        *,
        attention: bool = False,
        top_tokens: int = 0,
    ) -> Caption: ...

    @overload
    def caption(
        self,
        images: Sequence[ImageInput],
        options: DecodingOptions | None = None,
        *,
        attention: bool = False,
        top_tokens: int = 0,
    ) -> list[Caption]: ...

    def caption(
        self,
        images: ImageInput | Sequence[ImageInput],
        options: DecodingOptions | None = None,
        *,
        attention: bool = False,
        top_tokens: int = 0,
    ) -> Caption | list[Caption]:
        """Return the caption of an image, or the captions of several.

        Args:
            images: a path, URL, bytes of a file, opened image or NumPy array of uint8 (height, width, 3) (see
                `seesay.images.loading.ImageInput`), or a sequence of these.
            options: decoding options; None: the captioner's defaults. With `num_return_sequences` above 1 the other
                captions are `alternatives` of the first.
            attention: return attention weights.
            top_tokens: most probable words to return per position; 0: none.

        Raises:
            ImageError: an image cannot be read; the message has its name and the reason.
            ConfigError: the captioner cannot caption images; or the options cannot be satisfied, for example a required
                word outside the vocabulary.
        """
        if isinstance(images, (str, Path, bytes, ImageBytes, Image.Image, np.ndarray)):
            # In this thread: there is nothing to overlap, and the thread pools of two threads would contend.
            model_inputs, name = self.prepare(images)
            settings = CaptionSettings(options, attention, top_tokens)
            (found,) = self.generate(self.encode([model_inputs]), [name], settings)
            if isinstance(found, ImageError):
                raise found
            return found
        results: list[Caption] = []
        for _, found in self.caption_each(images, options, attention=attention, top_tokens=top_tokens):
            if isinstance(found, ImageError):
                raise found
            results.append(found)
        return results

    def caption_each(
        self,
        images: Iterable[ImageInput],
        options: DecodingOptions | None = None,
        *,
        attention: bool = False,
        top_tokens: int = 0,
        batch_size: int = 32,
        workers: int = 2,
    ) -> Iterator[tuple[ImageInput, Caption | ImageError]]:
        """Yield every image with its caption or its `ImageError`, in order; see `caption_batches`."""
        for batch in self.caption_batches(
            images, options, attention=attention, top_tokens=top_tokens, batch_size=batch_size, workers=workers
        ):
            yield from batch

    def caption_batches(
        self,
        images: Iterable[ImageInput],
        options: DecodingOptions | None = None,
        *,
        attention: bool = False,
        top_tokens: int = 0,
        batch_size: int = 32,
        workers: int = 2,
    ) -> Iterator[list[tuple[ImageInput, Caption | ImageError]]]:
        """Yield batches of images with their captions or `ImageError`s, in order.

        Loading, encoding and decoding overlap: while a batch is decoded, the next one is encoded and the images after
        it are loaded.

        Args:
            images: the images.
            options: decoding options; None: the captioner's defaults.
            attention: return attention weights.
            top_tokens: most probable words to return per position; 0: none.
            batch_size: images per batch.
            workers: threads that load images.

        Raises:
            ConfigError: `batch_size` is below 1.
        """
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}; it must be at least 1")
        settings = CaptionSettings(options, attention, top_tokens)
        concurrent = self.concurrent_images
        loaded = prefetch(self._load, images, workers, ahead=2 * batch_size)
        batches = iter(lambda: list(islice(loaded, 1 if concurrent else batch_size)), [])
        encoded = prefetch(self._encode_batch, batches, workers=1, ahead=1)
        caption = partial(self._caption_batch, settings=settings)
        if concurrent:
            yield from prefetch(caption, encoded, workers=concurrent, ahead=concurrent, on_abort=self.cancel)
        else:
            yield from map(caption, encoded)

    @property
    def concurrent_images(self) -> int:
        """Number of images of `caption_batches` that are in `generate` at the same time, each as a batch of its own.

        0, as for every model of this process: the images of one batch are, in the thread of the caller.
        """
        return 0

    def cancel(self) -> None:  # noqa: B027
        """Stop the calls of `generate` that run in other threads; needed with `concurrent_images`."""

    def warm_up(self) -> bool:
        """Caption an empty image, because the first one takes longest; return whether attention is available.

        Raises:
            ConfigError: the captioner cannot caption images.
        """
        blank = Image.new("RGB", (64, 64))
        try:
            return self.caption(blank, attention=True).attention is not None
        except ConfigError:  # the model has no attention maps
            self.caption(blank)
            return False

    def prepare(self, image: ImageInput) -> tuple[Any, str]:
        """Return the model inputs of an image and the name that seeds its samples.

        Raises:
            ImageError: the image cannot be read.
            ConfigError: the captioner cannot caption images.
        """
        model_inputs = self.load_inputs(image)
        return model_inputs, image_name(image, model_inputs)

    def preprocessing(self) -> Preprocessing | None:
        """Return how an image becomes the pixels that regions of attention divide; None: there is no such map."""
        return None

    @abstractmethod
    def load_inputs(self, image: ImageInput) -> Any:
        """Return the model inputs of an image: a tuple whose first element is an array of pixels.

        Raises:
            ImageError: the image cannot be read.
            ConfigError: the captioner cannot caption images.
        """

    @abstractmethod
    def encode(self, inputs: Sequence[Any]) -> Any:
        """Return the encoded batch of B images from their model inputs."""

    @abstractmethod
    def generate(
        self, encoded: Any, names: Sequence[str] | None, settings: CaptionSettings
    ) -> Sequence[Caption | ImageError]:
        """Return the captions of an encoded batch, with an `ImageError` for each image that cannot be captioned.

        Args:
            encoded: from `encode`.
            names: a name per image for messages and the seeds of sampling; None: their positions.
            settings: what to generate.
        """

    @abstractmethod
    def take(self, encoded: Any, places: Sequence[int]) -> Any:
        """Return the encoded images at some positions of a batch."""

    def summary(self) -> str:
        """Return a line about the resources that were used, such as the tokens of a server; empty if there is none."""
        return ""

    def close(self) -> None:  # noqa: B027
        """Free the memory of the models; the captioner cannot be used afterwards."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _load(self, image: ImageInput) -> tuple[ImageInput, Any]:
        """Return an image with its model inputs or its `ImageError`."""
        try:
            return image, self.load_inputs(image)
        except ImageError as error:
            return image, error

    def _encode_batch(self, batch: list[tuple[ImageInput, Any]]) -> tuple[list[tuple[ImageInput, Any]], Any]:
        """Return a batch with its encoded readable images; None if there are none."""
        inputs = [found for _, found in batch if not isinstance(found, ImageError)]
        return batch, self.encode(inputs) if inputs else None

    def _caption_batch(
        self, batch: tuple[list[tuple[ImageInput, Any]], Any], settings: CaptionSettings
    ) -> list[tuple[ImageInput, Caption | ImageError]]:
        """Return the images of an encoded batch with their captions or `ImageError`s."""
        images, state = batch
        names = [image_name(image, found) for image, found in images if not isinstance(found, ImageError)]
        captions = iter(self.generate(state, names, settings) if names else ())
        return [(image, found if isinstance(found, ImageError) else next(captions)) for image, found in images]


def image_name(image: ImageInput, model_inputs: tuple[NDArray[np.uint8], ...]) -> str:
    """Return the name that seeds the samples of an image: its path, or a digest of its pixels."""
    return str(image) if isinstance(image, (str, Path)) else hashlib.sha256(model_inputs[0].data).hexdigest()
