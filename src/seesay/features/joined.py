"""Sources of features: one store, or several concatenated."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from seesay.errors import FeatureStoreError
from seesay.features.store import FeatureStore, describe_identity


class JoinedStores:
    """Several stores read as one, concatenated along F.

    Grids are resampled (bilinear) to that of the first store; pooled features are repeated over its regions.

    Raises:
        FeatureStoreError: no stores, or several stores of which one has no grid.
    """

    def __init__(self, stores: Sequence[FeatureStore]) -> None:
        if not stores:
            raise FeatureStoreError("no feature stores")
        for store in stores:
            if len(stores) > 1 and store.grid is None:
                raise FeatureStoreError(f"{store.path} has regions without a grid and cannot be joined with others")
        self.stores = list(stores)

    @property
    def feature_size(self) -> int:
        """Total feature width F."""
        return sum(store.feature_size for store in self.stores)

    @property
    def grid(self) -> tuple[int, int] | None:
        """(rows, columns) of the first store."""
        return self.stores[0].grid

    @property
    def identity(self) -> dict[str, Any]:
        """Identity of the store, or of all stores."""
        if len(self.stores) == 1:
            return self.stores[0].identity
        return {"joined": [store.identity for store in self.stores]}

    def require(self, identity: Mapping[str, Any]) -> None:
        """Check that the stores match an identity.

        Raises:
            FeatureStoreError: they differ.
        """
        required = identity.get("joined", [identity])
        if len(required) != len(self.stores):
            raise FeatureStoreError(
                f"{len(self.stores)} feature stores passed ({describe_identity(self.identity)}), "
                f"but {len(required)} required: {describe_identity(identity)}"
            )
        for store, part in zip(self.stores, required, strict=True):
            store.require(part)

    def __contains__(self, image_id: object) -> bool:
        return all(image_id in store for store in self.stores)

    def read(self, ids: Sequence[str]) -> tuple[NDArray[np.float16], NDArray[np.bool_] | None]:
        """Return features (B, N, F) and the mask of real regions (B, N); None: all regions are real."""
        features, mask = self.stores[0].read(ids)
        parts = [features]
        for store in self.stores[1:]:
            assert self.grid is not None
            assert store.grid is not None
            parts.append(resample_grid(store.read(ids)[0], store.grid, self.grid))
        return (features, mask) if len(parts) == 1 else (np.concatenate(parts, axis=2), mask)


def resample_grid(features: NDArray[np.float16], grid: tuple[int, int], target: tuple[int, int]) -> NDArray[np.float16]:
    """Return features (B, N, F) resampled from one grid to another by bilinear interpolation."""
    if grid == target:
        return features
    images, _, width = features.shape
    maps = torch.from_numpy(features).float().transpose(1, 2).reshape(images, width, *grid)
    resized = F.interpolate(maps, target, mode="bilinear", align_corners=False, antialias=True)
    return np.asarray(resized.flatten(2).transpose(1, 2).half().numpy())
