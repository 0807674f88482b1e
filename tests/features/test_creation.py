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
def test_growing_keeps_every_row_and_its_status(tmp_path: Path, dtype: FeatureDtype) -> None:
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
    """Bug: rows were copied with the old stride into a file with longer rows."""
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


def test_features_of_another_width_are_refused(tmp_path: Path) -> None:
    write_store(tmp_path / "s", ["a"], tiny.features(0, 1, 2, 4))
    with pytest.raises(FeatureStoreError, match="width 4, not 5"):
        create_store(tmp_path / "s", ["b"], 2, 5, None, IDENTITY)


def test_temporary_files_of_a_killed_process_are_deleted(tmp_path: Path) -> None:
    """A store is created at its final size, which may be many gigabytes."""
    (tmp_path / "s.123.tmp").write_bytes(b"x")
    (tmp_path / "other.123.tmp").write_bytes(b"x")
    create_store(tmp_path / "s", ["a"], 1, 1, None, IDENTITY)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.123.tmp", "s"]


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="requires posix_fallocate")
def test_a_full_disk_while_growing_leaves_the_store_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_store(tmp_path / "s", ["a"], tiny.features(0, 1, 2, 4))
    before = (tmp_path / "s").read_bytes()
    monkeypatch.setattr(os, "posix_fallocate", fail_with(errno.ENOSPC))
    with pytest.raises(FeatureStoreError, match=r"disk .* is full; free space"):
        create_store(tmp_path / "s", ["b"], 2, 4, None, IDENTITY)
    assert (tmp_path / "s").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="requires posix_fallocate")
def test_file_systems_without_preallocation_are_supported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "posix_fallocate", fail_with(errno.EOPNOTSUPP))
    array = tiny.features(0, 1, 2, 4)
    np.testing.assert_array_equal(write_store(tmp_path / "s", ["a"], array).read(["a"])[0], array)


def test_insufficient_disk_space_is_refused_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10, 10, 1000))
    with pytest.raises(FeatureStoreError, match=r"needs 0\.02 GB but its disk has 0\.00 GB free"):
        create_store(tmp_path / "s", list("ab"), 100, 50_000, None, IDENTITY)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_created_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FeatureStoreError, match="cannot write"):
        create_store(tmp_path / "file" / "s", ["a"], 1, 1, None, IDENTITY)


@DTYPES
def test_a_complete_store_is_not_written(tmp_path: Path, dtype: FeatureDtype) -> None:
    write_store(tmp_path / "s", list("abc"), exact(0, 3, 2, 4), (1, 2), dtype=dtype)
    before = (tmp_path / "s").stat()
    create_store(tmp_path / "s", list("cab"), 1, 4, (1, 1), IDENTITY, dtype)
    assert (tmp_path / "s").stat() == before


@pytest.mark.parametrize(("stored", "requested"), [("float16", "int8"), ("int8", "float16")])
def test_a_store_of_another_dtype_is_refused_and_unchanged(
    tmp_path: Path, stored: FeatureDtype, requested: FeatureDtype
) -> None:
    write_store(tmp_path / "s", ["a"], exact(0, 1, 2, 4), dtype=stored)
    before = (tmp_path / "s").read_bytes()
    for ids in (["a"], ["a", "b"]):
        with pytest.raises(FeatureStoreError) as caught:
            create_store(tmp_path / "s", ids, 2, 4, None, IDENTITY, requested)
        expected = f"feature store {tmp_path / 's'} has dtype {stored}, not {requested}; choose another file"
        assert str(caught.value).startswith(expected)
        assert f"--feature-dtype {stored}" in str(caught.value)
        assert "\n" not in str(caught.value)
    assert (tmp_path / "s").read_bytes() == before


@DTYPES
def test_a_store_of_another_encoder_is_not_grown(tmp_path: Path, dtype: FeatureDtype) -> None:
    write_store(tmp_path / "s", ["a"], exact(0, 1, 2, 4), dtype=dtype)
    with pytest.raises(FeatureStoreError, match="imported features 'made', not of imported features 'else'"):
        create_store(tmp_path / "s", ["b"], 2, 4, None, {"imported": "else"}, dtype)


def test_int8_requires_one_byte_per_feature_and_five_per_region(tmp_path: Path) -> None:
    sizes = {}
    for dtype in ("float16", "int8"):
        for count in (8, 16):  # ids of one length give headers of one length
            path = tmp_path / f"{dtype}-{count}"
            create_store(path, [f"{number:02}" for number in range(count)], 64, 1280, (8, 8), IDENTITY, dtype)
            sizes[dtype, count] = path.stat().st_size
    grown = {dtype: (sizes[dtype, 16] - sizes[dtype, 8]) / 8 for dtype in ("float16", "int8")}
    assert grown["int8"] == pytest.approx(64 * 1280 + 64 * 5 + 8 + 32, abs=10)
    assert grown["float16"] == pytest.approx(2 * 64 * 1280 + 8 + 32, abs=10)


def fill_slowly(folder: Path, name: str) -> None:
    """Fills a row of a store of two images once the file `go` exists."""
    (folder / f"started-{name}").touch()
    with fill_store(folder / "s", [name], 4, 5, (2, 2), IDENTITY) as store:
        (folder / f"locked-{name}").touch()
        wait_for(folder / "go")
        store.write([store.ids.index(name)], exact(ord(name), 1, 4, 5))


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_two_processes_fill_a_store_in_sequence(tmp_path: Path) -> None:
    """Bug: the second process replaced the file that the first was writing, and its rows were lost."""
    context = multiprocessing.get_context("spawn")
    both = [context.Process(target=fill_slowly, args=(tmp_path, name)) for name in "ab"]
    for process, file in zip(both, ("locked-a", "started-b"), strict=True):
        process.start()
        wait_for(tmp_path / file)
    time.sleep(0.5)
    assert not (tmp_path / "locked-b").exists()
    (tmp_path / "go").touch()
    for process in both:
        process.join(60)
        assert process.exitcode == 0
    requested = np.concatenate([exact(ord(name), 1, 4, 5) for name in "ab"])
    np.testing.assert_array_equal(FeatureStore(tmp_path / "s").read(["a", "b"])[0], requested)
    assert not list(tmp_path.glob(".*"))


def test_the_lock_of_a_killed_process_does_not_block(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with fill_store(path, ["a"], 4, 5, (2, 2), IDENTITY):
        (lock,) = tmp_path.glob(".*.lock")
    lock.touch()
    with fill_store(path, ["a"], 4, 5, (2, 2), IDENTITY) as store:
        store.write([0], exact(0, 1, 4, 5))
    assert list(tmp_path.iterdir()) == [path]
