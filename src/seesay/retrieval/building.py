"""The index of training images from their features, and the calibration of its similarity."""

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from seesay.data.records import Annotation
from seesay.errors import DataError
from seesay.retrieval.index import NEAREST, IndexInfo, RetrievalIndex, nearness
from seesay.retrieval.space import Floats, pool
from seesay.tokenizer import Tokenizer

if TYPE_CHECKING:  # stores import torch
    from seesay.features import JoinedStores

log = logging.getLogger("seesay")

UNLIKE = 0.05
"""Share of the validation images that count as unlike the training images."""
_BATCH = 64

ReadPooled = Callable[[Sequence[Annotation]], tuple[list[Annotation], Floats]]


def index_images(
    training: Sequence[Annotation], read: ReadPooled, tokenizer: Tokenizer, info: IndexInfo
) -> RetrievalIndex:
    """Return the index of images.

    Args:
        training: the images.
        read: returns the readable ones of some images with their pooled features.
        tokenizer: of the captions.
        info: what is known about the features.

    Raises:
        DataError: no image can be read.
    """
    items, pooled = read(training)
    if not items:
        raise DataError("no training image has features; an index needs at least one")
    captions = [[tokenizer.encode(caption)[1:-1] for caption in item.captions] for item in items]
    return RetrievalIndex.build([(item.id, item.image) for item in items], pooled, captions, info)


def stored_reader(source: "JoinedStores") -> ReadPooled:
    """Return a function that returns the images in the stores, and their pooled features (I, F)."""

    def read(items: Sequence[Annotation]) -> tuple[list[Annotation], Floats]:
        found = [item for item in items if item.id in source]
        parts = [
            pool(*source.read([item.id for item in found[at : at + _BATCH]])) for at in range(0, len(found), _BATCH)
        ]
        return found, np.concatenate(parts) if parts else np.zeros((0, source.feature_size), np.float32)

    return read


def calibrate(index: RetrievalIndex, items: Sequence[Annotation], pooled: Floats) -> RetrievalIndex:
    """Return an index with the similarity that all but `UNLIKE` of some held-out images reach.

    Args:
        index: the index.
        items: the images.
        pooled: their pooled features, (I, F).
    """
    if not len(items):
        log.warning("there are no validation images to calibrate the similarity; no image counts as unlike")
        return index
    query = index.query(pooled, [item.id for item in items])
    threshold = float(np.quantile(nearness(query, index.search(query, NEAREST)), UNLIKE))
    words = f"{100 * UNLIKE:g} % of {len(items)} validation images are below"
    return index.with_similarity(threshold, words)
