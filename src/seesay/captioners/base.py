"""`Captioner`, the interface of all captioners, and `Caption`, its result. Does not need torch."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Self, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from seesay.captioners.alt_text import Style, alt_text, is_blank
from seesay.captioners.guard import clean, rejection_reason, retry_options
from seesay.captioners.identity import ModelIdentity, identify_folder
from seesay.config import DecodingOptions
from seesay.errors import CaptionError, ConfigError, ImageError
from seesay.images.loading import ImageInput, Preprocessing, read_image
from seesay.images.prefetch import prefetch
from seesay.images.sources import ImageBytes, source_error

_QUOTED = 80  # characters of an unusable caption in its message


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
        rejected: why the text is not usable, one of the reasons in `seesay.captioners.guard`; empty: it is usable, or
            was not checked.
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
    rejected: str = ""

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
        guard: check the captions, and generate unusable ones once more with other settings; see
            `seesay.captioners.guard`.
        style: the captions as generated (plain), or as alt text, which is empty for a blank image; see
            `seesay.captioners.alt_text`.
    """

    options: DecodingOptions | None = None
    attention: bool = False
    top_tokens: int = 0
    guard: bool = True
    style: Style = "plain"


DEFAULT_SETTINGS = CaptionSettings()


@dataclass(frozen=True)
class LoadedImage:
    """An image of the pipeline.

    Attributes:
        image: the image.
        inputs: its model inputs, or why it cannot be read.
        blank: the image has a single colour or nearly so; computed for alt text only.
    """

    image: ImageInput
    inputs: Any
    blank: bool = False

    @property
    def readable(self) -> bool:
        """Whether the image could be read."""
        return not isinstance(self.inputs, ImageError)


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

    @property
    def prompt_text(self) -> str:
        """The prompt of the images before its variables are filled in, with the language; empty: none."""
        return ""

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

    @property
    def punctuates(self) -> bool:
        """Whether a caption of maximum length without an end of sentence counts as cut in mid-sentence."""
        return True

    @overload
    def caption(  # type: ignore[overload-overlap]  # a str is a sequence of str too; the first form wins
        self,
        images: ImageInput,
        options: DecodingOptions | None = None,
        *,
        attention: bool = False,
        top_tokens: int = 0,
        guard: bool = True,
    ) -> Caption: ...

    @overload
    def caption(
        self,
        images: Sequence[ImageInput],
        options: DecodingOptions | None = None,
        *,
        attention: bool = False,
        top_tokens: int = 0,
        guard: bool = True,
    ) -> list[Caption]: ...

    def caption(
        self,
        images: ImageInput | Sequence[ImageInput],
        options: DecodingOptions | None = None,
        *,
        attention: bool = False,
        top_tokens: int = 0,
        guard: bool = True,
    ) -> Caption | list[Caption]:
        """Return the caption of an image, or the captions of several.

        Args:
            images: a path, URL, bytes of a file, opened image or NumPy array of uint8 (height, width, 3) (see
                `seesay.images.loading.ImageInput`), or a sequence of these.
            options: decoding options; None: the captioner's defaults. With `num_return_sequences` above 1 the other
                captions are `alternatives` of the first.
            attention: return attention weights.
            top_tokens: most probable words to return per position; 0: none.
            guard: check the caption, and generate an unusable one once more with other settings; if that is unusable
                too, the first one is returned with `rejected` set.

        Raises:
            ImageError: an image cannot be read; the message has its name and the reason.
            ConfigError: the captioner cannot caption images; or the options cannot be satisfied, for example a required
                word outside the vocabulary.
        """
        settings = CaptionSettings(options, attention, top_tokens, guard)
        if isinstance(images, (str, Path, bytes, ImageBytes, Image.Image, np.ndarray)):
            # In this thread: there is nothing to overlap, and the thread pools of two threads would contend.
            model_inputs, name = self.prepare(images)
            encoded = self.encode([model_inputs])
            generated = self.generate(encoded, [name], settings)
            (found,) = self.accept(encoded, [LoadedImage(images, model_inputs)], generated, settings)
            if isinstance(found, ImageError):
                raise found
            return found
        results: list[Caption] = []
        for batch in self._caption_batches(images, settings, batch_size=32, workers=2):
            for _, caption in batch:
                if isinstance(caption, ImageError):
                    raise caption
                results.append(caption)
        return results

    def caption_each(
        self,
        images: Iterable[ImageInput],
        options: DecodingOptions | None = None,
        *,
        attention: bool = False,
        top_tokens: int = 0,
        guard: bool = True,
        style: Style = "plain",
        batch_size: int = 32,
        workers: int = 2,
    ) -> Iterator[tuple[ImageInput, Caption | ImageError]]:
        """Yield every image with its caption or its `ImageError`, in order; see `caption_batches`."""
        for batch in self.caption_batches(
            images,
            options,
            attention=attention,
            top_tokens=top_tokens,
            guard=guard,
            style=style,
            batch_size=batch_size,
            workers=workers,
        ):
            yield from batch

    def caption_batches(
        self,
        images: Iterable[ImageInput],
        options: DecodingOptions | None = None,
        *,
        attention: bool = False,
        top_tokens: int = 0,
        guard: bool = True,
        style: Style = "plain",
        batch_size: int = 32,
        workers: int = 2,
    ) -> Iterator[list[tuple[ImageInput, Caption | ImageError]]]:
        """Yield batches of images with their captions or `ImageError`s, in order.

        Loading, encoding and decoding overlap: while a batch is decoded, the next one is encoded and the images after
        it are loaded. An image without a usable caption has a `CaptionError`, an `ImageError` with the reason.

        Args:
            images: the images.
            options: decoding options; None: the captioner's defaults.
            attention: return attention weights.
            top_tokens: most probable words to return per position; 0: none.
            guard: check the captions; see `CaptionSettings`.
            style: plain or alt-text; see `CaptionSettings`.
            batch_size: images per batch.
            workers: threads that load images.

        Raises:
            ConfigError: `batch_size` is below 1.
        """
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}; it must be at least 1")
        settings = CaptionSettings(options, attention, top_tokens, guard, style)
        for batch in self._caption_batches(images, settings, batch_size, workers):
            yield [(image, _usable(image, found)) for image, found in batch]

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
        """Return the model inputs of an image.

        The first element is an array of uint8: pixels, (height, width, 3), or the bytes of an encoded image. The second
        element, for a model with a prompt, is the image's prompt.

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

    def _caption_batches(
        self, images: Iterable[ImageInput], settings: CaptionSettings, batch_size: int, workers: int
    ) -> Iterator[list[tuple[ImageInput, Caption | ImageError]]]:
        """Yield batches as `caption_batches`, with unusable captions, whose `rejected` is set."""
        load = partial(self._load, find_blank=settings.style == "alt-text")
        loaded = prefetch(load, images, workers, ahead=2 * batch_size)
        concurrent = self.concurrent_images
        batches = iter(lambda: list(islice(loaded, 1 if concurrent else batch_size)), [])
        encoded = prefetch(self._encode_batch, batches, workers=1, ahead=1)
        caption = partial(self._caption_batch, settings=settings)
        if concurrent:
            yield from prefetch(caption, encoded, workers=concurrent, ahead=concurrent, on_abort=self.cancel)
        else:
            yield from map(caption, encoded)

    def _caption_batch(
        self, batch: tuple[list[LoadedImage], Any], settings: CaptionSettings
    ) -> list[tuple[ImageInput, Caption | ImageError]]:
        """Return the images of an encoded batch with their captions or `ImageError`s."""
        images, encoded = batch
        readable = [each for each in images if each.readable]
        found: Iterator[Caption | ImageError] = iter(())
        if readable:
            names = [image_name(each.image, each.inputs) for each in readable]
            found = iter(self.accept(encoded, readable, self.generate(encoded, names, settings), settings))
        return [(each.image, next(found) if each.readable else each.inputs) for each in images]

    def _load(self, image: ImageInput, find_blank: bool) -> LoadedImage:
        """Return an image with its model inputs or its `ImageError`."""
        try:
            inputs = self.load_inputs(image)
        except ImageError as error:
            return LoadedImage(image, error)
        return LoadedImage(image, inputs, find_blank and is_blank(_pixels(inputs[0])))

    def _encode_batch(self, batch: list[LoadedImage]) -> tuple[list[LoadedImage], Any]:
        """Return a batch with its encoded readable images; None if there are none."""
        inputs = [each.inputs for each in batch if each.readable]
        return batch, self.encode(inputs) if inputs else None

    def accept(
        self,
        encoded: Any,
        batch: Sequence[LoadedImage],
        generated: Sequence[Caption | ImageError],
        settings: CaptionSettings,
    ) -> list[Caption | ImageError]:
        """Return generated captions after the guard, in the style of the settings.

        Args:
            encoded: the encoded batch, from which unusable captions are generated once more.
            batch: its images.
            generated: captions or errors.
            settings: the settings.
        """
        accepted = list(generated)
        if settings.guard:
            accepted = [self._checked(found, each) for found, each in zip(accepted, batch, strict=True)]
            self._generate_again(encoded, batch, accepted, settings)
        if settings.style == "alt-text":
            accepted = [_as_alt_text(found, each.blank) for found, each in zip(accepted, batch, strict=True)]
        return accepted

    def _generate_again(
        self, encoded: Any, batch: Sequence[LoadedImage], found: list[Caption | ImageError], settings: CaptionSettings
    ) -> None:
        """Replace the rejected captions by those of a second attempt that are usable."""
        groups: dict[DecodingOptions, list[int]] = {}
        for place, each in enumerate(found):
            reason = "" if isinstance(each, ImageError) else each.rejected
            if reason and (options := self._retry_options(settings.options, reason)):
                groups.setdefault(options, []).append(place)
        for options, places in groups.items():
            names = [image_name(batch[place].image, batch[place].inputs) for place in places]
            second = self.generate(self.take(encoded, places), names, replace(settings, options=options))
            for place, generated in zip(places, second, strict=True):
                checked = self._checked(generated, batch[place])
                if not isinstance(checked, ImageError) and not checked.rejected:
                    found[place] = checked

    def _retry_options(self, options: DecodingOptions | None, reason: str) -> DecodingOptions | None:
        """Return the first settings of a second attempt that the captioner accepts; None if it refuses all."""
        for candidate in retry_options(self.options(options), reason):
            try:
                self.check(candidate)
            except ConfigError:
                continue
            return candidate
        return None

    def _checked(self, caption: Caption | ImageError, loaded: LoadedImage) -> Caption | ImageError:
        """Return the usable ones of a caption and its alternatives; if there are none, the caption with the reason."""
        if isinstance(caption, ImageError):
            return caption
        prompt = next((part for part in loaded.inputs[1:] if isinstance(part, str)), "")
        usable = []
        reasons = []
        for each in (caption, *caption.alternatives):
            finished = each.finished or not self.punctuates
            reasons.append(rejection_reason(each.text, prompt=prompt, finished=finished))
            if not reasons[-1]:
                usable.append(replace(each, text=clean(each.text)))
        if not usable:
            return replace(caption, rejected=reasons[0])
        return replace(usable[0], alternatives=tuple(usable[1:]))


def image_name(image: ImageInput, model_inputs: tuple[NDArray[np.uint8], ...]) -> str:
    """Return the name that seeds the samples of an image: its path, or a digest of its pixels."""
    return str(image) if isinstance(image, (str, Path)) else hashlib.sha256(model_inputs[0].data).hexdigest()


def _usable(image: ImageInput, found: Caption | ImageError) -> Caption | ImageError:
    """Return a caption or an error; an error in place of an unusable caption."""
    if isinstance(found, ImageError) or not found.rejected:
        return found
    text = found.text if len(found.text) <= _QUOTED else f"{found.text[: _QUOTED - 3]}..."
    problem = f"no usable caption: {found.rejected}" + (f" ({text!r})" if text else "")
    name = image if isinstance(image, (str, Path, bytes, ImageBytes)) else "image"
    return CaptionError(str(source_error(name, problem)), found.rejected)


def _pixels(inputs: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the pixels of an image, (height, width, 3), from pixels or from the bytes of an encoded image."""
    return inputs if inputs.ndim == 3 else np.asarray(read_image(inputs.tobytes()))


def _as_alt_text(caption: Caption | ImageError, blank: bool) -> Caption | ImageError:
    """Return a caption and its alternatives as alt text; a blank image has an empty one, which is not rejected."""
    if isinstance(caption, ImageError):
        return caption
    if blank:
        return replace(caption, text="", alternatives=(), rejected="")
    if caption.rejected:  # its error quotes what the model generated
        return caption
    others = tuple(replace(each, text=alt_text(each.text)) for each in caption.alternatives)
    return replace(caption, text=alt_text(caption.text), alternatives=others)
