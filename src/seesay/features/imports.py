"""Import of features: one .npy per image, .npz archives, or HDF5, with any number of regions."""

import contextlib
import logging
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from seesay.errors import FeatureStoreError, MissingDependencyError
from seesay.features.creation import existing_store, fill_store
from seesay.features.layout import FeatureDtype
from seesay.features.stamps import array_stamp, same_content
from seesay.features.store import FeatureStore
from seesay.names import spellings

log = logging.getLogger("seesay")

_ARRAY_NAMES = ("features", "feat", "feats", "x", "att", "arr_0")
_HDF5 = {".h5", ".hdf5", ".hdf"}

Reader = Callable[[Sequence[str]], NDArray[Any] | None]
"""Returns the array of an image, given its possible names, or None."""


def import_features(source: str | Path, images: Mapping[str, str], path: Path, dtype: FeatureDtype = "float16") -> int:
    """Create a store of precomputed features; return the number of images.

    Args:
        source: a folder with one `.npy` or `.npz` per image (named by image id or file name, with or without suffix), a
            `.npz` with one array per image, or an HDF5 file with one data set per image, or with `features` and `ids`.
            Names shared by several images are ignored.
        images: image paths by id.
        path: the store to write; different numbers of regions become the mask.
        dtype: dtype of the store.

    Raises:
        FeatureStoreError: no array matches, a file is damaged, widths differ, or the existing store has other features
            or another dtype.
    """
    source = Path(source)
    identity = {"imported": source.name}
    existing_store(path, identity, dtype)  # fail early
    names = _names(images)
    with _opened(source) as read:
        shapes = {
            image_id: array.shape
            for image_id, own in names.items()
            if (array := _regions_of(read(own), image_id)) is not None
        }
        if not shapes:
            raise FeatureStoreError(
                f"{source} has no features of the {len(images)} images; arrays must be named by image id, "
                f"such as {next(iter(images), '')!r}, or by a unique file name"
            )
        widths = {shape[1] for shape in shapes.values()}
        if len(widths) > 1:
            raise FeatureStoreError(f"{source} has features of different widths: {sorted(widths)}")
        regions = max(shape[0] for shape in shapes.values())
        with fill_store(path, list(shapes), regions, widths.pop(), _square(shapes), identity, dtype) as store:
            _fill(store, {image_id: names[image_id] for image_id in shapes}, read)
    return len(shapes)


def _fill(store: FeatureStore, names: Mapping[str, Sequence[str]], read: Reader) -> None:
    changed = 0
    for row in store.rows(names):
        image_id = store.ids[row]
        array = _regions_of(read(names[image_id]), image_id)
        if array is None:
            continue
        stamp = array_stamp(array)[None]
        if image_id in store:
            if same_content(stamp, store.stamps([image_id])).all():
                continue
            changed += 1
        padded = np.zeros((1, store.regions, store.feature_size), np.float16)
        with np.errstate(over="ignore"):  # reported below
            padded[0, : len(array)] = array
        if not np.isfinite(padded).all():
            raise FeatureStoreError(f"features of image {image_id!r} exceed the range of float16")
        store.write([row], padded, [len(array)], stamp)
    if changed:
        log.info("imported %d arrays again that changed since %s was created", changed, store.path)


def _regions_of(array: NDArray[Any] | None, image_id: str) -> NDArray[Any] | None:
    """Return an array (F,), (N, F) or (rows, columns, F) as (N, F)."""
    if array is None:
        return None
    shape = array.shape[1:] if array.ndim == 4 and array.shape[0] == 1 else array.shape
    if len(shape) not in (1, 2, 3) or 0 in shape or array.dtype.kind not in "fiu":
        raise FeatureStoreError(
            f"features of image {image_id!r} are {array.dtype} {array.shape}; expected numbers (N, F)"
        )
    return array.reshape(-1, shape[-1])


def _square(shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, int] | None:
    counts = {shape[0] for shape in shapes.values()}
    side = round(max(counts) ** 0.5)
    return (side, side) if counts == {side * side} else None


@contextlib.contextmanager
def _opened(source: Path) -> Iterator[Reader]:
    """Yield the reader of a source of arrays."""
    if source.is_dir():
        yield partial(_from_folder, source)
        return
    if not source.is_file():
        raise FeatureStoreError(f"no features at {source}")
    with contextlib.ExitStack() as stack:
        if source.suffix.lower() in _HDF5:
            file: Any = stack.enter_context(_open_hdf5(source))
        else:
            stream = stack.enter_context(source.open("rb"))
            with _readable(source):
                file = stack.enter_context(_open_npz(stream, source))
        table = "features" in file and "ids" in file
        yield _table_reader(source, file) if table else partial(_from_file, source, file)


def _from_folder(source: Path, names: Sequence[str]) -> NDArray[Any] | None:
    for name in names:
        for suffix in (".npy", ".npz"):
            path = source / f"{name}{suffix}"
            if path.is_file():
                return _load_array(path)
    return None


def _from_file(source: Path, file: Any, names: Sequence[str]) -> NDArray[Any] | None:
    """Read from an .npz or HDF5 file with one array or group of arrays per image."""
    with _readable(source):
        entry: Any = next((file[name] for name in names if name in file), None)
        if hasattr(entry, "keys"):  # an HDF5 group: use its array with a common name
            entry = next((entry[key] for key in _ARRAY_NAMES if key in entry), None)
        return None if entry is None else np.asarray(entry)


def _table_reader(source: Path, file: Any) -> Reader:
    """Return the reader of a file with `features` and `ids` of all images."""
    with _readable(source):
        ids = [entry.decode() if isinstance(entry, bytes) else str(entry) for entry in file["ids"][:]]
        features = file["features"]
    if len(ids) != len(features):
        raise FeatureStoreError(f"{source} has {len(ids)} ids but features of {len(features)} images")
    rows = {name: row for row, name in enumerate(ids)}

    def read(names: Sequence[str]) -> NDArray[Any] | None:
        row = next((rows[name] for name in names if name in rows), None)
        with _readable(source):
            return None if row is None else np.asarray(features[row])

    return read


def _names(images: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the possible array names of each image, without names shared with other images."""
    names: dict[str, list[str]] = {}
    owners: dict[str, set[str]] = {}
    for image_id, image in images.items():
        file, named = Path(image), Path(image_id)
        possible = (image_id, str(named.parent / named.stem), file.name, file.stem, named.stem)
        names[image_id] = list(dict.fromkeys(form for name in possible for form in spellings(name)))
        for name in names[image_id]:
            owners.setdefault(name, set()).add(image)
    return {
        image_id: [name for name in possible if name == image_id or len(owners[name]) == 1]
        for image_id, possible in names.items()
    }


def _load_array(path: Path) -> NDArray[Any]:
    if path.suffix == ".npy":
        with _readable(path):
            array = np.load(path, mmap_mode="r", allow_pickle=False)  # only the shape is needed at first
        if isinstance(array, np.ndarray):
            return array
        array.close()  # an archive with the wrong suffix
    with _readable(path), path.open("rb") as stream:
        loaded = np.load(stream, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            name = next((key for key in _ARRAY_NAMES if key in loaded), loaded.files[0] if loaded.files else "")
            if name:
                return np.asarray(loaded[name])
    raise FeatureStoreError(f"{path} contains no array")


def _open_npz(stream: IO[bytes], source: Path) -> Any:
    file = np.load(stream, allow_pickle=False)
    if isinstance(file, np.ndarray):
        raise FeatureStoreError(
            f"{source} is a single array without image names; pass a folder with one .npy per image, "
            "an .npz or an HDF5 file"
        )
    return file


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Convert errors of NumPy and h5py for damaged files and pickled objects to FeatureStoreError."""
    try:
        yield
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, FeatureStoreError):
            raise
        reason = " ".join(str(error).split())
        raise FeatureStoreError(f"{path} cannot be read as arrays: {reason}") from error


def _open_hdf5(path: Path) -> Any:
    try:
        import h5py
    except ImportError as error:
        raise MissingDependencyError("h5py", "hdf5", f"reading {path.name}") from error
    with _readable(path):
        return h5py.File(path, "r")
