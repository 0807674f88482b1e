"""The images of a batch, and their captions after the guard: checked, generated once more, or as alt text."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from seesay.captioners.alt_text import alt_text, is_blank
from seesay.captioners.caption import Caption, CaptionSettings
from seesay.captioners.guard import clean, rejection_reason, retry_options
from seesay.config import DecodingOptions
from seesay.errors import CaptionError, ConfigError, ImageError
from seesay.images.loading import ImageInput, read_image
from seesay.images.sources import ImageBytes, source_error

_QUOTED = 80  # characters of an unusable caption in its message


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

    @cached_property
    def name(self) -> str:
        """The name that seeds the image's samples: its path, or a digest of its pixels."""
        if isinstance(self.image, (str, Path)):
            return str(self.image)
        return hashlib.sha256(self.inputs[0].data).hexdigest()

    @property
    def prompt(self) -> str:
        """The prompt of the image; empty: none."""
        return next((part for part in self.inputs[1:] if isinstance(part, str)), "")

    def find_blank(self) -> "LoadedImage":
        """Return the image with `blank` set."""
        pixels: NDArray[np.uint8] = self.inputs[0]
        if pixels.ndim != 3:  # the bytes of an encoded image
            pixels = np.asarray(read_image(pixels.tobytes()))
        return replace(self, blank=is_blank(pixels))


class Generator(Protocol):
    """What `generate_usable` needs of a captioner; see `seesay.captioners.base.Captioner`."""

    @property
    def punctuates(self) -> bool:
        """Whether a caption of maximum length without an end of sentence counts as cut."""

    def options(self, options: DecodingOptions | None = None, prompt: str = "") -> DecodingOptions:
        """Return the options with all values set."""

    def check(self, options: DecodingOptions) -> None:
        """Check the options before a search."""

    def generate(
        self, encoded: Any, names: Sequence[str] | None, settings: CaptionSettings
    ) -> Sequence[Caption | ImageError]:
        """Return the captions of an encoded batch."""

    def take(self, encoded: Any, places: Sequence[int]) -> Any:
        """Return the encoded images at some positions of a batch."""


def generate_usable(
    generator: Generator, encoded: Any, batch: Sequence[LoadedImage], settings: CaptionSettings
) -> list[Caption | ImageError]:
    """Return the captions of an encoded batch after the guard, in the style of the settings.

    Args:
        generator: the captioner.
        encoded: the encoded batch.
        batch: its images.
        settings: what to generate. With `guard`, unusable captions are generated once more; where that does not help,
            the first caption is returned with `rejected` set.
    """
    found = list(generator.generate(encoded, [each.name for each in batch], settings))
    if settings.guard:
        found = [_checked(generator, caption, each) for caption, each in zip(found, batch, strict=True)]
        _generate_again(generator, encoded, batch, found, settings)
    if settings.style == "alt-text":
        found = [_as_alt_text(caption, each.blank) for caption, each in zip(found, batch, strict=True)]
    return found


def require_usable(image: ImageInput, found: Caption | ImageError) -> Caption | ImageError:
    """Return a caption or an error; an error in place of an unusable caption."""
    if isinstance(found, ImageError) or not found.rejected:
        return found
    text = found.text if len(found.text) <= _QUOTED else f"{found.text[: _QUOTED - 3]}..."
    problem = f"no usable caption: {found.rejected}" + (f" ({text!r})" if text else "")
    name = image if isinstance(image, (str, Path, bytes, ImageBytes)) else "image"
    return CaptionError(str(source_error(name, problem)), found.rejected)


def _generate_again(
    generator: Generator,
    encoded: Any,
    batch: Sequence[LoadedImage],
    found: list[Caption | ImageError],
    settings: CaptionSettings,
) -> None:
    """Replace the rejected captions by those of a second attempt that are usable."""
    groups: dict[DecodingOptions, list[int]] = {}
    for place, each in enumerate(found):
        reason = "" if isinstance(each, ImageError) else each.rejected
        if reason and (options := _retry_options(generator, settings, reason)):
            groups.setdefault(options, []).append(place)
    for options, places in groups.items():
        images = [batch[place] for place in places]
        again = replace(settings, options=options)
        second = generator.generate(generator.take(encoded, places), [each.name for each in images], again)
        for place, image, generated in zip(places, images, second, strict=True):
            checked = _checked(generator, generated, image)
            if not isinstance(checked, ImageError) and not checked.rejected:
                found[place] = checked


def _retry_options(generator: Generator, settings: CaptionSettings, reason: str) -> DecodingOptions | None:
    """Return the first settings of a second attempt that the captioner accepts; None if it refuses all."""
    for candidate in retry_options(generator.options(settings.options, settings.prompt), reason):
        try:
            generator.check(candidate)
        except ConfigError:
            continue
        return candidate
    return None


def _checked(generator: Generator, caption: Caption | ImageError, image: LoadedImage) -> Caption | ImageError:
    """Return the usable ones of a caption and its alternatives; if there are none, the caption with the reason."""
    if isinstance(caption, ImageError):
        return caption
    usable = []
    reasons = []
    for each in (caption, *caption.alternatives):
        finished = each.finished or not generator.punctuates
        reasons.append(rejection_reason(each.text, prompt=image.prompt, finished=finished))
        if not reasons[-1]:
            usable.append(replace(each, text=clean(each.text)))
    if not usable:
        return replace(caption, rejected=reasons[0])
    return replace(usable[0], alternatives=tuple(usable[1:]))


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
