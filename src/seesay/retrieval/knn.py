"""Captions without a model: the consensus caption of the nearest training images (Devlin et al. 2015)."""

import numpy as np

from seesay.retrieval.index import Query, RetrievalIndex
from seesay.retrieval.similarity import expected_similarity
from seesay.retrieval.token_lists import Ints


def consensus_captions(index: RetrievalIndex, query: Query, neighbours: int) -> Ints:
    """Return the position in the index of the caption of each query, (B,); -1 if no image is left to retrieve.

    It is the caption of the nearest images with the largest mean similarity to all their captions.

    Args:
        index: the training images.
        query: B images.
        neighbours: number of nearest images.
    """
    found = index.search(query, neighbours)
    places, owner = index.caption_places(found)
    captions = index.captions_of(found)
    expected = expected_similarity(captions, captions, index.frequencies)
    best = np.full(len(query.vectors), -1, np.int64)
    # Sorted by query, then by decreasing similarity; ties go to the more similar image.
    order = np.lexsort((np.arange(len(owner)), -expected, owner))
    queries, first = np.unique(owner[order], return_index=True)
    best[queries] = places[order[first]]
    return best
