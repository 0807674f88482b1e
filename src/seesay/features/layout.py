"""How a feature store lies in its file: a safetensors header, and room for all rows from the start."""

import errno
import json
import os
import shutil
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from seesay.errors import FeatureStoreError

_METADATA_KEY = "seesay_features"
FORMAT = 1


def lay_out(ids: Sequence[str], regions: int, feature_size: int, metadata: Mapping[str, Any]) -> tuple[bytes, int]:
    """Returns the bytes of a store up to `status`, and how many it has in all."""
    blob = json.dumps(ids).encode()
    blob += b" " * (-len(blob) % 8)
    shapes = {
        "ids": ("U8", [len(blob)], len(blob)),
        "status": ("I32", [len(ids)], 4 * len(ids)),
        "regions": ("I32", [len(ids)], 4 * len(ids)),
        "features": ("F16", [len(ids), regions, feature_size], 2 * len(ids) * regions * feature_size),
    }
    header: dict[str, Any] = {"__metadata__": {_METADATA_KEY: json.dumps(metadata)}}
    offset = 0
    for name, (kind, shape, size) in shapes.items():
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + blob, 8 + len(text) + offset


def read_header(path: Path) -> tuple[dict[str, Any], dict[str, Any], int]:
    """Returns where the arrays lie, our metadata, and the offset that the places count from."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > path.stat().st_size:
                raise ValueError("header longer than the file")
            header: dict[str, Any] = json.loads(file.read(length))
        metadata = json.loads(header.pop("__metadata__")[_METADATA_KEY])
        version = metadata["format"]
    except FileNotFoundError as error:
        raise FeatureStoreError(f"no feature store at {path}; make one with: seesay extract DATA") from error
    except OSError as error:
        raise FeatureStoreError(f"cannot read the feature store {path}: {error.strerror}") from error
    except (ValueError, KeyError, struct.error, TypeError, AttributeError) as error:
        raise FeatureStoreError(f"{path} is not a feature store of seesay, or is damaged") from error
    if version != FORMAT:
        raise FeatureStoreError(f"{path} was written by another version of seesay; delete it and extract again")
    return header, metadata, 8 + length


def reserve(descriptor: int, size: int, path: Path) -> None:
    """Takes the whole room at once, so that a full disk is known before hours of work."""
    free = shutil.disk_usage(path.parent).free
    if free < size:
        raise FeatureStoreError(
            f"{path} needs {size / 1e9:.2f} GB but {free / 1e9:.2f} GB are free on its disk; "
            "make room or choose another folder with --features"
        )
    os.ftruncate(descriptor, size)
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError as error:  # some network file systems cannot
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise


def disk_error(path: Path, error: OSError) -> FeatureStoreError:
    """Returns the one line for a store that the disk did not take."""
    if error.errno == errno.ENOSPC:
        return FeatureStoreError(
            f"the disk that holds {path} is full; make room and run the same command again: it goes on where it stopped"
        )
    return FeatureStoreError(f"cannot write {path}: {error.strerror}")
