import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from seesay.errors import FeatureStoreError, MissingDependencyError
from seesay.features.imports import import_features
from seesay.features.store import FeatureStore
from tests import tiny
from tests.features.stores import exact

IMAGES = {"1": "images/a.jpg", "2": "images/b.jpg", "3": "images/c.jpg"}
FILES = ("a.jpg", "b.jpg", "c.jpg")


def import_folder(source: Path, images: dict[str, str] | None = None) -> FeatureStore:
    path = source.parent / "store.safetensors"
    import_features(source, images or IMAGES, path)
    return FeatureStore(path)


def folder(path: Path, arrays: dict[str, NDArray[Any]]) -> Path:
    path.mkdir()
    for name, array in arrays.items():
        np.save(path / name, array)
    return path


@pytest.mark.parametrize("shape", [(64, 20), (8, 8, 20), (1, 8, 8, 20)])
def test_a_folder_with_one_npy_per_image(tmp_path: Path, shape: tuple[int, ...]) -> None:
    arrays = {f"{name}.npy": tiny.features(index, *shape).astype(np.float32) for index, name in enumerate(FILES)}
    store = import_folder(folder(tmp_path / "f", arrays))
    assert (store.grid, store.regions, store.feature_size) == ((8, 8), 64, 20)
    assert store.identity == {"imported": "f"}
    features, mask = store.read(["3", "1"])
    assert mask is None
    np.testing.assert_array_equal(features[0], arrays["c.jpg.npy"].reshape(64, 20))
    np.testing.assert_array_equal(features[1], arrays["a.jpg.npy"].reshape(64, 20))


@pytest.mark.parametrize("file_names", [("1", "2", "3"), FILES, ("a", "b", "c")])
def test_file_names_are_ids_or_image_names_with_or_without_suffix(tmp_path: Path, file_names: tuple[str, ...]) -> None:
    arrays = {f"{name}.npy": tiny.features(index, 20) for index, name in enumerate(file_names)}
    store = import_folder(folder(tmp_path / "f", arrays))
    assert (store.grid, store.regions) == ((1, 1), 1)
    np.testing.assert_array_equal(store.read(list("123"))[0][:, 0], np.stack(list(arrays.values())))


def test_a_name_of_several_images_is_not_used(tmp_path: Path) -> None:
    """Bug: both images got the same array."""
    images = {"cats/1.jpg": "images/cats/1.jpg", "dogs/1.jpg": "images/dogs/1.jpg", "dogs/2.jpg": "images/dogs/2.jpg"}
    arrays = {f"{name}.npy": tiny.features(index, 4, 6) for index, name in enumerate("12")}
    source = folder(tmp_path / "f", arrays)
    assert import_folder(source, images).ids == ["dogs/2.jpg"]
    (source / "2.npy").unlink()
    with pytest.raises(
        FeatureStoreError, match=r"no features of the 3 images; arrays must be named by .* such as 'cats/1\.jpg'"
    ):
        import_folder(source, images)
    for name in ("cats", "dogs"):
        (source / name).mkdir()
        np.save(source / name / "1.npy", tiny.features(ord(name[0]), 4, 6))
    store = import_folder(source, images)
    assert set(store.ids) == set(images)
    read, _ = store.read(["cats/1.jpg", "dogs/1.jpg"])
    np.testing.assert_array_equal(read, np.stack([tiny.features(ord(letter), 4, 6) for letter in "cd"]))


def test_one_npz_per_image_with_varying_region_counts(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    arrays = {name: tiny.features(index, count, 6) for index, (name, count) in enumerate(zip("abc", (3, 5, 1)))}  # noqa: B905
    for name, array in arrays.items():
        np.savez(tmp_path / "f" / f"{name}.npz", bbox=np.zeros((len(array), 4)), feat=array)
    store = import_folder(tmp_path / "f")
    assert (store.grid, store.regions) == (None, 5)
    features, mask = store.read(list("123"))
    assert mask is not None
    assert mask.sum(1).tolist() == [3, 5, 1]
    for row, array in enumerate(arrays.values()):
        np.testing.assert_array_equal(features[row, : len(array)], array)
        assert not features[row, len(array) :].any()


def test_one_npz_per_image_with_an_array_of_any_name(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    np.savez(tmp_path / "f" / "a.npz", grid=np.ones((2, 3)))
    assert import_folder(tmp_path / "f").ids == ["1"]


def test_an_npz_archive_with_suffix_npy_is_read(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    for name in "abc":
        with (tmp_path / "f" / f"{name}.npy").open("wb") as file:
            np.savez(file, tiny.features(ord(name), 4, 6))
    np.testing.assert_array_equal(import_folder(tmp_path / "f").read(["2"])[0][0], tiny.features(ord("b"), 4, 6))


def test_one_npz_with_one_array_per_image(tmp_path: Path) -> None:
    arrays = {name: tiny.features(index, 4, 6) for index, name in enumerate(FILES)}
    np.savez_compressed(tmp_path / "f.npz", **arrays)  # type: ignore[arg-type]
    store = import_folder(tmp_path / "f.npz")
    np.testing.assert_array_equal(store.read(list("123"))[0], np.stack(list(arrays.values())))


@pytest.mark.parametrize("kind", [np.bytes_, np.str_, np.int64])
def test_one_npz_with_a_table(tmp_path: Path, kind: type) -> None:
    array = tiny.features(0, 4, 2, 6)
    np.savez(tmp_path / "f.npz", ids=np.array(["3", "9", "1", "2"]).astype(kind), features=array)
    np.testing.assert_array_equal(import_folder(tmp_path / "f.npz").read(list("123"))[0], array[[2, 3, 0]])


def write_groups(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            group = file.create_group(name)
            group["bbox"] = np.zeros((len(array), 4))
            group["features"] = array


def write_datasets(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array


def write_table(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        file["ids"] = list(arrays)
        file["features"] = np.stack(list(arrays.values()))


@pytest.mark.parametrize("write", [write_groups, write_datasets, write_table])
def test_hdf5_with_groups_datasets_or_a_table(
    tmp_path: Path, write: Callable[[Path, dict[str, NDArray[Any]]], None]
) -> None:
    pytest.importorskip("h5py")
    arrays = {name: tiny.features(index, 9, 6) for index, name in enumerate(FILES)}
    write(tmp_path / "f.h5", arrays)
    store = import_folder(tmp_path / "f.h5")
    assert store.grid == (3, 3)
    np.testing.assert_array_equal(store.read(list("123"))[0], np.stack(list(arrays.values())))


def test_a_missing_hdf5_library_is_an_error_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f.h5").touch()
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(MissingDependencyError, match=r"f\.h5 needs h5py.*seesay\[hdf5\]"):
        import_folder(tmp_path / "f.h5")


def test_images_without_features_are_skipped_and_can_be_added_later(tmp_path: Path) -> None:
    arrays = {"a.npy": tiny.features(0, 2, 6), "c.npy": tiny.features(1, 4, 6)}
    source = folder(tmp_path / "f", arrays)
    assert import_folder(source).ids == ["1", "3"]
    np.save(source / "b.npy", tiny.features(2, 7, 6))
    assert import_features(source, IMAGES, tmp_path / "store.safetensors") == 3
    store = FeatureStore(tmp_path / "store.safetensors")
    features, mask = store.read(list("123"))
    assert mask is not None
    assert mask.sum(1).tolist() == [2, 7, 4]
    np.testing.assert_array_equal(features[0, :2], arrays["a.npy"])
    np.testing.assert_array_equal(features[2, :4], arrays["c.npy"])


def test_features_can_be_imported_as_int8(tmp_path: Path) -> None:
    arrays = {name: exact(index, 1, count, 6)[0] for index, (name, count) in enumerate(zip("abc", (3, 5, 1)))}  # noqa: B905
    source, path = folder(tmp_path / "f", arrays), tmp_path / "s"
    assert import_features(source, IMAGES, path, "int8") == 3
    store = FeatureStore(path)
    features, mask = store.read(list("123"))
    assert store.dtype == "int8"
    assert mask is not None
    assert mask.sum(1).tolist() == [3, 5, 1]
    for row, array in enumerate(arrays.values()):
        np.testing.assert_array_equal(features[row, : len(array)], array)
        assert not features[row, len(array) :].any()
    with pytest.raises(FeatureStoreError, match="has dtype int8, not float16"):
        import_features(source, IMAGES, path)


def test_an_interrupted_import_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = folder(tmp_path / "f", {f"{name}.npy": tiny.features(index, 4, 6) for index, name in enumerate("abc")})
    written: list[Any] = []
    write = FeatureStore.write

    def fail_on_second_call(self: FeatureStore, rows: Any, *rest: Any) -> None:
        if written:
            raise KeyboardInterrupt
        written.append(rows)
        write(self, rows, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(FeatureStore, "write", fail_on_second_call)
        with pytest.raises(KeyboardInterrupt):
            import_folder(source)
    assert FeatureStore(tmp_path / "store.safetensors").pending() == [1, 2]
    resumed = import_folder(source).path.read_bytes()
    (tmp_path / "store.safetensors").unlink()
    assert import_folder(source).path.read_bytes() == resumed


def test_a_store_imported_from_another_source_is_refused(tmp_path: Path) -> None:
    import_folder(folder(tmp_path / "f", {"a.npy": tiny.features(0, 4, 6)}))
    with pytest.raises(FeatureStoreError, match="imported features 'f', not of imported features 'g'"):
        import_folder(folder(tmp_path / "g", {"a.npy": tiny.features(0, 4, 6)}))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 3, 4, 5, 6)), r"float64 \(2, 3, 4, 5, 6\)"),
        (np.zeros((0, 6)), r"float64 \(0, 6\)"),
        (np.zeros(0), r"float64 \(0,\)"),
        (np.float32(1), r"float32 \(\)"),
        (np.array(["a", "b"]), "image '1' are <U1"),
        (np.array([{"x": 1}], dtype=object), "cannot be read as arrays: .*(allow_pickle|Python objects)"),
        (np.full((2, 3), 1e6), "image '1' exceed the range of float16"),
        (np.full((2, 3), np.nan), "image '1' exceed the range of float16"),
    ],
)
@pytest.mark.parametrize("layout", ["npy", "npz", "archive"])
def test_invalid_arrays_are_refused(tmp_path: Path, array: Any, message: str, layout: str) -> None:
    source = tmp_path / ("f.npz" if layout == "archive" else "f")
    if layout == "archive":
        np.savez(source, a=array)
    else:
        source.mkdir()
        (np.save if layout == "npy" else np.savez)(source / f"a.{layout}", array)
    with pytest.raises(FeatureStoreError, match=message) as caught:
        import_folder(source)
    assert "\n" not in str(caught.value)


def test_features_of_different_widths_are_refused(tmp_path: Path) -> None:
    source = folder(tmp_path / "f", {"a.npy": tiny.features(0, 4, 6), "b.npy": tiny.features(0, 4, 7)})
    with pytest.raises(FeatureStoreError, match=r"different widths: \[6, 7\]"):
        import_folder(source)


@pytest.mark.parametrize("name", ["f.npz", "f.npy", "f.h5", "inside.npy", "inside.npz"])
@pytest.mark.parametrize("keep", [0, 0.5, 0.9])
def test_a_truncated_file_is_refused(tmp_path: Path, name: str, keep: float) -> None:
    inside = name.startswith("inside")
    path = tmp_path / "folder" / f"a{Path(name).suffix}" if inside else tmp_path / name
    path.parent.mkdir(exist_ok=True)
    array = tiny.features(0, 40, 40)
    if path.suffix == ".h5":
        pytest.importorskip("h5py")
        write_datasets(path, {"a": array})
    elif path.suffix == ".npz":
        np.savez(path, a=array)
    else:
        np.save(path, array)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(FeatureStoreError, match=r"cannot be read as arrays|single array") as caught:
        import_folder(path.parent if inside else path)
    assert "\n" not in str(caught.value)


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "f.npz", a=tiny.features(0, 40, 40))
    content = bytearray((tmp_path / "f.npz").read_bytes())
    content[500:600] = bytes(100)
    (tmp_path / "f.npz").write_bytes(content)
    with pytest.raises(FeatureStoreError, match="cannot be read as arrays"):
        import_folder(tmp_path / "f.npz")


def test_a_single_array_without_image_names_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "f.npy", tiny.features(0, 3, 4, 6))
    with pytest.raises(FeatureStoreError, match="single array"):
        import_folder(tmp_path / "f.npy")


def test_table_with_fewer_ids_than_features_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "f.npz", ids=np.array(["1", "2"]), features=tiny.features(0, 3, 4, 6))
    with pytest.raises(FeatureStoreError, match="2 ids but features of 3 images"):
        import_folder(tmp_path / "f.npz")


def test_a_source_without_the_images_or_a_missing_source_is_refused(tmp_path: Path) -> None:
    source = folder(tmp_path / "f", {"z.npy": tiny.features(0, 4, 6)})
    with pytest.raises(FeatureStoreError, match="no features of the 3 images"):
        import_folder(source)
    shutil.rmtree(source)
    with pytest.raises(FeatureStoreError, match="no features at"):
        import_folder(source)
