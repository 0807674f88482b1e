"""How a feature store lies in its file: a safetensors header, and room for all rows from the start."""

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
"""How features are kept on disk: `EncoderConfig.feature_dtype`."""

_METADATA_KEY = "seesay_features"

FORMATS: dict[FeatureDtype, int] = {"float16": 3, "int8": 4}
"""Versions of the file. Features in 8 bits have one of their own: a seesay that cannot read them must refuse them."""

_UNSTAMPED: dict[int, FeatureDtype] = {1: "float16", 2: "int8"}
"""Earlier versions, without the array of stamps."""

_DTYPES = {**_UNSTAMPED, **{version: dtype for dtype, version in FORMATS.items()}}

STAMP_BYTES = 32
"""Bytes by which a changed image is noticed; see `features.stamps`."""

NUMBERS: dict[str, type[np.generic]] = {
    "U8": np.uint8,
    "I8": np.int8,
    "I32": np.int32,
    "F16": np.float16,
    "F32": np.float32,
}
"""Safetensors' names of numbers."""

ROW_ARRAYS: dict[FeatureDtype, dict[str, str]] = {
    "float16": {"status": "I32", "regions": "I32", "stamps": "U8", "features": "F16"},
    "int8": {"status": "I32", "regions": "I32", "stamps": "U8", "scales": "F32", "zeros": "I8", "features": "I8"},
}
"""The arrays with an entry per image, in the order of the file; the widths of entries keep all of them aligned."""


@dataclass(frozen=True)
class Layout:
    """Where everything of a store lies.

    Attributes:
        head: the bytes up to the first array with an entry an image.
        places: name of such an array -> its first byte.
        strides: name of such an array -> bytes of an entry.
        size: bytes in all.
    """

    head: bytes
    places: dict[str, int]
    strides: dict[str, int]
    size: int


def lay_out(
    ids: Sequence[str],
    regions: int,
    feature_size: int,
    grid: tuple[int, int] | None,
    identity: Mapping[str, Any],
    dtype: FeatureDtype,
) -> Layout:
    """Returns the layout of a store of images with `regions` regions of `feature_size` numbers each."""
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
    places = {name: start + header[name]["data_offsets"][0] for name in strides}
    return Layout(struct.pack("<Q", len(text)) + text + blob, places, strides, start + offset)


@dataclass(frozen=True)
class Header:
    """What the header of a store's file says.

    Attributes:
        dtype: how features are kept.
        arrays: name of an array -> its number type, shape and place, as safetensors writes them.
        metadata: what made the features, and their grid.
        start: first byte that places count from.
    """

    dtype: FeatureDtype
    arrays: dict[str, Any]
    metadata: dict[str, Any]
    start: int


def read_header(path: Path) -> Header:
    """Returns what the header of a store's file says.

    Raises:
        FeatureStoreError: no such file, or not one that this version of seesay can read.
    """
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > path.stat().st_size:
                raise ValueError("header longer than the file")
            arrays: dict[str, Any] = json.loads(file.read(length))
        metadata = json.loads(arrays.pop("__metadata__")[_METADATA_KEY])
        dtype = _DTYPES.get(metadata["format"])
        wanted = dict(ROW_ARRAYS[dtype]) if dtype else {}
        if metadata["format"] in _UNSTAMPED:
            del wanted["stamps"]
        if {name: arrays[name]["dtype"] for name in wanted} != wanted:
            raise ValueError("arrays of another kind")
    except FileNotFoundError as error:
        raise FeatureStoreError(f"no feature store at {path}; make one with: seesay extract DATA") from error
    except OSError as error:
        raise FeatureStoreError(f"cannot read the feature store {path}: {error.strerror}") from error
    except (ValueError, KeyError, struct.error, TypeError, AttributeError) as error:
        raise FeatureStoreError(f"{path} is not a feature store of seesay, or is damaged") from error
    if dtype is None:
        raise FeatureStoreError(f"{path} was written by another version of seesay; delete it and extract again")
    return Header(dtype, arrays, metadata, 8 + length)


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
