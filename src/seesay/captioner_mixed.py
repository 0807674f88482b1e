"""Pictures that each have options of their own, captioned in shared passes of encoder and decoder."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

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

    Those of equal options are searched for as one, and all searches share the decoder's steps. On a graphics card
    all pictures pass through the encoder together. On a processor each passes by itself: with several threads the
    last bits of a picture's features depend on its company, rounding makes more of them, and one caption in fifty was
    another. That costs a quarter of the encoder's speed (docs/serving.md).

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


def _see(captioner: Captioner, pictures: Sequence[Views]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Returns what the decoder attends to, of pictures, (B, N, D), and its mask."""
    if captioner.device.type != "cpu":
        return captioner.see(pictures)
    memories, masks = zip(*(captioner.see([views]) for views in pictures), strict=True)
    own = [mask for mask in masks if mask is not None]
    return torch.cat(memories), torch.cat(own) if own else None
