"""The feature store: one preallocated safetensors file, written row by row and read through a memory map.

Each row is an image. A row's `status` is set after its features are written, so that a killed extraction resumes. The
file is readable by any safetensors library; its metadata identifies the encoder. Features are stored as float16, or as
int8 with a scale and a zero point per region; reading returns float16.
"""

import json
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seesay.errors import FeatureStoreError
from seesay.features.layout import NUMBERS, ROW_ARRAYS, STAMP_BYTES, FeatureDtype, disk_error, read_header
from seesay.features.quantisation import dequantise, quantise

PENDING, DONE, UNREADABLE = 0, 1, 2
"""States of a row."""

_INVALID_STAMP = 255


class FeatureStore:
    """The features of one extraction.

    Attributes:
        path: the file.
        identity: `Encoder.identity`, or the name of an import.
        ids: image ids in the order of the rows.
        status: state of each row, (I,) int32.
        dtype: dtype of the features on disk.
        arrays: memory-mapped arrays of `layout.ROW_ARRAYS`, one entry per row.
    """

    def __init__(self, path: str | Path, writable: bool = False) -> None:
        """Open a store.

        Args:
            path: the file.
            writable: open for writing.

        Raises:
            FeatureStoreError: the file does not exist or is not a complete feature store.
        """
        self.path = Path(path)
        header = read_header(self.path)
        self.dtype: FeatureDtype = header.dtype
        self._start = header.start
        try:
            self.identity: dict[str, Any] = header.metadata["identity"]
            grid = header.metadata["grid"]
            self.ids: list[str] = json.loads(self._map(header.arrays["ids"], "r").tobytes().decode())
        except (KeyError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise FeatureStoreError(f"feature store {self.path} is damaged; delete it and extract again") from error
        self._grid: tuple[int, int] | None = tuple(grid) if grid else None
        mode = "r+" if writable else "r"
        self.arrays: dict[str, NDArray[Any]] = {
            name: self._map(header.arrays[name], mode if name in ("status", "regions", "stamps") else "r")
            for name in ROW_ARRAYS[header.dtype]
            if name in header.arrays  # earlier versions have no stamps
        }
        self._offsets = {name: header.start + header.arrays[name]["data_offsets"][0] for name in self.arrays}
        self.status: NDArray[np.int32] = self.arrays["status"]
        self._regions: NDArray[np.int32] = self.arrays["regions"]
        self._features: NDArray[Any] = self.arrays["features"]
        self._rows = {image_id: row for row, image_id in enumerate(self.ids)}
        self._ragged = bool((self._regions[self.status == DONE] < self.regions).any())
        self._file = self.path.open("r+b", buffering=0) if writable else None

    def _map(self, entry: Mapping[str, Any], mode: Any) -> Any:
        begin, end = entry["data_offsets"]
        number = NUMBERS[entry["dtype"]]
        if self._start + end > self.path.stat().st_size:
            raise FeatureStoreError(f"feature store {self.path} is truncated; delete it and extract again")
        if begin == end:
            return np.zeros(entry["shape"], number)
        return np.memmap(self.path, number, mode, self._start + begin, tuple(entry["shape"]))

    @property
    def regions(self) -> int:
        """Maximum number of regions N."""
        return int(self._features.shape[1])

    @property
    def feature_size(self) -> int:
        """Feature width F."""
        return int(self._features.shape[2])

    @property
    def grid(self) -> tuple[int, int] | None:
        """(rows, columns) of the regions, or None without a grid."""
        return self._grid

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, image_id: object) -> bool:
        """Return whether the store has the features of an image."""
        row = self._rows.get(image_id) if isinstance(image_id, str) else None
        return row is not None and bool(self.status[row] == DONE)

    def __enter__(self) -> "FeatureStore":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Flush and close a store opened for writing.

        Raises:
            FeatureStoreError: the disk is full or fails.
        """
        if self._file is None:
            return
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise disk_error(self.path, error) from error
        finally:
            self._file.close()
            self._file = None

    def read(self, ids: Sequence[str]) -> tuple[NDArray[np.float16], NDArray[np.bool_] | None]:
        """Return features (B, N, F) and the mask of real regions (B, N); None: all regions are real.

        Raises:
            FeatureStoreError: an image is not in the store.
        """
        absent = [image_id for image_id in ids if image_id not in self]
        if absent:
            raise FeatureStoreError(f"{self.path} has no features of image {absent[0]!r}")
        rows = np.fromiter((self._rows[image_id] for image_id in ids), np.int64, len(ids))
        features = np.asarray(self._features[rows])
        if self.dtype == "int8":
            features = dequantise(features, self.arrays["scales"][rows], self.arrays["zeros"][rows])
        if not self._ragged:
            return features, None
        return features, np.arange(self.regions)[None] < self._regions[rows][:, None]

    def stamps(self, ids: Sequence[str]) -> NDArray[np.uint8]:
        """Return the stamps of images in the store, (B, 32); zeros: no record."""
        if "stamps" not in self.arrays:
            return np.zeros((len(ids), STAMP_BYTES), np.uint8)
        return np.asarray(self.arrays["stamps"][[self._rows[image_id] for image_id in ids]])

    def restamp(self, ids: Sequence[str], stamps: NDArray[np.uint8]) -> None:
        """Replace the stamps (B, 32) of images, keeping their features."""
        self.arrays["stamps"][[self._rows[image_id] for image_id in ids]] = stamps

    def write(
        self,
        rows: Sequence[int],
        features: NDArray[np.float16],
        regions: Sequence[int] | None = None,
        stamps: NDArray[np.uint8] | None = None,
    ) -> None:
        """Write rows, then marks them as done.

        Args:
            rows: row indices, ascending.
            features: (B, N, F), finite.
            regions: number of real regions of each image; None: N.
            stamps: stamps of the images, (B, 32); None: no record.

        Raises:
            FeatureStoreError: the disk is full; rows written before stay valid.
        """
        if self._file is None:
            raise FeatureStoreError(f"feature store {self.path} is open for reading only")
        parts: dict[str, NDArray[Any]] = {"features": features}
        if self.dtype == "int8":
            parts["features"], parts["scales"], parts["zeros"] = quantise(features)
        # Invalidate the stamps until the features are completely replaced.
        self.arrays["stamps"][rows] = _INVALID_STAMP
        begin = 0
        try:
            for end in range(1, len(rows) + 1):
                if end == len(rows) or rows[end] != rows[end - 1] + 1:  # write consecutive rows at once
                    for name, values in parts.items():
                        self._write_run(self._file.fileno(), name, rows[begin], values[begin:end])
                    begin = end
        except OSError as error:
            raise disk_error(self.path, error) from error
        self._regions[rows] = self.regions if regions is None else regions
        self.arrays["stamps"][rows] = 0 if stamps is None else stamps
        self.status[rows] = DONE

    def _write_run(self, descriptor: int, name: str, first: int, values: NDArray[Any]) -> None:
        array = self.arrays[name]
        data = np.ascontiguousarray(values, array.dtype).reshape(-1).view(np.uint8).data
        position, done = self._offsets[name] + first * array[:1].nbytes, 0
        while done < len(data):
            done += os.pwrite(descriptor, data[done:], position + done)

    def mark_unreadable(self, row: int) -> None:
        """Mark an image as unreadable; the next extraction tries it again."""
        self.status[row] = UNREADABLE

    def pending(self) -> list[int]:
        """Return the rows without features, including unreadable images."""
        return [int(row) for row in np.flatnonzero(self.status != DONE)]

    def rows(self, ids: Collection[str]) -> list[int]:
        """Return the rows of images, ascending."""
        return sorted(self._rows[image_id] for image_id in ids)

    def require(self, identity: Mapping[str, Any]) -> None:
        """Check that the store matches an identity.

        Raises:
            FeatureStoreError: it differs.
        """
        for key in dict.fromkeys([*identity, *self.identity]):
            if self.identity.get(key) != identity.get(key):
                raise FeatureStoreError(
                    f"feature store {self.path} is of {describe_identity(self.identity)}, not of "
                    f"{describe_identity(identity)}: {key} is {self.identity.get(key)!r}, not {identity.get(key)!r}"
                )


def describe_identity(identity: Mapping[str, Any]) -> str:
    """Return a description of an identity, for messages."""
    if "joined" in identity:
        return " + ".join(describe_identity(part) for part in identity["joined"])
    if "encoder" not in identity:
        return f"imported features {identity.get('imported')!r}"
    size = identity["preprocessing"]["size"]
    layer = f" layer {identity['layer']}" if identity["layer"] else ""
    mirrored = ", mirrored" if "mirrored" in identity else ""
    grid = f" {identity['grid_size']}x{identity['grid_size']}" if "grid_size" in identity else ""
    weights = f"weights {identity['digest'][:8]}"
    return f"{identity['encoder']}{layer} at {size} px, {identity['pool']}{grid}, {weights}{mirrored}"
