"""Creation of feature stores: empty with their final size, or as an extension of an existing store."""

import contextlib
import glob
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from seesay.errors import FeatureStoreError
from seesay.features.layout import FeatureDtype, compute_layout, disk_error, reserve
from seesay.features.store import DONE, FeatureStore
from seesay.files import exclusive

_COPY_BYTES = 1 << 26


def existing_store(path: Path, identity: Mapping[str, Any], dtype: FeatureDtype) -> FeatureStore | None:
    """Return the store at `path`, or None.

    Raises:
        FeatureStoreError: the store is of another encoder or dtype, or damaged.
    """
    if not path.exists():
        return None
    store = FeatureStore(path)
    store.require(identity)
    if store.dtype != dtype:
        raise FeatureStoreError(
            f"feature store {path} has dtype {store.dtype}, not {dtype}; choose another file, "
            f"or continue with --feature-dtype {store.dtype}"
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
    """Create an empty store with its final size, or extend the store at `path`.

    An existing store keeps its rows; missing images are appended, and all rows grow if these have more regions. A
    complete store is unchanged; a store of an earlier format version is copied to the current one.

    Raises:
        FeatureStoreError: the existing store has another encoder, width or dtype, or the disk has too little space;
            nothing is changed.
    """
    old = existing_store(path, identity, dtype)
    if old and old.feature_size != feature_size:
        raise FeatureStoreError(
            f"{path} has features of width {old.feature_size}, not {feature_size}; delete it or choose another file"
        )
    if old and regions <= old.regions and set(ids) <= set(old.ids) and "stamps" in old.arrays:
        return
    if old and (old.regions, old.grid) != (regions, grid):
        regions, grid = max(regions, old.regions), None
    ids = list(dict.fromkeys([*(old.ids if old else []), *ids]))
    layout = compute_layout(ids, regions, feature_size, grid, identity, dtype)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for stale_file in path.parent.glob(f"{glob.escape(path.name)}.*.tmp"):
            if stale_file.name[len(path.name) + 1 : -4].isdigit():
                stale_file.unlink()
        with temporary.open("w+b") as file:
            reserve(file.fileno(), layout.size, path)
            file.write(layout.head)
            for name, rows in old.arrays.items() if old else ():
                file.seek(layout.offsets[name])
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
    """Create or extend a store (see `create_store`) and open it for writing, after waiting for other writers.

    A store without any features is removed on error.

    Raises:
        FeatureStoreError: as `create_store`.
    """
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(exclusive(path))
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
    """Copy the rows of an array to the position of `file`, padded to `stride` bytes."""
    step = max(1, _COPY_BYTES // stride)
    for first in range(0, len(array), step):
        part = array[first : first + step]
        rows = part.reshape(len(part), -1).view(np.uint8)
        missing = stride - rows.shape[1]
        file.write(np.pad(rows, ((0, 0), (0, missing))).data if missing else rows.data)
