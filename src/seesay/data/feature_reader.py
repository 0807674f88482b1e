"""Reading features of a batch, some images mirrored."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class FeatureReader(Protocol):
    """Source of features for batches."""

    def read(self, ids: Sequence[str]) -> tuple[NDArray[np.float16], NDArray[np.bool_] | None]:
        """Return features (B, N, F) and the mask of real regions (B, N); None: all regions are real."""
        ...


def read_partly_mirrored(
    plain: FeatureReader, mirrored: FeatureReader, ids: Sequence[str], flipped: NDArray[np.bool_]
) -> tuple[NDArray[np.float16], NDArray[np.bool_] | None]:
    """Return features (B, N, F) and the mask of real regions (B, N) with at most one read per store.

    Args:
        plain: features of the original images.
        mirrored: features of the mirrored images, of the same shape.
        ids: image ids, length B.
        flipped: (B,), True = read the mirrored features.
    """
    if not flipped.any():
        return plain.read(ids)
    if flipped.all():
        return mirrored.read(ids)
    original, original_mask = plain.read([id for id, flip in zip(ids, flipped, strict=True) if not flip])
    other, other_mask = mirrored.read([id for id, flip in zip(ids, flipped, strict=True) if flip])
    features = np.empty((len(ids), *original.shape[1:]), np.float16)
    features[~flipped], features[flipped] = original, other
    if original_mask is None and other_mask is None:
        return features, None
    mask = np.ones(features.shape[:2], np.bool_)
    mask[~flipped] = True if original_mask is None else original_mask
    mask[flipped] = True if other_mask is None else other_mask
    return features, mask
