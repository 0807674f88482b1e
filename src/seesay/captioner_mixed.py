"""Pictures that each have options of their own, captioned in shared passes of encoder and decoder."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from weakref import WeakKeyDictionary

import numpy as np
import torch
from PIL import Image

from seesay.captioner import Caption, Captioner, Views
from seesay.config import DecodingOptions
from seesay.decoding.stepping import Steps, run_together
from seesay.errors import SeesayError
from seesay.models.protocol import DecoderState


@dataclass(frozen=True)
class Wish:
    """A picture that is to be captioned, and how.

    Attributes:
        views: the picture as the encoders are shown it, and
        name: what sampling draws its randomness from: both of `Captioner.prepare`.
        options: how to search.
        attention: keep where the model looked at each word.
        likely: of the likeliest words, how many to give at each place.
    """

    views: Views
    name: str
    options: DecodingOptions
    attention: bool = False
    likely: int = 0


@torch.inference_mode()
def caption_mixed(
    captioner: Captioner, wishes: Sequence[Wish], deliver: Callable[[int, Caption | SeesayError], None]
) -> None:
    """Captions pictures whose options differ; each caption is the one that its picture gets alone, up to rounding.

    Those of equal options are searched for as one, and all searches share the decoder's steps. They pass through the
    encoder together as well, unless it is one of those of which, on a processor, a picture's last bits depend on its
    company: rounding makes more of them, and one caption in fifty was another (`is_same_in_company`).

    Args:
        captioner: one, or an ensemble.
        wishes: the pictures.
        deliver: told the number of a picture and its caption, or why there is none, as soon as its search ends; a
            picture does not wait for others whose search takes longer.
    """
    memory, mask = _see(captioner, [wish.views for wish in wishes])
    state = captioner.decoder.init_state(memory, mask)
    alike: dict[tuple[DecodingOptions, bool, int], list[int]] = {}
    for number, wish in enumerate(wishes):
        alike.setdefault((captioner.options(wish.options), wish.attention, wish.likely), []).append(number)
    groups = list(alike.values())

    def search(options: DecodingOptions, attention: bool, likely: int, group: list[int]) -> Steps[list[Caption]]:
        chosen = torch.tensor(group, device=memory.device)
        own, kept = (memory, state) if len(groups) == 1 else (memory[chosen], state.keep(chosen))
        shown = mask if mask is None or len(groups) == 1 else mask[chosen]
        begin: Callable[[], DecoderState] = lambda: kept  # noqa: E731
        return captioner.saying(begin, own, shown, options, [wishes[n].name for n in group], attention, likely)

    def hand_out(group: int, found: list[Caption] | SeesayError) -> None:
        captions: Sequence[Caption | SeesayError]
        captions = [found] * len(groups[group]) if isinstance(found, SeesayError) else found
        for number, caption in zip(groups[group], captions, strict=True):
            deliver(number, caption)

    searches = [search(*key, group) for key, group in alike.items()]
    run_together(captioner.decoder, searches, hand_out)


@torch.inference_mode()
def is_same_in_company(captioner: Captioner) -> bool:
    """Tells whether what the decoder attends to is the same, to the last bit, whichever pictures are seen together.

    It is measured on noise once for each captioner. On a graphics card, where there is no caption to the last bit in
    any case, pictures are always seen together.
    """
    if captioner.device.type != "cpu":
        return True
    if captioner not in _same:
        random = np.random.default_rng(0)
        noise = [Image.fromarray(random.integers(0, 256, (64, 64, 3), np.uint8)) for _ in range(_COMPANY)]
        views = [captioner.prepare(picture)[0] for picture in noise]
        alone = _each_alone(captioner, views)
        companies = ([0, _COMPANY], [0, 2, 5, _COMPANY])
        together = [_joined([captioner.see(views[at:to]) for at, to in pairwise(places)]) for places in companies]
        _same[captioner] = all(torch.equal(memory, alone[0]) for memory, _ in together)
    return _same[captioner]


_COMPANY = 8
_same: WeakKeyDictionary[Captioner, bool] = WeakKeyDictionary()

Memory = tuple[torch.Tensor, torch.Tensor | None]
"""What the decoder attends to, of pictures, (B, N, D), and its mask."""


def _see(captioner: Captioner, pictures: Sequence[Views]) -> Memory:
    """Returns what the decoder attends to, of pictures, and its mask."""
    together = len(pictures) > 1 and is_same_in_company(captioner)
    return captioner.see(pictures) if together else _each_alone(captioner, pictures)


def _each_alone(captioner: Captioner, pictures: Sequence[Views]) -> Memory:
    return _joined([captioner.see([views]) for views in pictures])


def _joined(parts: Sequence[Memory]) -> Memory:
    masks = [mask for _, mask in parts if mask is not None]
    return torch.cat([memory for memory, _ in parts]), torch.cat(masks) if masks else None
