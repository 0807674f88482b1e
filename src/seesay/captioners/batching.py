"""Captions of images with different settings: encoded together, and decoded together where settings are equal."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from seesay.captioners.acceptance import LoadedImage, generate_usable
from seesay.captioners.base import Captioner
from seesay.captioners.caption import Caption, CaptionSettings
from seesay.errors import SeesayError


@dataclass(frozen=True)
class CaptionRequest:
    """An image to caption, with its settings.

    Attributes:
        image: from `Captioner.prepare` with these settings.
        settings: what to generate.
    """

    image: LoadedImage
    settings: CaptionSettings


def generate_batch(
    captioner: Captioner,
    requests: Sequence[CaptionRequest],
    deliver: Callable[[int, Caption | SeesayError], None],
) -> None:
    """Caption images whose settings differ; a caption depends on its batch only by rounding.

    Args:
        captioner: the captioner.
        requests: the images with their settings.
        deliver: called after each search with the number of a request and its caption or error.
    """
    encoded = captioner.encode([request.image.inputs for request in requests])
    groups: dict[CaptionSettings, list[int]] = {}
    for number, request in enumerate(requests):
        settings = request.settings
        resolved = replace(settings, options=captioner.options(settings.options, settings.prompt))
        groups.setdefault(resolved, []).append(number)
    for settings, numbers in groups.items():
        part = encoded if len(groups) == 1 else captioner.take(encoded, numbers)
        images = [requests[number].image for number in numbers]
        found: Sequence[Caption | SeesayError]
        try:
            found = generate_usable(captioner, part, images, settings)
        except SeesayError as error:
            found = [error] * len(numbers)
        for number, caption in zip(numbers, found, strict=True):
            deliver(number, caption)
