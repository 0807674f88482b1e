"""How well a model's attention finds what its words name, where the objects' boxes are known."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from seesay.caption import Caption
from seesay.data.objects import name_objects
from seesay.data.records import Annotation, Box
from seesay.data.scenes import mentions, names_only_scenes, unfounded_mentions
from seesay.errors import DataError
from seesay.images import image_size
from seesay.visualise import attention_entropy, grounding_chance, grounding_ratio, is_grounded


@dataclass(frozen=True)
class GroundingHit:
    """A word that names an object, and where the model looked when it said it.

    Attributes:
        word: its place in the caption.
        label: of the object.
        ratio: share of the attention inside the object's boxes over their share of the area; 1 is chance.
        hit: whether the middle of the strongest region lies in one of them.
        chance: how often a region taken at random would.
    """

    word: int
    label: str
    ratio: float
    hit: bool
    chance: float


@dataclass(frozen=True)
class GroundingScores:
    """The same over many captions.

    Attributes:
        ratio: mean over all words that name an object; 1 is chance.
        accuracy: share of these words that hit (the pointing game of Zhang et al. 2016).
        chance: share that would by chance.
        nouns: how many words that is.
        entropy: mean spread of all words' attention in bits; the most it can be is log2 of the regions.
        unfounded: share of all named objects that are not in the image; of drawn scenes, else 0.
    """

    ratio: float
    accuracy: float
    chance: float
    nouns: int
    entropy: float
    unfounded: float


def point(caption: Caption, boxes: Sequence[Box], size: tuple[int, int]) -> tuple[GroundingHit, ...]:
    """Returns the words of a caption that name objects, and whether attention found these.

    Args:
        caption: with attention over a grid.
        boxes: labelled, in the pixels of what the model saw.
        size: width and height of that.
    """
    assert caption.attention is not None
    assert caption.grid is not None
    found = []
    for word, objects in _named(caption, boxes):
        frames = [(box.x, box.y, box.width, box.height) for box in objects]
        try:
            ratio = grounding_ratio(caption.attention[word], caption.grid, frames, size)
        except DataError:  # the objects lie outside the image
            continue
        hit = is_grounded(caption.attention[word], caption.grid, frames, size)
        found.append(GroundingHit(word, objects[0].label, ratio, hit, grounding_chance(caption.grid, frames, size)))
    return tuple(found)


def measure_grounding(captions: Mapping[str, Caption], items: Sequence[Annotation]) -> GroundingScores:
    """Returns how much of each noun's attention falls on the object it names.

    Args:
        captions: with attention, by image id.
        items: the images, with boxes.
    """
    grounding_hits: list[GroundingHit] = []
    entropies: list[float] = []
    named = unfounded = 0
    for item in items:
        caption = captions[item.id]
        found = point(caption, item.boxes, image_size(item.image))
        grounding_hits += found
        assert caption.attention is not None
        entropies += attention_entropy(caption.attention).tolist()
        wrong = len(unfounded_mentions(caption.text, item)) if names_only_scenes([item]) else 0
        unfounded += wrong
        named += wrong + len(found)

    def mean(values: Sequence[float]) -> float:
        return float(np.mean(values)) if values else 0.0

    return GroundingScores(
        mean([each.ratio for each in grounding_hits]),
        mean([each.hit for each in grounding_hits]),
        mean([each.chance for each in grounding_hits]),
        len(grounding_hits),
        mean(entropies),
        unfounded / max(1, named),
    )


def _named(caption: Caption, boxes: Sequence[Box]) -> Iterator[tuple[int, tuple[Box, ...]]]:
    scene = Annotation("", "", (), None, tuple(boxes))
    if names_only_scenes([scene]):
        yield from ((word, (box,)) for word, box in mentions(caption.text, scene))
    else:
        yield from name_objects(caption.words, boxes)
