"""Features that others computed: one .npy a picture, .npz archives, or HDF5, with any number of regions."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seesay.errors import FeatureStoreError, MissingDependencyError
from seesay.features.store import DONE, FeatureStore, create_store

_ARRAY_NAMES = ("features", "feat", "feats", "x", "att", "arr_0")
_HDF5 = {".h5", ".hdf5", ".hdf"}

Reader = Callable[[str, str], NDArray[Any] | None]
"""Gives the array of a picture by its id and its source, None if there is none."""


def import_features(source: str | Path, images: Mapping[str, str], path: Path) -> int:
    """Makes a store of features that exist already; returns how many pictures it holds.

    Args:
        source: a folder with one `.npy` or `.npz` a picture (named after the picture's id, its file name, or
            its file name without suffix), one `.npz` with an array a picture, or an HDF5 file with a data
            set a picture, or `features` beside `ids`.
        images: ids of the pictures wanted and where the pictures are.
        path: the store to write; pictures may have different numbers of regions, which become the mask.

    Raises:
        FeatureStoreError: nothing fits, or the arrays have different widths.
    """
    source = Path(source)
    identity = {"imported": source.name}
    if path.exists():
        FeatureStore(path).require(identity)
    with _Opened(source) as read:
        shapes = {
            image_id: array.shape
            for image_id, image in images.items()
            if (array := _regions_of(read(image_id, image), image_id)) is not None
        }
        if not shapes:
            raise FeatureStoreError(f"{source} holds features of none of the {len(images)} pictures")
        widths = {shape[1] for shape in shapes.values()}
        if len(widths) > 1:
            raise FeatureStoreError(f"{source} holds features of different widths: {sorted(widths)}")
        most = max(shape[0] for shape in shapes.values())
        create_store(path, list(shapes), most, widths.pop(), _square(shapes), identity)
        _fill(path, {image_id: images[image_id] for image_id in shapes}, read)
    return len(shapes)


def _fill(path: Path, images: Mapping[str, str], read: Reader) -> None:
    with FeatureStore(path, writable=True) as store:
        rows = {image_id: row for row, image_id in enumerate(store.ids)}
        for image_id, image in images.items():
            row = rows[image_id]
            array = _regions_of(read(image_id, image), image_id)
            if array is None or store.status[row] == DONE:
                continue
            if not np.isfinite(array.astype(np.float16)).all():
                raise FeatureStoreError(f"features of picture {image_id!r} do not fit float16")
            padded = np.zeros((1, store.regions, store.feature_size), np.float16)
            padded[0, : len(array)] = array
            store.write(row, padded, [len(array)])


def _regions_of(array: NDArray[Any] | None, image_id: str) -> NDArray[Any] | None:
    """Returns (N, F) of (F,), (N, F) or (rows, columns, F)."""
    if array is None:
        return None
    if array.ndim == 1:
        return array[None]
    if array.ndim == 4 and array.shape[0] == 1:
        array = array[0]
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise FeatureStoreError(f"features of picture {image_id!r} have the shape {array.shape}; wanted (N, F)")
    return array.reshape(-1, array.shape[-1])


def _square(shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, int] | None:
    counts = {shape[0] for shape in shapes.values()}
    side = round(max(counts) ** 0.5)
    return (side, side) if counts == {side * side} else None


class _Opened:
    """A source of arrays opened for the length of a `with`."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self._file: Any = None

    def __enter__(self) -> Reader:
        if self.source.is_dir():
            return self._from_folder
        if not self.source.is_file():
            raise FeatureStoreError(f"no features at {self.source}")
        if self.source.suffix.lower() in _HDF5:
            self._file = _open_hdf5(self.source)
        else:
            try:
                self._file = np.load(self.source, allow_pickle=False)
            except (OSError, ValueError, EOFError) as error:
                raise FeatureStoreError(f"{self.source} is not a readable .npz or HDF5 file") from error
        if "features" in self._file and "ids" in self._file:
            return self._from_table()
        return self._from_file

    def __exit__(self, *ignored: object) -> None:
        if self._file is not None:
            self._file.close()

    def _from_folder(self, image_id: str, image: str) -> NDArray[Any] | None:
        for name in _names(image_id, image):
            for suffix in (".npy", ".npz"):
                path = self.source / f"{name}{suffix}"
                if path.is_file():
                    return _load_array(path)
        return None

    def _from_file(self, image_id: str, image: str) -> NDArray[Any] | None:
        for name in _names(image_id, image):
            if name in self._file:
                entry = self._file[name]
                if hasattr(entry, "keys"):  # a group of HDF5: its array goes by a usual name
                    entry = next((entry[key] for key in _ARRAY_NAMES if key in entry), None)
                return None if entry is None else np.asarray(entry)
        return None

    def _from_table(self) -> Reader:
        ids = [entry.decode() if isinstance(entry, bytes) else str(entry) for entry in self._file["ids"][:]]
        rows = {name: row for row, name in enumerate(ids)}
        features = self._file["features"]

        def read(image_id: str, image: str) -> NDArray[Any] | None:
            row = next((rows[name] for name in _names(image_id, image) if name in rows), None)
            return None if row is None else np.asarray(features[row])

        return read


def _names(image_id: str, image: str) -> list[str]:
    file = Path(image)
    return list(dict.fromkeys((image_id, file.name, file.stem, Path(image_id).stem)))


def _load_array(path: Path) -> NDArray[Any]:
    try:
        loaded = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise FeatureStoreError(f"{path} is not a readable array: {error}") from error
    if isinstance(loaded, np.ndarray):
        return loaded
    with loaded:
        name = next((key for key in _ARRAY_NAMES if key in loaded), loaded.files[0] if loaded.files else "")
        if not name:
            raise FeatureStoreError(f"{path} holds no array")
        return np.asarray(loaded[name])


def _open_hdf5(path: Path) -> Any:
    try:
        import h5py
    except ImportError as error:
        raise MissingDependencyError("h5py", "hdf5", f"reading {path.name}") from error
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise FeatureStoreError(f"{path} is not a readable HDF5 file") from error
