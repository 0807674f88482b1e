"""Captions of images with different options: one pass of the encoder, one search per set of equal options."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from seesay.captioners.base import Caption, ModelInputs
from seesay.captioners.trained import TrainedCaptioner
from seesay.config import DecodingOptions
from seesay.errors import SeesayError


@dataclass(frozen=True)
class CaptionRequest:
    """An image to caption, with its options.

    Attributes:
        model_inputs: the preprocessed pixels, from `Captioner.prepare`.
        name: seeds the image's samples, from `Captioner.prepare`.
        options: decoding options.
        attention: return attention weights.
        top_tokens: most probable words to return per position; 0: none.
    """

    model_inputs: ModelInputs
    name: str
    options: DecodingOptions
    attention: bool = False
    top_tokens: int = 0


@torch.inference_mode()
def generate_batch(
    captioner: TrainedCaptioner,
    requests: Sequence[CaptionRequest],
    deliver: Callable[[int, Caption | SeesayError], None],
) -> None:
    """Caption images whose options differ; a caption depends on its batch only by rounding.

    All images are encoded together; requests with equal options are decoded together.

    Args:
        captioner: a captioner or an ensemble.
        requests: the images with their options.
        deliver: called after each search with the number of a request and its caption or error.
    """
    state = captioner.encode([request.model_inputs for request in requests])
    groups: dict[tuple[DecodingOptions, bool, int], list[int]] = {}
    for number, request in enumerate(requests):
        key = (captioner.options(request.options), request.attention, request.top_tokens)
        groups.setdefault(key, []).append(number)
    for (options, attention, top_tokens), numbers in groups.items():
        part = state if len(groups) == 1 else state.keep(torch.tensor(numbers, device=captioner.device))
        names = [requests[number].name for number in numbers]
        found: Sequence[Caption | SeesayError]
        try:
            found = captioner.generate(part, names, options, attention=attention, top_tokens=top_tokens)
        except SeesayError as error:
            found = [error] * len(numbers)
        for number, caption in zip(numbers, found, strict=True):
            deliver(number, caption)
