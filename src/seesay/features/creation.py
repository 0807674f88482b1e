"""How a feature store comes to be: empty and of its final size, or grown out of the one that is there."""

import contextlib
import glob
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from seesay.errors import FeatureStoreError
from seesay.features.layout import FeatureDtype, disk_error, lay_out, reserve
from seesay.features.store import DONE, FeatureStore
from seesay.files import in_turn

_COPY_BYTES = 1 << 26


def existing_store(path: Path, identity: Mapping[str, Any], dtype: FeatureDtype) -> FeatureStore | None:
    """Returns the store at `path`, None if there is none.

    Raises:
        FeatureStoreError: it was made by another encoder, keeps features in another form, or is damaged.
    """
    if not path.exists():
        return None
    store = FeatureStore(path)
    store.require(identity)
    if store.dtype != dtype:
        raise FeatureStoreError(
            f"feature store {path} keeps its features in {store.dtype}, not in {dtype}; name another file, "
            f"or go on with it by --feature-dtype {store.dtype}"
        )
    return store


def create_store(
    path: Path,
    ids: Sequence[str],
    regions: int,
    feature_size: int,
    grid: tuple[int, int] | None,
    identity: Mapping[str, Any],
    dtype: FeatureDtype = "float16",
) -> None:
    """Makes an empty store of its final size, or one that continues the store at `path`.

    A store that is there keeps its rows; the images it lacks are appended, and where these have more regions
    all rows get room for as many. One that lacks nothing is left alone; one of an earlier version is copied into the
    present one.

    Raises:
        FeatureStoreError: the store there is another encoder's, of another width or dtype, or there is not enough
            room on the disk; nothing is left behind.
    """
    old = existing_store(path, identity, dtype)
    if old and old.feature_size != feature_size:
        raise FeatureStoreError(
            f"{path} holds features of width {old.feature_size}, which those of width {feature_size} cannot join; "
            "delete it or name another file"
        )
    if old and regions <= old.regions and set(ids) <= set(old.ids) and "stamps" in old.arrays:
        return
    if old and (old.regions, old.grid) != (regions, grid):
        regions, grid = max(regions, old.regions), None
    ids = list(dict.fromkeys([*(old.ids if old else []), *ids]))
    layout = lay_out(ids, regions, feature_size, grid, identity, dtype)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left_by_a_killed_one in path.parent.glob(f"{glob.escape(path.name)}.*.tmp"):
            if left_by_a_killed_one.name[len(path.name) + 1 : -4].isdigit():
                left_by_a_killed_one.unlink()
        with temporary.open("w+b") as file:
            reserve(file.fileno(), layout.size, path)
            file.write(layout.head)
            for name, rows in old.arrays.items() if old else ():
                file.seek(layout.places[name])
                _copy_rows(rows, file, layout.strides[name])
        temporary.replace(path)
    except OSError as error:
        raise disk_error(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def fill_store(
    path: Path,
    ids: Sequence[str],
    regions: int,
    feature_size: int,
    grid: tuple[int, int] | None,
    identity: Mapping[str, Any],
    dtype: FeatureDtype = "float16",
) -> Iterator[FeatureStore]:
    """Opens the store that `create_store` makes or grows for filling, when no other process fills it any more.

    A store that is left by an error before it holds any features is removed.

    Raises:
        FeatureStoreError: as by `create_store`.
    """
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(in_turn(path))
        except OSError as error:
            raise disk_error(path, error) from error
        create_store(path, ids, regions, feature_size, grid, identity, dtype)
        store = stack.enter_context(FeatureStore(path, writable=True))
        try:
            yield store
        except BaseException:
            if not (store.status == DONE).any():
                path.unlink(missing_ok=True)
            raise


def _copy_rows(array: NDArray[Any], file: BinaryIO, stride: int) -> None:
    """Copies the entries of an array to where `file` stands, each at the begin of `stride` bytes."""
    step = max(1, _COPY_BYTES // stride)
    for first in range(0, len(array), step):
        part = array[first : first + step]
        rows = part.reshape(len(part), -1).view(np.uint8)
        missing = stride - rows.shape[1]
        file.write(np.pad(rows, ((0, 0), (0, missing))).data if missing else rows.data)
