import errno
import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from seesay.errors import FeatureStoreError
from seesay.features.creation import create_store
from seesay.features.joined import JoinedStores, resample_grid
from seesay.features.layout import FeatureDtype
from seesay.features.store import DONE, PENDING, UNREADABLE, FeatureStore
from tests import tiny
from tests.features.stores import DTYPES, IDENTITY, exact, fail_with, write_store, write_unstamped


@DTYPES
def test_written_rows_are_read_in_any_order(tmp_path: Path, dtype: FeatureDtype) -> None:
    array = exact(0, 5, 4, 3)
    store = write_store(tmp_path / "s", list("abcde"), array, (2, 2), dtype=dtype)
    features, mask = store.read(["d", "a", "d"])
    np.testing.assert_array_equal(features, array[[3, 0, 3]])
    assert mask is None
    assert (store.regions, store.feature_size, store.grid, len(store)) == (4, 3, (2, 2), 5)
    assert features.dtype == np.float16
    assert store.dtype == dtype


@DTYPES
def test_non_adjacent_rows_are_written(tmp_path: Path, dtype: FeatureDtype) -> None:
    array = exact(0, 4, 2, 3)
    create_store(tmp_path / "s", list("abcdefg"), 2, 3, None, IDENTITY, dtype)
    with FeatureStore(tmp_path / "s", writable=True) as store:
        store.write([0, 2, 3, 6], array)
        assert store.pending() == [1, 4, 5]
    np.testing.assert_array_equal(FeatureStore(tmp_path / "s").read(list("acdg"))[0], array)


def test_the_safetensors_library_reads_float16_stores(tmp_path: Path) -> None:
    array = tiny.features(1, 3, 4, 5)
    write_store(tmp_path / "s.safetensors", ["ä", "b", "c"], array)
    read = safetensors.numpy.load_file(tmp_path / "s.safetensors")
    np.testing.assert_array_equal(read["features"], array)
    assert json.loads(read["ids"].tobytes()) == ["ä", "b", "c"]
    assert read["status"].tolist() == [DONE] * 3
    assert read["regions"].tolist() == [4, 4, 4]


def test_the_safetensors_library_reads_int8_stores(tmp_path: Path) -> None:
    array = exact(1, 3, 4, 5)
    write_store(tmp_path / "s.safetensors", ["ä", "b", "c"], array, dtype="int8")
    read = safetensors.numpy.load_file(tmp_path / "s.safetensors")
    assert {name: (values.dtype.name, values.shape) for name, values in read.items() if name != "ids"} == {
        "status": ("int32", (3,)),
        "regions": ("int32", (3,)),
        "stamps": ("uint8", (3, 32)),
        "scales": ("float32", (3, 4)),
        "zeros": ("int8", (3, 4)),
        "features": ("int8", (3, 4, 5)),
    }
    codes, zeros = read["features"].astype(int), read["zeros"].astype(int)
    np.testing.assert_array_equal((codes - zeros[..., None]) * read["scales"][..., None], array)
    assert json.loads(read["ids"].tobytes()) == ["ä", "b", "c"]


def test_float16_stores_have_the_documented_bytes(tmp_path: Path) -> None:
    path, array = tmp_path / "s", tiny.features(0, 2, 1, 3)
    metadata = {"seesay_features": json.dumps({"format": 3, "identity": IDENTITY, "grid": (1, 1)})}
    header = {
        "__metadata__": metadata,
        "ids": {"dtype": "U8", "shape": [16], "data_offsets": [0, 16]},
        "status": {"dtype": "I32", "shape": [2], "data_offsets": [16, 24]},
        "regions": {"dtype": "I32", "shape": [2], "data_offsets": [24, 32]},
        "stamps": {"dtype": "U8", "shape": [2, 32], "data_offsets": [32, 96]},
        "features": {"dtype": "F16", "shape": [2, 1, 3], "data_offsets": [96, 108]},
    }
    text = json.dumps(header)
    text += " " * (-len(text) % 8)
    content = struct.pack("<Q", len(text)) + text.encode() + b'["a", "b"]      ' + struct.pack("<4i", 1, 1, 1, 1)
    path.write_bytes(content + bytes(64) + array.tobytes())
    np.testing.assert_array_equal(FeatureStore(path).read(["b", "a"])[0], array[::-1])
    write_store(tmp_path / "new", ["a", "b"], array, (1, 1))
    assert (tmp_path / "new").read_bytes() == path.read_bytes()


def test_stores_without_stamps_are_read_and_upgraded_on_growth(tmp_path: Path) -> None:
    array = tiny.features(0, 3, 1, 3)
    path = write_unstamped(tmp_path / "s", array[:2], IDENTITY)
    store = FeatureStore(path)
    np.testing.assert_array_equal(store.read(["b", "a"])[0], array[1::-1])
    assert not store.stamps(["a", "b"]).any()
    create_store(path, ["c"], 1, 3, (1, 1), IDENTITY)
    with FeatureStore(path, writable=True) as grown:
        grown.write([2], array[2:], stamps=np.full((1, 32), 7, np.uint8))
    np.testing.assert_array_equal(FeatureStore(path).read(list("abc"))[0], array)
    assert FeatureStore(path).stamps(list("abc")).any(axis=1).tolist() == [False, False, True]


@DTYPES
def test_images_with_fewer_regions_have_a_mask(tmp_path: Path, dtype: FeatureDtype) -> None:
    array = exact(0, 3, 4, 2)
    array[1, 1:] = array[2, 3:] = 0
    store = write_store(tmp_path / "s", list("abc"), array, None, [4, 1, 3], dtype)
    features, mask = store.read(["b", "c"])
    np.testing.assert_array_equal(features, array[1:])
    assert mask is not None
    assert mask.tolist() == [[True, False, False, False], [True, True, True, False]]


def test_a_missing_image_is_refused(tmp_path: Path) -> None:
    store = write_store(tmp_path / "s", ["a"], tiny.features(0, 1, 2, 2))
    with pytest.raises(FeatureStoreError, match="no features of image 'b'"):
        store.read(["a", "b"])


def test_unreadable_images_are_marked_and_stay_pending(tmp_path: Path) -> None:
    create_store(tmp_path / "s", list("abc"), 1, 2, None, IDENTITY)
    with FeatureStore(tmp_path / "s", writable=True) as store:
        store.write([0], tiny.features(0, 1, 1, 2))
        store.mark_unreadable(1)
    store = FeatureStore(tmp_path / "s")
    assert store.status.tolist() == [DONE, UNREADABLE, PENDING]
    assert store.pending() == [1, 2]
    assert ["a" in store, "b" in store, "c" in store, 7 in store] == [True, False, False, False]


def test_a_read_only_store_refuses_writes(tmp_path: Path) -> None:
    store = write_store(tmp_path / "s", ["a"], tiny.features(0, 1, 2, 2))
    with pytest.raises(FeatureStoreError, match="reading only"):
        store.write([0], tiny.features(1, 1, 2, 2))


@DTYPES
@pytest.mark.parametrize("keep", [0, 5, 60, 0.5, 0.999])
def test_a_truncated_file_is_refused(tmp_path: Path, keep: float, dtype: FeatureDtype) -> None:
    path = tmp_path / "s"
    write_store(path, list("abc"), tiny.features(0, 3, 40, 40), dtype=dtype)
    os.truncate(path, int(keep if keep >= 1 or keep == 0 else keep * path.stat().st_size))
    with pytest.raises(FeatureStoreError, match=r"damaged|truncated") as caught:
        FeatureStore(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("valid", "damaged"), [(b'["a"', b'["\xff"'), (b'["a"', b"[[[[["), (b'\\"identity\\"', b'\\"identitx\\"')]
)
def test_damaged_metadata_are_refused(tmp_path: Path, valid: bytes, damaged: bytes) -> None:
    write_store(tmp_path / "s", ["a"], tiny.features(0, 1, 2, 2))
    content = (tmp_path / "s").read_bytes()
    assert content.count(valid) == 1
    (tmp_path / "s").write_bytes(content.replace(valid, damaged.ljust(len(valid))[: len(valid)]))
    with pytest.raises(FeatureStoreError, match="damaged"):
        FeatureStore(tmp_path / "s")


@pytest.mark.parametrize("content", [b"\x08\x00\x00\x00\x00\x00\x00\x00[1,2,3]]", b"\xff" * 64, b"caption,image\n" * 9])
def test_files_of_other_formats_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "s").write_bytes(content)
    with pytest.raises(FeatureStoreError, match="not a feature store"):
        FeatureStore(tmp_path / "s")


def test_weights_folders_and_missing_files_are_refused(tmp_path: Path, weights: Path) -> None:
    with pytest.raises(FeatureStoreError, match="not a feature store"):
        FeatureStore(weights)
    with pytest.raises(FeatureStoreError, match="cannot read"):
        FeatureStore(tmp_path)
    with pytest.raises(FeatureStoreError, match="seesay extract"):
        FeatureStore(tmp_path / "none")


@pytest.mark.parametrize(
    ("version", "message"),
    [(5, "was written by another version"), (4, "is not a feature store of seesay, or is damaged")],
)
def test_a_store_of_a_later_format_or_with_arrays_of_another_format_is_refused(
    tmp_path: Path, version: int, message: str
) -> None:
    write_store(tmp_path / "s", ["a"], tiny.features(0, 1, 2, 2))
    content = (tmp_path / "s").read_bytes()
    (tmp_path / "s").write_bytes(content.replace(b'\\"format\\": 3', b'\\"format\\": %d' % version))
    with pytest.raises(FeatureStoreError, match=message):
        FeatureStore(tmp_path / "s")


def test_an_int8_row_is_done_only_after_all_its_arrays_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row stays pending when writing fails at any of its three arrays."""
    array, real = exact(0, 1, 2, 4), os.pwrite
    create_store(tmp_path / "s", ["a"], 2, 4, None, IDENTITY, "int8")
    for allowed in range(3):
        calls = iter(range(allowed))

        def pwrite(*arguments: Any, calls: Iterator[int] = calls) -> int:
            if next(calls, None) is None:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return real(*arguments)

        with FeatureStore(tmp_path / "s", writable=True) as store, monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", pwrite)
            with pytest.raises(FeatureStoreError, match="Input/output error"):
                store.write([0], array)
        assert FeatureStore(tmp_path / "s").pending() == [0]
    with FeatureStore(tmp_path / "s", writable=True) as store:
        store.write([0], array)
    np.testing.assert_array_equal(FeatureStore(tmp_path / "s").read(["a"])[0], array)


def test_the_dtype_is_not_part_of_the_identity(tmp_path: Path, weights: Path) -> None:
    """A run trained on a store of one dtype can be evaluated on the other."""
    encoder = tiny.build(weights)
    for dtype in ("float16", "int8"):
        create_store(tmp_path / dtype, ["a"], 4, 8, (2, 2), encoder.identity, dtype)
    stores = [FeatureStore(tmp_path / dtype) for dtype in ("float16", "int8")]
    assert stores[0].identity == stores[1].identity
    stores[0].require(stores[1].identity)
    stores[1].require(stores[0].identity)


def test_a_full_disk_keeps_the_rows_already_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = tiny.features(0, 3, 2, 4)
    create_store(tmp_path / "s", list("abc"), 2, 4, None, IDENTITY)
    with FeatureStore(tmp_path / "s", writable=True) as store:
        store.write([0], array[:1])
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", fail_with(errno.ENOSPC))
            with pytest.raises(FeatureStoreError, match="to resume"):
                store.write([1, 2], array[1:])
    store = FeatureStore(tmp_path / "s")
    assert store.pending() == [1, 2]
    np.testing.assert_array_equal(store.read(["a"])[0], array[:1])


def test_a_failing_fsync_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_store(tmp_path / "s", ["a"], tiny.features(0, 1, 2, 4))
    store = FeatureStore(tmp_path / "s", writable=True)
    monkeypatch.setattr(os, "fsync", fail_with(errno.EIO))
    with pytest.raises(FeatureStoreError, match=r"cannot write .*: Input/output error"):
        store.close()
    store.close()


def test_a_store_of_another_encoder_is_refused_with_the_difference(tmp_path: Path, weights: Path) -> None:
    encoder = tiny.build(weights)
    create_store(tmp_path / "s", ["a"], 1, 4, (1, 1), encoder.identity)
    store = FeatureStore(tmp_path / "s")
    store.require(encoder.identity)
    digest = str(encoder.identity["digest"])[:8]
    changes: tuple[tuple[dict[str, object], str], ...] = (
        ({"encoder": "resnet50"}, "encoder is 'test_resnet', not 'resnet50'"),
        ({"digest": "0" * 16}, f"weights {digest}, not of .*: digest is"),
        ({"layer": "stem"}, "layer stem .*: layer is '', not 'stem'"),
        ({"pool": "pooled"}, "pool is 'grid', not 'pooled'"),
        ({"preprocessing": {**encoder.preprocessing.to_dict(), "size": 64}}, "at 64 px"),
    )
    for expected, message in changes:
        with pytest.raises(FeatureStoreError, match=message):
            store.require({**encoder.identity, **expected})
    with pytest.raises(FeatureStoreError, match="not of imported features 'mine'"):
        store.require({"imported": "mine"})


class TestJoined:
    def test_features_are_concatenated(self, tmp_path: Path) -> None:
        first, second = tiny.features(0, 3, 4, 2), tiny.features(1, 2, 4, 3)
        joined = JoinedStores(
            [
                write_store(tmp_path / "1", list("abc"), first, (2, 2)),
                write_store(tmp_path / "2", list("cb"), second, (2, 2)),
            ]
        )
        features, mask = joined.read(["b", "c"])
        np.testing.assert_array_equal(features, np.concatenate([first[1:], second[::-1]], axis=2))
        assert mask is None
        assert (joined.feature_size, joined.grid) == (5, (2, 2))
        assert ["a" in joined, "b" in joined] == [False, True]

    def test_pooled_features_are_repeated_for_every_region(self, tmp_path: Path) -> None:
        grid, pooled = tiny.features(0, 1, 9, 2), tiny.features(1, 1, 1, 3)
        stores = [write_store(tmp_path / "1", ["a"], grid, (3, 3)), write_store(tmp_path / "2", ["a"], pooled, (1, 1))]
        features, _ = JoinedStores(stores).read(["a"])
        np.testing.assert_array_equal(features[:, :, 2:], pooled.repeat(9, axis=1))

    def test_stores_of_both_dtypes_are_concatenated(self, tmp_path: Path) -> None:
        first, second = tiny.features(0, 3, 4, 2), exact(1, 2, 4, 3)
        one = write_store(tmp_path / "1", list("abc"), first, (2, 2))
        other = write_store(tmp_path / "2", list("cb"), second, (2, 2), dtype="int8")
        features, _ = JoinedStores([one, other]).read(["b", "c"])
        np.testing.assert_array_equal(features, np.concatenate([first[1:], second[::-1]], axis=2))
        features, _ = JoinedStores([other, one]).read(["b", "c"])
        np.testing.assert_array_equal(features, np.concatenate([second[::-1], first[1:]], axis=2))

    def test_regions_without_a_grid_cannot_be_joined(self, tmp_path: Path) -> None:
        stores = [write_store(tmp_path / name, ["a"], tiny.features(0, 1, 3, 2)) for name in "12"]
        with pytest.raises(FeatureStoreError, match="without a grid"):
            JoinedStores(stores)
        assert JoinedStores(stores[:1]).grid is None

    def test_no_stores_are_refused(self) -> None:
        with pytest.raises(FeatureStoreError, match="no feature stores"):
            JoinedStores([])

    def test_stores_must_match_those_of_training_in_order(self, tmp_path: Path) -> None:
        stores = []
        for name in ("grid", "pooled"):
            create_store(tmp_path / name, ["a"], 1, 2, (1, 1), {"imported": name})
            stores.append(FeatureStore(tmp_path / name))
        joined = JoinedStores(stores)
        joined.require(joined.identity)
        JoinedStores(stores[:1]).require({"imported": "grid"})
        with pytest.raises(FeatureStoreError, match=r"imported is 'pooled', not 'grid'"):
            JoinedStores(stores[::-1]).require(joined.identity)
        with pytest.raises(FeatureStoreError, match=r"1 feature stores passed .*'grid'.* but 2 required"):
            JoinedStores(stores[:1]).require(joined.identity)


def test_resampling_interpolates_between_cell_centres() -> None:
    """Hand-computed: the centres of the finer grid are a quarter of a cell from the old centres."""
    cells = np.array([[[2.0], [4.0], [6.0], [0.0]]], np.float16)
    np.testing.assert_allclose(resample_grid(cells[:, :2], (1, 2), (1, 4))[0, :, 0], [2, 2.5, 3.5, 4])
    np.testing.assert_allclose(resample_grid(cells, (2, 2), (4, 2))[0, ::2, 0], [2, 3, 5, 6])
    np.testing.assert_allclose(resample_grid(cells, (2, 2), (4, 2))[0, 1::2, 0], [4, 3, 1, 0])


def test_resampling_to_fewer_cells_weights_all_of_them() -> None:
    """Hand-computed: the triangle filter extends two old cells to each side; its weights are 3/4, 3/4 and 1/4."""
    rows = np.array([[[1.0], [2.0], [4.0], [8.0]]], np.float16)
    expected = [(3 * 1 + 3 * 2 + 1 * 4) / 7, (1 * 2 + 3 * 4 + 3 * 8) / 7]
    np.testing.assert_allclose(resample_grid(rows, (1, 4), (1, 2))[0, :, 0], expected, rtol=1e-3)


@DTYPES
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_store_behaves_like_a_dictionary(tmp_path: Path, dtype: FeatureDtype, data: st.DataObject) -> None:
    path = tmp_path / "s"
    path.unlink(missing_ok=True)
    known: dict[str, NDArray[np.float16]] = {}
    ids: list[str] = []
    names = st.text("abcdefgh", min_size=1, max_size=2)
    for step in range(data.draw(st.integers(1, 4))):
        added = data.draw(st.lists(names, min_size=1, max_size=6))
        ids += [name for name in dict.fromkeys(added) if name not in ids]
        create_store(path, added, 2, 3, None, IDENTITY, dtype)
        with FeatureStore(path, writable=True) as store:
            assert store.ids == ids
            rows = data.draw(st.sets(st.integers(0, len(ids) - 1)))
            array = exact(step, len(rows), 2, 3)
            store.write(sorted(rows), array)
            known |= {ids[row]: array[index] for index, row in enumerate(sorted(rows))}
    store = FeatureStore(path)
    assert {name for name in ids if name in store} == known.keys()
    for name, array in known.items():
        np.testing.assert_array_equal(store.read([name])[0][0], array)
