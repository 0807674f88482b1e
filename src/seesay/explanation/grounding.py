"""Grounding of a model's attention: overlap with the boxes of the objects that its words name."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from seesay.captioners.caption import Caption
from seesay.data.objects import name_objects
from seesay.data.records import Annotation, Box
from seesay.data.synthetic.scenes import mentions, names_only_scenes, unfounded_mentions
from seesay.errors import DataError
from seesay.explanation import attention_entropy, grounding_baseline, grounding_ratio, is_grounded
from seesay.images.loading import image_size


@dataclass(frozen=True)
class GroundingHit:
    """A word that names an object, and the grounding of its attention.

    Attributes:
        word: index of the word in the caption.
        label: label of the object.
        ratio: fraction of attention inside the object's boxes over their fraction of the area; 1 for uniform attention.
        hit: whether the centre of the region with maximum attention is inside a box.
        baseline: probability of a hit for a random region.
    """

    word: int
    label: str
    ratio: float
    hit: bool
    baseline: float


@dataclass(frozen=True)
class GroundingScores:
    """Grounding over many captions.

    Attributes:
        ratio: mean ratio of the words that name an object; 1 for uniform attention.
        accuracy: fraction of hits of these words (the pointing game of Zhang et al. 2016).
        baseline: expected accuracy of random regions.
        nouns: number of these words.
        entropy: mean attention entropy of all words in bits; at most log2 of the number of regions.
        unfounded: fraction of mentioned objects that are not in the image; 0 except for scenes.
    """

    ratio: float
    accuracy: float
    baseline: float
    nouns: int
    entropy: float
    unfounded: float


def find_grounding_hits(caption: Caption, boxes: Sequence[Box], size: tuple[int, int]) -> tuple[GroundingHit, ...]:
    """Returns the words of a caption that name objects, with the grounding of their attention.

    Args:
        caption: caption with attention over a grid.
        boxes: labelled boxes in pixels of the (cropped) image.
        size: width and height of that image.
    """
    assert caption.attention is not None
    assert caption.grid is not None
    found = []
    for word, objects in _named(caption, boxes):
        frames = [(box.x, box.y, box.width, box.height) for box in objects]
        try:
            ratio = grounding_ratio(caption.attention[word], caption.grid, frames, size)
        except DataError:  # the objects are outside the image
            continue
        hit = is_grounded(caption.attention[word], caption.grid, frames, size)
        found.append(GroundingHit(word, objects[0].label, ratio, hit, grounding_baseline(caption.grid, frames, size)))
    return tuple(found)


def measure_grounding(captions: Mapping[str, Caption], items: Sequence[Annotation]) -> GroundingScores:
    """Returns the grounding scores of captions.

    Args:
        captions: captions with attention, by image id.
        items: images with boxes.
    """
    grounding_hits: list[GroundingHit] = []
    entropies: list[float] = []
    named = unfounded = 0
    for item in items:
        caption = captions[item.id]
        found = find_grounding_hits(caption, item.boxes, image_size(item.image))
        grounding_hits += found
        assert caption.attention is not None
        entropies += attention_entropy(caption.attention).tolist()
        wrong = len(unfounded_mentions(caption.text, item)) if names_only_scenes([item]) else 0
        unfounded += wrong
        named += wrong + len(found)

    def mean(values: Sequence[float]) -> float:
        return float(np.mean(values)) if values else 0.0

    return GroundingScores(
        mean([hit.ratio for hit in grounding_hits]),
        mean([hit.hit for hit in grounding_hits]),
        mean([hit.baseline for hit in grounding_hits]),
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
