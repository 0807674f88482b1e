"""Pooled features from a store of the same encoder's grids: `Encoder` pools by the plain mean of the regions."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from seesay.errors import FeatureStoreError
from seesay.features.layout import read_header
from seesay.features.stamps import changed_images, recorded
from seesay.features.store import FeatureStore

_ROWS = 64


def fill_pooled(store: FeatureStore, sources: Mapping[str, str]) -> set[str]:
    """Fill rows of a pooled store from a float16 store of grids in its folder; return the images that were.

    The means of features that are rounded to float16 differ from the encoder's by such a rounding at most. Images
    whose files have changed since the grids were made are left to be encoded.

    Args:
        store: open for writing.
        sources: ids of the images wanted and where they are.
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
    """Return the store beside a pooled one that holds the same encoder's grids, if there is one."""
    wanted = {**store.identity, "pool": "grid"}
    for path in sorted(Path(store.path).parent.glob("*.safetensors")):
        try:
            header = read_header(path)
            if header.dtype == "float16" and header.metadata.get("identity") == wanted:
                return FeatureStore(path)
        except FeatureStoreError:  # another file, or one that is damaged
            continue
    return None
