"""Features of one store kept in another form, without a look at the images."""

from pathlib import Path

import numpy as np

from seesay.features.creation import fill_store
from seesay.features.layout import FeatureDtype
from seesay.features.stamps import recorded, same_content
from seesay.features.store import FeatureStore

_ROWS = 64


def convert_store(source: str | Path, target: str | Path, dtype: FeatureDtype) -> int:
    """Writes the features of a store into another one, which keeps them as `dtype`; returns how many images it has.

    A conversion that was stopped resumes where it stopped; images that were added to the source or encoded again
    since are converted. Features that went through int8 stay rounded: back in float16 they are what the int8 store
    gives.

    Args:
        source: the store to read.
        target: the store to write.
        dtype: how it keeps features.

    Raises:
        FeatureStoreError: `source` is no store; `target` is one of another encoder or dtype, or does not fit the disk.
    """
    old, path = FeatureStore(source), Path(target)
    with fill_store(path, old.ids, old.regions, old.feature_size, old.grid, old.identity, dtype) as made:
        todo = made.rows([image_id for image_id in old.ids if image_id in old and image_id not in made])
        both = [image_id for image_id in old.ids if image_id in old and image_id in made]
        stamps = old.stamps(both)
        stale = recorded(stamps) & ~same_content(stamps, made.stamps(both))
        todo = sorted([*todo, *made.rows([both[place] for place in np.flatnonzero(stale)])])
        room = ((0, 0), (0, made.regions - old.regions), (0, 0))
        for begin in range(0, len(todo), _ROWS):
            rows = todo[begin : begin + _ROWS]
            ids = [made.ids[row] for row in rows]
            features, mask = old.read(ids)
            regions = [old.regions] * len(rows) if mask is None else mask.sum(axis=1).tolist()
            made.write(rows, np.pad(features, room), regions, old.stamps(ids))
        return len(made) - len(made.pending())
