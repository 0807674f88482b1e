"""Captions of images with different settings: encoded together, and decoded together where settings are equal."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from seesay.captioners.base import Caption, Captioner, CaptionSettings, LoadedImage
from seesay.errors import SeesayError


@dataclass(frozen=True)
class CaptionRequest:
    """An image to caption, with its settings.

    Attributes:
        model_inputs: from `Captioner.prepare`.
        name: seeds the image's samples, from `Captioner.prepare`.
        settings: what to generate.
    """

    model_inputs: Any
    name: str
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
    encoded = captioner.encode([request.model_inputs for request in requests])
    groups: dict[CaptionSettings, list[int]] = {}
    for number, request in enumerate(requests):
        settings = replace(request.settings, options=captioner.options(request.settings.options))
        groups.setdefault(settings, []).append(number)
    for settings, numbers in groups.items():
        part = encoded if len(groups) == 1 else captioner.take(encoded, numbers)
        names = [requests[number].name for number in numbers]
        found: Sequence[Caption | SeesayError]
        try:
            generated = captioner.generate(part, names, settings)
            images = [LoadedImage(requests[number].name, requests[number].model_inputs) for number in numbers]
            found = captioner.accept(part, images, generated, settings)
        except SeesayError as error:
            found = [error] * len(numbers)
        for number, caption in zip(numbers, found, strict=True):
            deliver(number, caption)
