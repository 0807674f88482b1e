import errno
import multiprocessing
import os
import shutil
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from seesay.errors import FeatureStoreError
from seesay.features.creation import create_store, fill_store
from seesay.features.layout import FeatureDtype
from seesay.features.store import DONE, PENDING, UNREADABLE, FeatureStore
from tests import tiny
from tests.features.stores import DTYPES, IDENTITY, exact, fail_with, write_store

Usage = namedtuple("Usage", "total used free")


@DTYPES
def test_growing_keeps_every_row_and_its_state(tmp_path: Path, dtype: FeatureDtype) -> None:
    array = exact(0, 3, 4, 5)
    path = tmp_path / "s"
    create_store(path, list("abc"), 4, 5, (2, 2), IDENTITY, dtype)
    with FeatureStore(path, writable=True) as store:
        store.write([0, 2], array[[0, 2]])
        store.mark_unreadable(1)
    create_store(path, list("xcaybb"), 4, 5, (2, 2), IDENTITY, dtype)
    grown = FeatureStore(path)
    assert grown.ids == list("abcxy")
    assert grown.status.tolist() == [DONE, UNREADABLE, DONE, PENDING, PENDING]
    assert grown.grid == (2, 2)
    np.testing.assert_array_equal(grown.read(["a", "c"])[0], array[[0, 2]])


@DTYPES
def test_growing_by_images_with_more_regions_keeps_every_row(tmp_path: Path, dtype: FeatureDtype) -> None:
    """Rows were once copied as they lay, into a file where rows are longer."""
    array = exact(0, 2, 3, 4)
    path = tmp_path / "s"
    write_store(path, ["a", "b"], array, dtype=dtype)
    create_store(path, ["c"], 5, 4, None, IDENTITY, dtype)
    with FeatureStore(path, writable=True) as store:
        store.write([2], exact(1, 1, 5, 4))
    features, mask = FeatureStore(path).read(list("abc"))
    np.testing.assert_array_equal(features[:2, :3], array)
    np.testing.assert_array_equal(features[2], exact(1, 1, 5, 4)[0])
    assert mask is not None
    assert mask.sum(1).tolist() == [3, 3, 5]


@DTYPES
def test_growing_by_images_with_fewer_regions_keeps_every_row(tmp_path: Path, dtype: FeatureDtype) -> None:
    array = exact(0, 2, 3, 4)
    write_store(tmp_path / "s", ["a", "b"], array, dtype=dtype)
    create_store(tmp_path / "s", ["c"], 1, 4, (1, 1), IDENTITY, dtype)
    grown = FeatureStore(tmp_path / "s")
    assert (grown.regions, grown.grid) == (3, None)
    np.testing.assert_array_equal(grown.read(["a", "b"])[0], array)


def test_features_of_another_width_do_not_join_a_store(tmp_path: Path) -> None:
    write_store(tmp_path / "s", ["a"], tiny.features(0, 1, 2, 4))
    with pytest.raises(FeatureStoreError, match="width 4, which those of width 5"):
        create_store(tmp_path / "s", ["b"], 2, 5, None, IDENTITY)


def test_remains_of_a_killed_process_are_cleared(tmp_path: Path) -> None:
    """A store is made of its final size at once: what a kill leaves of it may be many gigabytes."""
    (tmp_path / "s.123.tmp").write_bytes(b"x")
    (tmp_path / "other.123.tmp").write_bytes(b"x")
    create_store(tmp_path / "s", ["a"], 1, 1, None, IDENTITY)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.123.tmp", "s"]


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="room is not reserved here")
def test_full_disk_while_growing_leaves_the_store_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_store(tmp_path / "s", ["a"], tiny.features(0, 1, 2, 4))
    before = (tmp_path / "s").read_bytes()
    monkeypatch.setattr(os, "posix_fallocate", fail_with(errno.ENOSPC))
    with pytest.raises(FeatureStoreError, match=r"disk .* is full; make room"):
        create_store(tmp_path / "s", ["b"], 2, 4, None, IDENTITY)
    assert (tmp_path / "s").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="room is not reserved here")
def test_file_system_that_cannot_reserve_room_is_used_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "posix_fallocate", fail_with(errno.EOPNOTSUPP))
    array = tiny.features(0, 1, 2, 4)
    np.testing.assert_array_equal(write_store(tmp_path / "s", ["a"], array).read(["a"])[0], array)


def test_too_little_room_is_told_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10, 10, 1000))
    with pytest.raises(FeatureStoreError, match=r"needs 0\.02 GB but 0\.00 GB are free"):
        create_store(tmp_path / "s", list("ab"), 100, 50_000, None, IDENTITY)
    assert not list(tmp_path.iterdir())


def test_folder_that_cannot_be_made_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FeatureStoreError, match="cannot write"):
        create_store(tmp_path / "file" / "s", ["a"], 1, 1, None, IDENTITY)


@DTYPES
def test_store_that_lacks_nothing_is_left_alone(tmp_path: Path, dtype: FeatureDtype) -> None:
    write_store(tmp_path / "s", list("abc"), exact(0, 3, 2, 4), (1, 2), dtype=dtype)
    before = (tmp_path / "s").stat()
    create_store(tmp_path / "s", list("cab"), 1, 4, (1, 1), IDENTITY, dtype)
    assert (tmp_path / "s").stat() == before


@pytest.mark.parametrize(("there", "wanted"), [("float16", "int8"), ("int8", "float16")])
def test_store_of_another_dtype_is_refused_and_left_alone(
    tmp_path: Path, there: FeatureDtype, wanted: FeatureDtype
) -> None:
    write_store(tmp_path / "s", ["a"], exact(0, 1, 2, 4), dtype=there)
    before = (tmp_path / "s").read_bytes()
    for ids in (["a"], ["a", "b"]):
        with pytest.raises(FeatureStoreError) as caught:
            create_store(tmp_path / "s", ids, 2, 4, None, IDENTITY, wanted)
        told = f"feature store {tmp_path / 's'} keeps its features in {there}, not in {wanted}; name another file"
        assert str(caught.value).startswith(told)
        assert f"--feature-dtype {there}" in str(caught.value)
        assert "\n" not in str(caught.value)
    assert (tmp_path / "s").read_bytes() == before


@DTYPES
def test_store_of_another_encoder_does_not_grow(tmp_path: Path, dtype: FeatureDtype) -> None:
    write_store(tmp_path / "s", ["a"], exact(0, 1, 2, 4), dtype=dtype)
    with pytest.raises(FeatureStoreError, match="imported features 'made', not by imported features 'else'"):
        create_store(tmp_path / "s", ["b"], 2, 4, None, {"imported": "else"}, dtype)


def test_int8_takes_a_byte_a_feature_and_five_a_region(tmp_path: Path) -> None:
    sizes = {}
    for dtype in ("float16", "int8"):
        for count in (8, 16):  # ids of one length: the header of 8 is as long as that of 16
            path = tmp_path / f"{dtype}-{count}"
            create_store(path, [f"{number:02}" for number in range(count)], 64, 1280, (8, 8), IDENTITY, dtype)
            sizes[dtype, count] = path.stat().st_size
    grown = {dtype: (sizes[dtype, 16] - sizes[dtype, 8]) / 8 for dtype in ("float16", "int8")}
    assert grown["int8"] == pytest.approx(64 * 1280 + 64 * 5 + 8 + 32, abs=10)
    assert grown["float16"] == pytest.approx(2 * 64 * 1280 + 8 + 32, abs=10)


def fill_slowly(folder: Path, name: str) -> None:
    """Fills a row of a store of two images, and holds it until it is told to go on."""
    (folder / f"came-{name}").touch()
    with fill_store(folder / "s", [name], 4, 5, (2, 2), IDENTITY) as store:
        (folder / f"begun-{name}").touch()
        wait_for(folder / "go")
        store.write([store.ids.index(name)], exact(ord(name), 1, 4, 5))


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_two_processes_that_fill_a_store_take_turns(tmp_path: Path) -> None:
    """The second grew the file while the first wrote to the one before, whose rows were lost."""
    context = multiprocessing.get_context("spawn")
    both = [context.Process(target=fill_slowly, args=(tmp_path, name)) for name in "ab"]
    for process, sign in zip(both, ("begun-a", "came-b"), strict=True):
        process.start()
        wait_for(tmp_path / sign)
    time.sleep(0.5)
    assert not (tmp_path / "begun-b").exists()
    (tmp_path / "go").touch()
    for process in both:
        process.join(60)
        assert process.exitcode == 0
    wanted = np.concatenate([exact(ord(name), 1, 4, 5) for name in "ab"])
    np.testing.assert_array_equal(FeatureStore(tmp_path / "s").read(["a", "b"])[0], wanted)
    assert not list(tmp_path.glob(".*"))


def test_a_lock_of_a_process_that_was_killed_holds_nobody_up(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with fill_store(path, ["a"], 4, 5, (2, 2), IDENTITY):
        (lock,) = tmp_path.glob(".*.lock")
    lock.touch()
    with fill_store(path, ["a"], 4, 5, (2, 2), IDENTITY) as store:
        store.write([0], exact(0, 1, 4, 5))
    assert list(tmp_path.iterdir()) == [path]
