"""Images that each have options of their own, captioned in shared passes of encoder and decoder."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from weakref import WeakKeyDictionary

import numpy as np
import torch
from PIL import Image

from seesay.captioner import Caption, ModelInputs, TrainedCaptioner
from seesay.config import DecodingOptions
from seesay.decoding.stepping import Steps, run_together
from seesay.errors import SeesayError
from seesay.models.protocol import DecoderState


@dataclass(frozen=True)
class CaptionRequest:
    """An image that is to be captioned, and how.

    Attributes:
        model_inputs: the image as the encoders are shown it, and
        name: what sampling draws its randomness from: both of `TrainedCaptioner.prepare`.
        options: how to search.
        attention: keep where the model looked at each word.
        top_tokens: of the likeliest words, how many to give at each place.
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
    """Captions images whose options differ; each caption is the one that its image gets alone, up to rounding.

    Those of equal options are searched for as one, and all searches share the decoder's steps. They pass through the
    encoder together as well, unless it is one of those of which, on a processor, an image's last bits depend on its
    company: rounding makes more of them, and one caption in fifty was another (`is_batch_invariant`).

    Args:
        captioner: one, or an ensemble.
        requests: the images.
        deliver: told the number of an image and its caption, or why there is none, as soon as its search ends; a
            image does not wait for others whose search takes longer.
    """
    memory, mask = _see(captioner, [caption_request.model_inputs for caption_request in requests])
    state = captioner.decoder.init_state(memory, mask)
    alike: dict[tuple[DecodingOptions, bool, int], list[int]] = {}
    for number, caption_request in enumerate(requests):
        alike.setdefault(
            (captioner.options(caption_request.options), caption_request.attention, caption_request.top_tokens), []
        ).append(number)
    groups = list(alike.values())

    def search(options: DecodingOptions, attention: bool, top_tokens: int, group: list[int]) -> Steps[list[Caption]]:
        chosen = torch.tensor(group, device=memory.device)
        own, kept = (memory, state) if len(groups) == 1 else (memory[chosen], state.keep(chosen))
        shown = mask if mask is None or len(groups) == 1 else mask[chosen]
        begin: Callable[[], DecoderState] = lambda: kept  # noqa: E731
        return captioner.saying(begin, own, shown, options, [requests[n].name for n in group], attention, top_tokens)

    def hand_out(group: int, found: list[Caption] | SeesayError) -> None:
        captions: Sequence[Caption | SeesayError]
        captions = [found] * len(groups[group]) if isinstance(found, SeesayError) else found
        for number, caption in zip(groups[group], captions, strict=True):
            deliver(number, caption)

    searches = [search(*key, group) for key, group in alike.items()]
    run_together(captioner.decoder, searches, hand_out)


@torch.inference_mode()
def is_batch_invariant(captioner: TrainedCaptioner) -> bool:
    """Tells whether what the decoder attends to is the same, to the last bit, whichever images are seen together.

    It is measured on noise once for each captioner. On a graphics card, where there is no caption to the last bit in
    any case, images are always seen together.
    """
    if captioner.device.type != "cpu":
        return True
    if captioner not in _same:
        random = np.random.default_rng(0)
        noise = [Image.fromarray(random.integers(0, 256, (64, 64, 3), np.uint8)) for _ in range(_BATCH_SIZE)]
        model_inputs = [captioner.prepare(image)[0] for image in noise]
        alone = _each_alone(captioner, model_inputs)
        companies = ([0, _BATCH_SIZE], [0, 2, 5, _BATCH_SIZE])
        together = [
            _joined([captioner.see(model_inputs[at:to]) for at, to in pairwise(places)]) for places in companies
        ]
        _same[captioner] = all(torch.equal(memory, alone[0]) for memory, _ in together)
    return _same[captioner]


_BATCH_SIZE = 8
_same: WeakKeyDictionary[TrainedCaptioner, bool] = WeakKeyDictionary()

Memory = tuple[torch.Tensor, torch.Tensor | None]
"""What the decoder attends to, of images, (B, N, D), and its mask."""


def _see(captioner: TrainedCaptioner, images: Sequence[ModelInputs]) -> Memory:
    """Returns what the decoder attends to, of images, and its mask."""
    together = len(images) > 1 and is_batch_invariant(captioner)
    return captioner.see(images) if together else _each_alone(captioner, images)


def _each_alone(captioner: TrainedCaptioner, images: Sequence[ModelInputs]) -> Memory:
    return _joined([captioner.see([model_inputs]) for model_inputs in images])


def _joined(parts: Sequence[Memory]) -> Memory:
    masks = [mask for _, mask in parts if mask is not None]
    return torch.cat([memory for memory, _ in parts]), torch.cat(masks) if masks else None
