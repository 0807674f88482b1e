import os
import signal
from pathlib import Path

import numpy as np
import pytest

from seesay.errors import FeatureStoreError
from seesay.features.conversion import convert_store
from seesay.features.creation import create_store
from seesay.features.layout import FeatureDtype
from seesay.features.store import FeatureStore
from tests import processes, tiny
from tests.features.stores import DTYPES, IDENTITY, exact, write_store

MANY = [str(number) for number in range(200)]


@DTYPES
@pytest.mark.parametrize("target_dtype", ["float16", "int8"])
def test_a_converted_store_equals_one_written_in_the_target_dtype(
    tmp_path: Path, dtype: FeatureDtype, target_dtype: FeatureDtype
) -> None:
    array = exact(0, 200, 4, 6)
    array[7, 1:] = array[199, 3:] = 0
    regions = [4] * 200
    regions[7], regions[199] = 1, 3
    write_store(tmp_path / "from", MANY, array, (2, 2), regions, dtype)
    write_store(tmp_path / "expected", MANY, array, (2, 2), regions, target_dtype)
    assert convert_store(tmp_path / "from", tmp_path / "to", target_dtype) == 200
    assert (tmp_path / "to").read_bytes() == (tmp_path / "expected").read_bytes()


def test_conversion_back_to_float16_changes_no_value(tmp_path: Path) -> None:
    array = tiny.features(0, 3, 4, 6)
    write_store(tmp_path / "a", list("abc"), array)
    convert_store(tmp_path / "a", tmp_path / "b", "int8")
    convert_store(tmp_path / "b", tmp_path / "c", "float16")
    rounded = FeatureStore(tmp_path / "b").read(list("abc"))[0]
    assert 0 < np.abs(rounded - array).max() < 0.02
    np.testing.assert_array_equal(FeatureStore(tmp_path / "c").read(list("abc"))[0], rounded)


def test_images_missing_in_the_source_stay_pending(tmp_path: Path) -> None:
    array = exact(0, 3, 2, 4)
    create_store(tmp_path / "a", list("abcd"), 2, 4, (1, 2), IDENTITY)
    with FeatureStore(tmp_path / "a", writable=True) as store:
        store.write([0, 2], array[[0, 2]])
        store.mark_unreadable(1)
    assert convert_store(tmp_path / "a", tmp_path / "b", "int8") == 2
    converted = FeatureStore(tmp_path / "b")
    assert (converted.ids, converted.pending(), converted.grid) == (list("abcd"), [1, 3], (1, 2))
    with FeatureStore(tmp_path / "a", writable=True) as store:
        store.write([1], array[[1]])
    assert convert_store(tmp_path / "a", tmp_path / "b", "int8") == 3
    np.testing.assert_array_equal(FeatureStore(tmp_path / "b").read(list("abc"))[0], array)


def test_a_target_with_more_regions_and_other_images_is_extended(tmp_path: Path) -> None:
    wide, narrow = exact(0, 1, 5, 4), exact(1, 2, 3, 4)
    write_store(tmp_path / "b", ["x"], wide, dtype="int8")
    write_store(tmp_path / "a", ["y", "z"], narrow)
    assert convert_store(tmp_path / "a", tmp_path / "b", "int8") == 3
    features, mask = FeatureStore(tmp_path / "b").read(["z", "x", "y"])
    np.testing.assert_array_equal(features[1], wide[0])
    np.testing.assert_array_equal(features[[2, 0], :3], narrow)
    assert mask is not None
    assert mask.sum(1).tolist() == [3, 5, 3]


def test_conversion_to_itself_or_to_the_store_of_another_encoder_is_refused(tmp_path: Path) -> None:
    write_store(tmp_path / "a", ["a"], exact(0, 1, 2, 4))
    before = (tmp_path / "a").read_bytes()
    with pytest.raises(FeatureStoreError, match="has dtype float16, not int8"):
        convert_store(tmp_path / "a", tmp_path / "a", "int8")
    assert convert_store(tmp_path / "a", tmp_path / "a", "float16") == 1
    assert (tmp_path / "a").read_bytes() == before
    create_store(tmp_path / "b", ["a"], 2, 4, None, {"imported": "else"}, "int8")
    with pytest.raises(FeatureStoreError, match="is of imported features 'else'"):
        convert_store(tmp_path / "a", tmp_path / "b", "int8")
    with pytest.raises(FeatureStoreError, match="no feature store at"):
        convert_store(tmp_path / "none", tmp_path / "c", "int8")
    assert not (tmp_path / "c").exists()


def convert_and_die(source: Path, target: Path, call: int) -> None:
    processes.die_at(os, "pwrite", call)
    convert_store(source, target, "int8")


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="requires SIGKILL")
def test_a_killed_conversion_resumes(tmp_path: Path) -> None:
    write_store(tmp_path / "a", MANY, exact(0, 200, 2, 4))
    convert_store(tmp_path / "a", tmp_path / "complete", "int8")
    assert processes.run(convert_and_die, tmp_path / "a", tmp_path / "killed", 6) == -signal.SIGKILL
    assert len(FeatureStore(tmp_path / "killed").pending()) == 200 - 64
    assert convert_store(tmp_path / "a", tmp_path / "killed", "int8") == 200
    assert (tmp_path / "killed").read_bytes() == (tmp_path / "complete").read_bytes()
