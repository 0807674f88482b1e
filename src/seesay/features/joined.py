"""Where features are read from: one store, or several side by side."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from seesay.errors import FeatureStoreError
from seesay.features.store import FeatureStore, describe_identity


class FeatureSource(Protocol):
    """Anything that gives features by image id."""

    @property
    def feature_size(self) -> int:
        """Width F of a region."""
        ...

    @property
    def grid(self) -> tuple[int, int] | None:
        """(rows, columns) of the regions, None where they form no grid."""
        ...

    def __contains__(self, image_id: object) -> bool: ...

    def read(self, ids: Sequence[str]) -> tuple[NDArray[np.float16], NDArray[np.bool_] | None]:
        """Returns features (B, N, F) and the mask of real regions (B, N), None = all are real."""
        ...


class JoinedStores:
    """Several stores read as one, their features side by side along F.

    Grids are resampled (bilinear) to the first store's; a pooled store is repeated over its regions.

    Raises:
        FeatureStoreError: no store at all, or one whose regions form no grid.
    """

    def __init__(self, stores: Sequence[FeatureStore]) -> None:
        if not stores:
            raise FeatureStoreError("no feature store was given")
        for store in stores:
            if len(stores) > 1 and store.grid is None:
                raise FeatureStoreError(f"{store.path} has regions without a grid and cannot be joined with others")
        self.stores = list(stores)

    @property
    def feature_size(self) -> int:
        """Width F of a region over all stores."""
        return sum(store.feature_size for store in self.stores)

    @property
    def grid(self) -> tuple[int, int] | None:
        """(rows, columns) of the first store."""
        return self.stores[0].grid

    @property
    def identity(self) -> dict[str, Any]:
        """The one store's identity, or those of all."""
        if len(self.stores) == 1:
            return self.stores[0].identity
        return {"joined": [store.identity for store in self.stores]}

    def require(self, identity: Mapping[str, Any]) -> None:
        """Refuses the stores if others, or others' encoders, are wanted.

        Raises:
            FeatureStoreError: names what differs.
        """
        wanted = identity.get("joined", [identity])
        if len(wanted) != len(self.stores):
            raise FeatureStoreError(
                f"{len(self.stores)} feature stores are given ({describe_identity(self.identity)}), "
                f"but {len(wanted)} wanted: {describe_identity(identity)}"
            )
        for store, part in zip(self.stores, wanted, strict=True):
            store.require(part)

    def __contains__(self, image_id: object) -> bool:
        return all(image_id in store for store in self.stores)

    def read(self, ids: Sequence[str]) -> tuple[NDArray[np.float16], NDArray[np.bool_] | None]:
        """Returns features (B, N, F) and the mask of real regions (B, N), None = all are real."""
        features, mask = self.stores[0].read(ids)
        parts = [features]
        for store in self.stores[1:]:
            assert self.grid is not None
            assert store.grid is not None
            parts.append(resample_grid(store.read(ids)[0], store.grid, self.grid))
        return (features, mask) if len(parts) == 1 else (np.concatenate(parts, axis=2), mask)


def resample_grid(features: NDArray[np.float16], grid: tuple[int, int], wanted: tuple[int, int]) -> NDArray[np.float16]:
    """Returns features (B, N, F) of one grid resampled to another by bilinear interpolation."""
    if grid == wanted:
        return features
    images, _, width = features.shape
    maps = torch.from_numpy(features).float().transpose(1, 2).reshape(images, width, *grid)
    resized = F.interpolate(maps, wanted, mode="bilinear", align_corners=False, antialias=True)
    return np.asarray(resized.flatten(2).transpose(1, 2).half().numpy())
