"""CIDEr-D of captions as token ids against the captions they are compared with."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seesay.metrics.cider import Cider
from seesay.metrics.ngrams import DocumentFrequencies
from seesay.retrieval.token_lists import Ints, TokenLists

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class CaptionSet:
    """Captions of B images.

    Attributes:
        captions: the captions, sorted by image.
        image: image of each, 0 to B - 1, (C,).
        weight: weight of each in the mean over an image's captions, (C,).
    """

    captions: TokenLists
    image: Ints
    weight: Floats

    @classmethod
    def equal(cls, captions: TokenLists, image: Ints) -> "CaptionSet":
        """Return captions of equal weights."""
        return cls(captions, image, np.ones(len(image)))


def expected_similarity(candidates: CaptionSet, references: CaptionSet, frequencies: DocumentFrequencies) -> Floats:
    """Return the weighted mean CIDEr-D (0 to 10) of each candidate to the references of its image, (H,).

    It is 0 for a candidate whose image has no references.

    Args:
        candidates: H captions of B images; their weights are not used.
        references: captions of the same B images.
        frequencies: document frequencies of the n-grams.
    """
    texts = references.captions.unpack()
    images, first = np.unique(references.image, return_index=True)  # those with references
    ends = np.append(first, len(texts))[1:]
    groups = [texts[begin:end] for begin, end in zip(first, ends, strict=True)]
    scored = np.isin(candidates.image, images)
    similarity = np.zeros(len(candidates.image))
    similarity[scored] = Cider(groups, frequencies=frequencies).score(
        [caption for caption, is_scored in zip(candidates.captions.unpack(), scored, strict=True) if is_scored],
        np.searchsorted(images, candidates.image[scored]),
        references.weight,
    )
    return similarity
