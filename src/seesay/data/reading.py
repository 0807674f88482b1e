"""How batches read features: of every picture as it is, or of some of them mirrored."""

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
        plain: features of the pictures as they are.
        mirrored: features of the same shape, of the pictures mirrored.
        ids: the pictures, B of them.
        turned: (B,), True = this picture is wanted mirrored.
    """
    if not turned.any():
        return plain.read(ids)
    if turned.all():
        return mirrored.read(ids)
    places = np.flatnonzero(~turned), np.flatnonzero(turned)
    parts = [reader.read([ids[place] for place in own]) for reader, own in zip((plain, mirrored), places, strict=True)]
    features = np.empty((len(ids), *parts[0][0].shape[1:]), np.float16)
    mask = np.ones(features.shape[:2], np.bool_)
    for own, (part, regions) in zip(places, parts, strict=True):
        features[own] = part
        if regions is not None:
            mask[own] = regions
    return features, None if all(regions is None for _, regions in parts) else mask
