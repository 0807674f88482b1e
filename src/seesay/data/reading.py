"""How batches read features: of every image as it is, or of some of them mirrored."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class FeatureReader(Protocol):
    """What a batch needs of a feature store."""

    def read(self, ids: Sequence[str]) -> tuple[NDArray[np.float16], NDArray[np.bool_] | None]:
        """Returns features (B, N, F) and the mask of real regions (B, N), None = all are real."""
        ...


def read_some_mirrored(
    plain: FeatureReader, mirrored: FeatureReader, ids: Sequence[str], turned: NDArray[np.bool_]
) -> tuple[NDArray[np.float16], NDArray[np.bool_] | None]:
    """Returns features (B, N, F) and the mask of real regions (B, N), reading from each store once at most.

    Args:
        plain: features of the images as they are.
        mirrored: features of the same shape, of the images mirrored.
        ids: the images, B of them.
        turned: (B,), True = this image is wanted mirrored.
    """
    if not turned.any():
        return plain.read(ids)
    if turned.all():
        return mirrored.read(ids)
    straight, straight_mask = plain.read([name for name, is_turned in zip(ids, turned, strict=True) if not is_turned])
    flipped, flipped_mask = mirrored.read([name for name, is_turned in zip(ids, turned, strict=True) if is_turned])
    features = np.empty((len(ids), *straight.shape[1:]), np.float16)
    features[~turned], features[turned] = straight, flipped
    if straight_mask is None and flipped_mask is None:
        return features, None
    mask = np.ones(features.shape[:2], np.bool_)
    mask[~turned] = True if straight_mask is None else straight_mask
    mask[turned] = True if flipped_mask is None else flipped_mask
    return features, mask
