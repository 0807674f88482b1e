"""Pooled features and smaller grids, computed from a store of the same encoder's grids as `Encoder` computes them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seesay.errors import FeatureStoreError
from seesay.features.layout import read_header
from seesay.features.stamps import changed_images, recorded
from seesay.features.store import FeatureStore
from seesay.models.grids import pooling_matrix

_ROWS = 64


def fill_pooled(store: FeatureStore, sources: Mapping[str, str]) -> set[str]:
    """Fill rows of a store from a float16 store of larger grids in its folder; return the ids of the filled images.

    Only stores of pooled features, or with a grid size, are filled. The means differ from the encoder's by at most a
    float16 rounding. Images whose files changed are skipped.

    Args:
        store: the store to fill, open for writing.
        sources: image paths by id.
    """
    grid = _grid_store(store) if sources else None
    if grid is None:
        return set()
    matrix = _pooling(store, grid)
    ids = [image_id for image_id in sources if image_id in grid]
    known = [image_id for image_id, is_known in zip(ids, recorded(grid.stamps(ids)), strict=True) if is_known]
    usable = set(known) - set(changed_images(grid, {image_id: sources[image_id] for image_id in known}))
    rows = store.rows(usable)
    for begin in range(0, len(rows), _ROWS):
        part = rows[begin : begin + _ROWS]
        names = [store.ids[row] for row in part]
        features = matrix @ grid.read(names)[0].astype(np.float32)
        store.write(part, features.astype(np.float16), stamps=grid.stamps(names))
    return usable


def _grid_store(store: FeatureStore) -> FeatureStore | None:
    """Return the store of the whole grids of the same encoder in the folder of a store of pooled ones, or None."""
    expected = {**store.identity, "pool": "grid"}
    expected.pop("grid_size", None)
    if expected == store.identity:
        return None
    for path in sorted(Path(store.path).parent.glob("*.safetensors")):
        try:
            header = read_header(path)
            if header.dtype == "float16" and header.metadata.get("identity") == expected:
                return FeatureStore(path)
        except FeatureStoreError:  # another kind of file, or damaged
            continue
    return None


def _pooling(store: FeatureStore, grid: FeatureStore) -> NDArray[Any]:
    """Return the weights of the regions of a grid in each region of a store, (N of the store, N of the grid)."""
    if (size := store.identity.get("grid_size")) and grid.grid:
        return pooling_matrix(grid.grid, size).numpy()
    return np.full((1, grid.regions), 1 / grid.regions, np.float32)
