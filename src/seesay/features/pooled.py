"""Pooled features computed from a store of the same encoder's grids (mean over regions, as in `Encoder`)."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from seesay.errors import FeatureStoreError
from seesay.features.layout import read_header
from seesay.features.stamps import changed_images, recorded
from seesay.features.store import FeatureStore

_ROWS = 64


def fill_pooled(store: FeatureStore, sources: Mapping[str, str]) -> set[str]:
    """Fills rows of a pooled store from a float16 store of grids in its folder; returns the ids of the filled images.

    The means differ from the encoder's by at most a float16 rounding. Images whose files changed are skipped.

    Args:
        store: pooled store, open for writing.
        sources: image paths by id.
    """
    grid = _grid_store(store) if sources and store.identity.get("pool") == "pooled" else None
    if grid is None:
        return set()
    ids = [image_id for image_id in sources if image_id in grid]
    known = [image_id for image_id, is_known in zip(ids, recorded(grid.stamps(ids)), strict=True) if is_known]
    usable = set(known) - set(changed_images(grid, {image_id: sources[image_id] for image_id in known}))
    rows = store.rows(usable)
    for begin in range(0, len(rows), _ROWS):
        part = rows[begin : begin + _ROWS]
        names = [store.ids[row] for row in part]
        features = grid.read(names)[0].mean(axis=1, dtype=np.float32, keepdims=True)
        store.write(part, features.astype(np.float16), stamps=grid.stamps(names))
    return usable


def _grid_store(store: FeatureStore) -> FeatureStore | None:
    """Returns the grid store of the same encoder in the folder of a pooled store, or None."""
    expected = {**store.identity, "pool": "grid"}
    for path in sorted(Path(store.path).parent.glob("*.safetensors")):
        try:
            header = read_header(path)
            if header.dtype == "float16" and header.metadata.get("identity") == expected:
                return FeatureStore(path)
        except FeatureStoreError:  # another kind of file, or damaged
            continue
    return None
