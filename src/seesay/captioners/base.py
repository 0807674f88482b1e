"""`Captioner`, the interface of all captioners. Does not need torch."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Self, Unpack, overload

import numpy as np
from PIL import Image

from seesay.captioners.acceptance import LoadedImage, generate_usable, require_usable
from seesay.captioners.caption import DEFAULT_SETTINGS, Caption, CaptionSettings, SettingFields, caption_settings
from seesay.captioners.identity import ModelIdentity, identify_folder, repository_of
from seesay.config import Config, DecodingOptions
from seesay.errors import ConfigError, ImageError
from seesay.images.loading import ImageInput, Preprocessing
from seesay.images.prefetch import prefetch
from seesay.images.sources import ImageBytes


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
        """Name of the model, for people: of a folder its name, of a run of the hub its name there; joined by +."""
        return "+".join(repository_of(folder) or folder.resolve().name for folder in self.folders)

    @property
    def prompt_text(self) -> str:
        """The prompt of the images before its variables are filled in, with the language; empty: none."""
        return ""

    @property
    def run_config(self) -> Config | None:
        """The configuration of the run that trained the model; None if there is none."""
        return None

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

    def options(self, options: DecodingOptions | None = None, prompt: str = "") -> DecodingOptions:
        """Return `options`, by default the captioner's, with all values that depend on captioner and prompt set."""
        return options or self.defaults

    @property
    def takes_prompts(self) -> bool:
        """Whether the model takes a prompt."""
        return False

    def check_prompt(self, prompt: str) -> None:
        """Check the prompt of a call; an empty one stands for the captioner's.

        Raises:
            ConfigError: the model takes no prompt, or not this one.
        """
        if prompt:
            raise ConfigError(f"{self.name} takes no prompt; drop it")

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
        self, images: ImageInput, options: DecodingOptions | None = None, **settings: Unpack[SettingFields]
    ) -> Caption: ...

    @overload
    def caption(
        self, images: Sequence[ImageInput], options: DecodingOptions | None = None, **settings: Unpack[SettingFields]
    ) -> list[Caption]: ...

    def caption(
        self,
        images: ImageInput | Sequence[ImageInput],
        options: DecodingOptions | None = None,
        **settings: Unpack[SettingFields],
    ) -> Caption | list[Caption]:
        """Return the caption of an image, or the captions of several.

        Args:
            images: a path, URL, bytes of a file, opened image or NumPy array of uint8 (height, width, 3) (see
                `seesay.images.loading.ImageInput`), or a sequence of these.
            options: decoding options; None: the captioner's defaults. With `num_return_sequences` above 1 the other
                captions are `alternatives` of the first.
            settings: `attention`, `top_tokens`, `guard`, `style` and `prompt`, the fields of `CaptionSettings`. A
                caption that the guard rejects twice is returned with `rejected` set.

        Raises:
            ImageError: an image cannot be read; the message has its name and the reason.
            ConfigError: the captioner cannot caption images; a setting is unknown; or the options or the prompt cannot
                be satisfied, for example a required word outside the vocabulary.
        """
        chosen = caption_settings(options, **settings)
        if isinstance(images, (str, Path, bytes, ImageBytes, Image.Image, np.ndarray)):
            # In this thread: there is nothing to overlap, and the thread pools of two threads would contend.
            self.check_prompt(chosen.prompt)
            loaded = self.prepare(images, chosen)
            (found,) = generate_usable(self, self.encode([loaded.inputs]), [loaded], chosen)
            if isinstance(found, ImageError):
                raise found
            return self._with_source(found, images)
        results: list[Caption] = []
        for batch in self._caption_batches(images, chosen, batch_size=32, workers=2):
            for image, caption in batch:
                if isinstance(caption, ImageError):
                    raise caption
                results.append(self._with_source(caption, image))
        return results

    def _with_source(self, caption: Caption, image: ImageInput) -> Caption:
        """Return a caption with the name of its image; images in memory are not kept."""
        preprocessing = self.preprocessing()
        cropped = preprocessing is not None and preprocessing.resize == "crop"
        return replace(caption, source=str(image) if isinstance(image, (str, Path)) else "", cropped=cropped)

    def caption_each(
        self,
        images: Iterable[ImageInput],
        options: DecodingOptions | None = None,
        *,
        batch_size: int = 32,
        workers: int = 2,
        **settings: Unpack[SettingFields],
    ) -> Iterator[tuple[ImageInput, Caption | ImageError]]:
        """Yield every image with its caption or its `ImageError`, in order; see `caption_batches`."""
        for batch in self.caption_batches(images, options, batch_size=batch_size, workers=workers, **settings):
            yield from batch

    def caption_batches(
        self,
        images: Iterable[ImageInput],
        options: DecodingOptions | None = None,
        *,
        batch_size: int = 32,
        workers: int = 2,
        **settings: Unpack[SettingFields],
    ) -> Iterator[list[tuple[ImageInput, Caption | ImageError]]]:
        """Yield batches of images with their captions or `ImageError`s, in order.

        If a model server cannot be used any more, the finished captions of later images are yielded before the error is
        raised.

        Loading, encoding and decoding overlap: while a batch is decoded, the next one is encoded and the images after
        it are loaded. An image without a usable caption has a `CaptionError`, an `ImageError` with the reason.

        Args:
            images: the images.
            options: decoding options; None: the captioner's defaults.
            batch_size: images per batch.
            workers: threads that load images.
            settings: see `caption`.

        Raises:
            ConfigError: `batch_size` is below 1, or a setting is unknown.
        """
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}; it must be at least 1")
        for batch in self._caption_batches(images, caption_settings(options, **settings), batch_size, workers):
            yield [(image, require_usable(image, found)) for image, found in batch]

    @property
    def concurrent_images(self) -> int:
        """Number of images of `caption_batches` that are in `generate` at the same time, each as a batch of its own.

        0, as for every model of this process: the images of one batch are, in the thread of the caller.
        """
        return 0

    def cancel(self) -> None:  # noqa: B027
        """Stop the calls of `generate` that run in other threads; needed with `concurrent_images`."""

    def unavailable(self) -> str:
        """Return why no image can be captioned at present, such as a server that is down; empty if nothing is known."""
        return ""

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

    def prepare(self, image: ImageInput, settings: CaptionSettings = DEFAULT_SETTINGS) -> LoadedImage:
        """Return an image with its model inputs.

        Raises:
            ImageError: the image cannot be read.
            ConfigError: the captioner cannot caption images.
        """
        loaded = LoadedImage(image, self.load_inputs(image, settings.prompt))
        return loaded.find_blank() if settings.style == "alt-text" else loaded

    def preprocessing(self) -> Preprocessing | None:
        """Return how an image becomes the pixels that regions of attention divide; None: there is no such map."""
        return None

    @abstractmethod
    def load_inputs(self, image: ImageInput, prompt: str = "") -> Any:
        """Return the model inputs of an image.

        The first element is an array of uint8: pixels, (height, width, 3), or the bytes of an encoded image. The second
        element, for a model with a prompt, is the image's prompt.

        Args:
            image: the image.
            prompt: of the call, which `check_prompt` accepts; empty: the captioner's.

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
        self.check_prompt(settings.prompt)
        load = partial(self._load, settings=settings)
        loaded = prefetch(load, images, workers, ahead=2 * batch_size)
        concurrent = self.concurrent_images
        batches = iter(lambda: list(islice(loaded, 1 if concurrent else batch_size)), [])
        encoded = prefetch(self._encode_batch, batches, workers=1, ahead=1)
        caption = partial(self._caption_batch, settings=settings)
        if concurrent:
            # Finished captions may have cost money.
            yield from prefetch(
                caption, encoded, workers=concurrent, ahead=concurrent, on_abort=self.cancel, keep_finished=True
            )
        else:
            yield from map(caption, encoded)

    def _caption_batch(
        self, batch: tuple[list[LoadedImage], Any], settings: CaptionSettings
    ) -> list[tuple[ImageInput, Caption | ImageError]]:
        """Return the images of an encoded batch with their captions or `ImageError`s."""
        images, encoded = batch
        readable = [each for each in images if each.readable]
        found = iter(generate_usable(self, encoded, readable, settings) if readable else ())
        return [(each.image, next(found) if each.readable else each.inputs) for each in images]

    def _load(self, image: ImageInput, settings: CaptionSettings) -> LoadedImage:
        """Return an image with its model inputs or its `ImageError`."""
        try:
            return self.prepare(image, settings)
        except ImageError as error:
            return LoadedImage(image, error)

    def _encode_batch(self, batch: list[LoadedImage]) -> tuple[list[LoadedImage], Any]:
        """Return a batch with its encoded readable images; None if there are none."""
        inputs = [each.inputs for each in batch if each.readable]
        return batch, self.encode(inputs) if inputs else None
