"""Conversion of a feature store to another dtype, without the images."""

from pathlib import Path

import numpy as np

from seesay.features.creation import fill_store
from seesay.features.layout import FeatureDtype
from seesay.features.stamps import recorded, same_content
from seesay.features.store import FeatureStore

_ROWS = 64


def convert_store(source: str | Path, target: str | Path, dtype: FeatureDtype) -> int:
    """Convert a store to `dtype`; return the number of images in the target.

    An interrupted conversion resumes; images added to or changed in the source since are converted. Converting int8
    back to float16 keeps the rounding of int8.

    Args:
        source: the store to read.
        target: the store to write.
        dtype: dtype of the target.

    Raises:
        FeatureStoreError: `source` is not a store, `target` is a store of another encoder or dtype, or the disk is
            full.
    """
    old, path = FeatureStore(source), Path(target)
    with fill_store(path, old.ids, old.regions, old.feature_size, old.grid, old.identity, dtype) as new:
        pending = new.rows([image_id for image_id in old.ids if image_id in old and image_id not in new])
        both = [image_id for image_id in old.ids if image_id in old and image_id in new]
        stamps = old.stamps(both)
        stale = recorded(stamps) & ~same_content(stamps, new.stamps(both))
        pending = sorted([*pending, *new.rows([both[index] for index in np.flatnonzero(stale)])])
        padding = ((0, 0), (0, new.regions - old.regions), (0, 0))
        for begin in range(0, len(pending), _ROWS):
            rows = pending[begin : begin + _ROWS]
            ids = [new.ids[row] for row in rows]
            features, mask = old.read(ids)
            regions = [old.regions] * len(rows) if mask is None else mask.sum(axis=1).tolist()
            new.write(rows, np.pad(features, padding), regions, old.stamps(ids))
        return len(new) - len(new.pending())
