"""Small feature stores of known features for the tests."""

import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from seesay.features.creation import create_store
from seesay.features.layout import FeatureDtype
from seesay.features.store import FeatureStore

IDENTITY = {"imported": "made"}

DTYPES = pytest.mark.parametrize("dtype", ["float16", "int8"])


def exact(seed: int, *shape: int) -> NDArray[np.float16]:
    """Returns random features (B, N, F) that int8 represents exactly: multiples of 1/4 over the full range."""
    array = np.random.default_rng(seed).integers(-128, 128, shape)
    array[..., 0], array[..., -1] = -128, 127
    return (array / 4).astype(np.float16)


def write_store(
    path: Path,
    ids: list[str],
    array: NDArray[np.float16],
    grid: tuple[int, int] | None = None,
    regions: list[int] | None = None,
    dtype: FeatureDtype = "float16",
) -> FeatureStore:
    """Returns a store of features (I, N, F)."""
    create_store(path, ids, array.shape[1], array.shape[2], grid, IDENTITY, dtype)
    with FeatureStore(path, writable=True) as store:
        store.write(range(len(ids)), array, regions)
    return FeatureStore(path)


def write_unstamped(path: Path, array: NDArray[np.float16], identity: dict[str, Any]) -> Path:
    """Writes a store of "a" and "b" in the format without stamps: features (2, 1, 3)."""
    metadata = {"seesay_features": json.dumps({"format": 1, "identity": identity, "grid": (1, 1)})}
    header = {
        "__metadata__": metadata,
        "ids": {"dtype": "U8", "shape": [16], "data_offsets": [0, 16]},
        "status": {"dtype": "I32", "shape": [2], "data_offsets": [16, 24]},
        "regions": {"dtype": "I32", "shape": [2], "data_offsets": [24, 32]},
        "features": {"dtype": "F16", "shape": [2, 1, 3], "data_offsets": [32, 44]},
    }
    text = json.dumps(header)
    text += " " * (-len(text) % 8)
    content = struct.pack("<Q", len(text)) + text.encode() + b'["a", "b"]      ' + struct.pack("<4i", 1, 1, 1, 1)
    path.write_bytes(content + array.tobytes())
    return path


def fail_with(number: int) -> object:
    """Returns a function that raises the OSError of an errno."""

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail
