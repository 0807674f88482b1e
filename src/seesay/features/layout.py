"""File layout of a feature store: a safetensors header and preallocated rows."""

import errno
import json
import os
import shutil
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np

from seesay.errors import FeatureStoreError

FeatureDtype = Literal["float16", "int8"]
"""Dtype of features on disk: `EncoderConfig.feature_dtype`."""

_METADATA_KEY = "seesay_features"

FORMATS: dict[FeatureDtype, int] = {"float16": 3, "int8": 4}
"""Format versions. int8 has a separate version, so that a seesay that cannot read it reports an error."""

_UNSTAMPED: dict[int, FeatureDtype] = {1: "float16", 2: "int8"}
"""Earlier format versions without stamps."""

_DTYPES = {**_UNSTAMPED, **{version: dtype for dtype, version in FORMATS.items()}}

STAMP_BYTES = 32
"""Size of the stamp that detects changed images; see `features.stamps`."""

NUMBERS: dict[str, type[np.generic]] = {
    "U8": np.uint8,
    "I8": np.int8,
    "I32": np.int32,
    "F16": np.float16,
    "F32": np.float32,
}
"""Number types by safetensors name."""

ROW_ARRAYS: dict[FeatureDtype, dict[str, str]] = {
    "float16": {"status": "I32", "regions": "I32", "stamps": "U8", "features": "F16"},
    "int8": {"status": "I32", "regions": "I32", "stamps": "U8", "scales": "F32", "zeros": "I8", "features": "I8"},
}
"""Arrays with one entry per image, in the order of the file, which keeps them aligned."""


@dataclass(frozen=True)
class Layout:
    """Byte layout of a store.

    Attributes:
        head: the bytes before the first per-image array.
        offsets: offset of each per-image array.
        strides: size of an entry of each per-image array, in bytes.
        size: total size in bytes.
    """

    head: bytes
    offsets: dict[str, int]
    strides: dict[str, int]
    size: int


def compute_layout(
    ids: Sequence[str],
    regions: int,
    feature_size: int,
    grid: tuple[int, int] | None,
    identity: Mapping[str, Any],
    dtype: FeatureDtype,
) -> Layout:
    """Return the layout of a store of images with `regions` regions of width `feature_size`."""
    blob = json.dumps(ids).encode()
    blob += b" " * (-len(blob) % 8)
    metadata = {"format": FORMATS[dtype], "identity": dict(identity), "grid": grid}
    header: dict[str, Any] = {
        "__metadata__": {_METADATA_KEY: json.dumps(metadata)},
        "ids": {"dtype": "U8", "shape": [len(blob)], "data_offsets": [0, len(blob)]},
    }
    shapes = {"stamps": (STAMP_BYTES,), "scales": (regions,), "zeros": (regions,), "features": (regions, feature_size)}
    strides, offset = {}, len(blob)
    for name, number in ROW_ARRAYS[dtype].items():
        shape = shapes.get(name, ())
        strides[name] = prod(shape) * np.dtype(NUMBERS[number]).itemsize
        end = offset + len(ids) * strides[name]
        header[name] = {"dtype": number, "shape": [len(ids), *shape], "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    start = 8 + len(text)
    offsets = {name: start + header[name]["data_offsets"][0] for name in strides}
    return Layout(struct.pack("<Q", len(text)) + text + blob, offsets, strides, start + offset)


@dataclass(frozen=True)
class Header:
    """Header of a store's file.

    Attributes:
        dtype: dtype of the features.
        arrays: safetensors entry (dtype, shape, data_offsets) of each array.
        metadata: identity of the features, and their grid.
        start: file position to which data_offsets are relative.
    """

    dtype: FeatureDtype
    arrays: dict[str, Any]
    metadata: dict[str, Any]
    start: int


def read_header(path: Path) -> Header:
    """Return the header of a store's file.

    Raises:
        FeatureStoreError: the file does not exist or is not readable by this version of seesay.
    """
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > path.stat().st_size:
                raise ValueError("header longer than the file")
            arrays: dict[str, Any] = json.loads(file.read(length))
        metadata = json.loads(arrays.pop("__metadata__")[_METADATA_KEY])
        dtype = _DTYPES.get(metadata["format"])
        expected = dict(ROW_ARRAYS[dtype]) if dtype else {}
        if metadata["format"] in _UNSTAMPED:
            del expected["stamps"]
        if {name: arrays[name]["dtype"] for name in expected} != expected:
            raise ValueError("unexpected arrays")
    except FileNotFoundError as error:
        raise FeatureStoreError(f"no feature store at {path}; create one with: seesay extract DATA") from error
    except OSError as error:
        raise FeatureStoreError(f"cannot read the feature store {path}: {error.strerror}") from error
    except (ValueError, KeyError, struct.error, TypeError, AttributeError) as error:
        raise FeatureStoreError(f"{path} is not a feature store of seesay, or is damaged") from error
    if dtype is None:
        raise FeatureStoreError(f"{path} was written by another version of seesay; delete it and extract again")
    return Header(dtype, arrays, metadata, 8 + length)


def reserve(descriptor: int, size: int, path: Path) -> None:
    """Allocate the file at once, so that a full disk is detected before hours of work."""
    free = shutil.disk_usage(path.parent).free
    if free < size:
        raise FeatureStoreError(
            f"{path} needs {size / 1e9:.2f} GB but its disk has {free / 1e9:.2f} GB free; "
            "free space or choose another folder with --features"
        )
    os.ftruncate(descriptor, size)
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError as error:  # not supported by some network file systems
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise


def disk_error(path: Path, error: OSError) -> FeatureStoreError:
    """Return the error for a failed write."""
    if error.errno == errno.ENOSPC:
        return FeatureStoreError(f"the disk of {path} is full; free space and run the same command to resume")
    return FeatureStoreError(f"cannot write {path}: {error.strerror}")
