"""Features of one store kept in another form, without a look at the pictures."""

from pathlib import Path

import numpy as np

from seesay.features.creation import fill_store
from seesay.features.layout import FeatureDtype
from seesay.features.store import FeatureStore

_ROWS = 64


def convert_store(source: str | Path, target: str | Path, dtype: FeatureDtype) -> int:
    """Writes the features of a store into another one, which keeps them as `dtype`; returns how many pictures it has.

    A conversion that was stopped goes on where it stopped, and pictures that the source got since are appended.
    Features that went through int8 stay rounded: back in float16 they are what the int8 store gives.

    Args:
        source: the store to read.
        target: the store to write.
        dtype: how it keeps features.

    Raises:
        FeatureStoreError: `source` is no store; `target` is one of another encoder or dtype, or does not fit the disk.
    """
    old, path = FeatureStore(source), Path(target)
    with fill_store(path, old.ids, old.regions, old.feature_size, old.grid, old.identity, dtype) as made:
        todo = [row for row in made.pending() if made.ids[row] in old]
        room = ((0, 0), (0, made.regions - old.regions), (0, 0))
        for begin in range(0, len(todo), _ROWS):
            rows = todo[begin : begin + _ROWS]
            features, mask = old.read([made.ids[row] for row in rows])
            regions = [old.regions] * len(rows) if mask is None else mask.sum(axis=1).tolist()
            made.write(rows, np.pad(features, room), regions)
        return len(made) - len(made.pending())
