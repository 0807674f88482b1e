"""The feature store: one safetensors file, preallocated, filled row by row, read through a memory map.

A row is a picture. `status` says of each row whether it holds features, so that an extraction killed at any
moment goes on where it stopped: a row is marked only after its numbers are written. The file is readable by
any safetensors library; its metadata says which encoder made it.
"""

import contextlib
import glob
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seesay.errors import FeatureStoreError
from seesay.features.layout import FORMAT, disk_error, lay_out, read_header, reserve

PENDING, DONE, UNREADABLE = 0, 1, 2
"""States of a row."""

_COPY_BYTES = 1 << 26


class FeatureStore:
    """One extraction on disk.

    Attributes:
        path: the file.
        identity: what made the features (`Encoder.identity`, or the name of an import).
        ids: picture ids in the order of the rows.
        status: state of each row, (I,) int32.
    """

    def __init__(self, path: str | Path, writable: bool = False) -> None:
        """Opens a store.

        Args:
            path: the file.
            writable: open for filling; otherwise a store with pending rows is refused by `require_complete`.

        Raises:
            FeatureStoreError: no such file, or not a whole feature store.
        """
        self.path = Path(path)
        entries, metadata, start = read_header(self.path)
        self.identity: dict[str, Any] = metadata["identity"]
        self._grid: tuple[int, int] | None = tuple(metadata["grid"]) if metadata["grid"] else None
        mode = "r+" if writable else "r"
        blob = self._map(entries["ids"], start, np.uint8, "r")
        self.ids: list[str] = json.loads(blob.tobytes().decode())
        self.status: NDArray[np.int32] = self._map(entries["status"], start, np.int32, mode)
        self._regions: NDArray[np.int32] = self._map(entries["regions"], start, np.int32, mode)
        self._features: NDArray[np.float16] = self._map(entries["features"], start, np.float16, "r")
        self._start = start + entries["features"]["data_offsets"][0]
        self._rows = {image_id: row for row, image_id in enumerate(self.ids)}
        self._ragged = bool((self._regions[self.status == DONE] < self.regions).any())
        self._file = self.path.open("r+b", buffering=0) if writable else None

    def _map(self, entry: Mapping[str, Any], start: int, kind: Any, mode: Any) -> Any:
        begin, end = entry["data_offsets"]
        if start + end > self.path.stat().st_size:
            raise FeatureStoreError(f"feature store {self.path} is cut short; delete it and extract again")
        if begin == end:
            return np.zeros(entry["shape"], kind)
        return np.memmap(self.path, kind, mode, start + begin, tuple(entry["shape"]))

    @property
    def regions(self) -> int:
        """Most regions of a picture, N."""
        return int(self._features.shape[1])

    @property
    def feature_size(self) -> int:
        """Width F of a region."""
        return int(self._features.shape[2])

    @property
    def grid(self) -> tuple[int, int] | None:
        """(rows, columns) of the regions, None where they form no grid."""
        return self._grid

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, image_id: object) -> bool:
        """Tells whether the features of a picture can be read."""
        row = self._rows.get(image_id) if isinstance(image_id, str) else None
        return row is not None and bool(self.status[row] == DONE)

    def __enter__(self) -> "FeatureStore":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Flushes and closes a store that was opened for writing.

        Raises:
            FeatureStoreError: the disk is full or broken.
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
        """Returns features (B, N, F) and the mask of real regions (B, N), None = all are real.

        Raises:
            FeatureStoreError: a picture's features are not in the store.
        """
        absent = [image_id for image_id in ids if image_id not in self]
        if absent:
            raise FeatureStoreError(f"{self.path} holds no features of picture {absent[0]!r}")
        rows = np.fromiter((self._rows[image_id] for image_id in ids), np.int64, len(ids))
        features = np.asarray(self._features[rows])
        if not self._ragged:
            return features, None
        return features, np.arange(self.regions)[None] < self._regions[rows][:, None]

    def write(self, rows: Sequence[int], features: NDArray[np.float16], regions: Sequence[int] | None = None) -> None:
        """Fills rows, and when all of them are filled marks them done.

        Args:
            rows: the rows, ascending.
            features: (B, N, F).
            regions: real regions of each picture; None = N.

        Raises:
            FeatureStoreError: the disk is full; what was written before stays valid.
        """
        if self._file is None:
            raise FeatureStoreError(f"feature store {self.path} is open for reading only")
        begin = 0
        try:
            for end in range(1, len(rows) + 1):
                if end == len(rows) or rows[end] != rows[end - 1] + 1:  # neighbours in one go
                    self._write_run(self._file.fileno(), rows[begin], features[begin:end])
                    begin = end
        except OSError as error:
            raise disk_error(self.path, error) from error
        self._regions[rows] = self.regions if regions is None else regions
        self.status[rows] = DONE

    def _write_run(self, descriptor: int, first: int, features: NDArray[np.float16]) -> None:
        data = np.ascontiguousarray(features, np.float16).reshape(-1).view(np.uint8).data
        place, done = self._start + first * self.regions * self.feature_size * 2, 0
        while done < len(data):
            done += os.pwrite(descriptor, data[done:], place + done)

    def mark_unreadable(self, row: int) -> None:
        """Notes that a picture could not be read; a later extraction tries it again."""
        self.status[row] = UNREADABLE

    def pending(self) -> list[int]:
        """Returns the rows without features, the unreadable ones included."""
        return [int(row) for row in np.flatnonzero(self.status != DONE)]

    def require(self, identity: Mapping[str, Any]) -> None:
        """Refuses the store if another encoder made it.

        Raises:
            FeatureStoreError: names what differs.
        """
        for key in dict.fromkeys([*identity, *self.identity]):
            if self.identity.get(key) != identity.get(key):
                raise FeatureStoreError(
                    f"feature store {self.path} was made by {describe_identity(self.identity)}, not by "
                    f"{describe_identity(identity)}: {key} is {self.identity.get(key)!r}, wanted {identity.get(key)!r}"
                )


def create_store(
    path: Path,
    ids: Sequence[str],
    regions: int,
    feature_size: int,
    grid: tuple[int, int] | None,
    identity: Mapping[str, Any],
) -> None:
    """Makes an empty store of its final size, or one that continues the store at `path`.

    A store that is there keeps its rows; the pictures it lacks are appended, and where these have more regions
    all rows get room for as many.

    Raises:
        FeatureStoreError: the store there has features of another width, or there is not enough room on the
            disk; nothing is left behind.
    """
    old = FeatureStore(path) if path.exists() else None
    if old and old.feature_size != feature_size:
        raise FeatureStoreError(
            f"{path} holds features of width {old.feature_size}, which those of width {feature_size} cannot join; "
            "delete it or name another file"
        )
    if old and (old.regions, old.grid) != (regions, grid):
        regions, grid = max(regions, old.regions), None
    ids = list(dict.fromkeys([*(old.ids if old else []), *ids]))
    head, size = lay_out(ids, regions, feature_size, {"format": FORMAT, "identity": dict(identity), "grid": grid})
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left_by_a_killed_one in path.parent.glob(f"{glob.escape(path.name)}.*.tmp"):
            left_by_a_killed_one.unlink()
        with temporary.open("w+b") as file:
            reserve(file.fileno(), size, path)
            file.write(head)
            if old:
                file.write(_padded(old.status, len(ids)) + _padded(old._regions, len(ids)))
                _copy_rows(old, file, 2 * regions * feature_size)
        temporary.replace(path)
    except OSError as error:
        raise disk_error(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _copy_rows(old: FeatureStore, file: Any, stride: int) -> None:
    """Copies the rows of a store to where `file` stands, each at the begin of `stride` bytes."""
    rows = old._features.reshape(len(old), -1).view(np.uint8)
    begin, missing = file.tell(), stride - rows.shape[1]
    step = max(1, _COPY_BYTES // stride)
    for first in range(0, len(rows), step):
        part = rows[first : first + step]
        file.write(np.pad(part, ((0, 0), (0, missing))).data if missing else part.data)
    assert file.tell() == begin + len(old) * stride


def _padded(values: NDArray[np.int32], length: int) -> bytes:
    return np.pad(np.asarray(values), (0, length - len(values))).astype("<i4").tobytes()


def describe_identity(identity: Mapping[str, Any]) -> str:
    """Returns in words what made features, for messages."""
    if "joined" in identity:
        return " + ".join(describe_identity(part) for part in identity["joined"])
    if "encoder" not in identity:
        return f"imported features {identity.get('imported')!r}"
    size = identity["preprocessing"]["size"]
    layer = f" layer {identity['layer']}" if identity["layer"] else ""
    mirrored = ", mirrored" if "mirrored" in identity else ""
    return f"{identity['encoder']}{layer} at {size} px, {identity['pool']}, weights {identity['digest'][:8]}{mirrored}"
