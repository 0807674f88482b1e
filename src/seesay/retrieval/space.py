"""The space in which images are compared: pooled encoder features, PCA with half whitening, unit length."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

DIMENSIONS = 256
"""Maximum number of principal components."""
_RELATIVE_VARIANCE = 1e-6
"""Components with a smaller share of the largest variance are noise of the arithmetic."""


@dataclass(frozen=True)
class FeatureSpace:
    """A projection of pooled features to P numbers whose inner product is the similarity of images.

    Components are divided by the fourth root of their variance, which is half of a whitening: it lowers the weight of
    the few directions in which all images differ most, without raising noise to their level (Jegou and Chum 2012
    whiten fully).

    Attributes:
        mean: mean of the pooled features, (F,).
        components: scaled principal components, (F, P).
        noise: mean variance of the discarded components; 0: none were discarded.
    """

    mean: Floats
    components: Floats
    noise: float = 0.0

    @classmethod
    def fit(cls, pooled: Floats, dimensions: int = DIMENSIONS) -> "FeatureSpace":
        """Return the space of the pooled features (I, F) of a set of images."""
        mean = pooled.mean(0, dtype=np.float64)
        centred = pooled - mean
        variances, vectors = np.linalg.eigh(centred.T @ centred / max(1, len(pooled)))
        variances, vectors = variances[::-1], vectors[:, ::-1]  # largest first
        smallest = _RELATIVE_VARIANCE * max(float(variances[0]), float(np.finfo(np.float32).tiny))
        kept = min(dimensions, int((variances > smallest).sum()))
        # Fewer images than dimensions vary in the kept components only, so that nothing was discarded.
        noise = float(np.maximum(0, variances[kept:]).mean()) if kept == dimensions < len(variances) else 0.0
        components = vectors[:, :kept] * variances[:kept] ** -0.25
        return cls(mean.astype(np.float32), components.astype(np.float32), noise)

    def project(self, pooled: Floats) -> Floats:
        """Return unit vectors (B, P) of pooled features (B, F); zeros for the mean of all images."""
        vectors = (pooled - self.mean) @ self.components
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.asarray(vectors / np.where(norms > 0, norms, 1.0), np.float32)

    def coverage(self, pooled: Floats) -> Floats:
        """Return the share of the length of pooled features (B, F) that the kept components explain, 0 to 1, (B,).

        The rest is scaled like components of the mean discarded variance, as in probabilistic PCA (Tipping and Bishop
        1999). It is large for images that are unlike all of the training images.
        """
        centred = pooled - self.mean
        kept = centred @ self.components
        unscaled = kept / np.linalg.norm(self.components, axis=0)  # components are orthogonal, their lengths the scales
        rest = np.maximum(0, (centred**2).sum(1) - (unscaled**2).sum(1)) * (self.noise**-0.5 if self.noise else 0.0)
        explained = (kept**2).sum(1)
        return np.asarray(np.sqrt(explained / np.maximum(explained + rest, np.finfo(np.float32).tiny)), np.float32)


def pool(features: NDArray[Any], mask: NDArray[np.bool_] | None = None) -> Floats:
    """Return the mean over regions (B, F) of features (B, N, F).

    Args:
        features: the features.
        mask: (B, N), True = real region; None: all are.
    """
    if mask is None:
        return np.asarray(features.mean(1, dtype=np.float32))
    real = mask[..., None]
    return np.asarray((features * real).sum(1, dtype=np.float32) / np.maximum(1, real.sum(1)))
