"""Listings of image folders, and names of the text files beside images."""

from pathlib import Path

import pytest

from seesay.data.annotations import load_annotations
from seesay.data.readers.images import SidecarNames, list_image_paths


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.jpg"], ["a.txt"]),
        (["a.jpg", "a.txt", "b.png"], ["a.txt", None, "b.txt"]),
        (["a.jpg", "a.png", "A.JPG"], ["a.jpg.txt", "a.png.txt", "A.JPG.txt"]),
        (["a.jpg", "A.JPG"], ["a.jpg.txt", "A.JPG.txt"]),
        (["caf\u00e9.jpg", "cafe\u0301.png"], ["caf\u00e9.jpg.txt", "cafe\u0301.png.txt"]),
        (["a.jpg", "a.jpg.png"], ["a.txt", "a.jpg.png.txt"]),
        (["a.jpg", "a.png", "a.jpg.png"], ["a.jpg.txt", "a.png.txt", "a.jpg.png.txt"]),
        (["photo", "photo.jpg"], ["photo.txt", "photo.jpg.txt"]),
        (["a.dat", "a.jpg", "a.dat.png"], ["a.dat.txt", "a.txt", "a.dat.png.txt"]),
        (["a.txt", "a.txt.jpg"], [None, "a.txt.txt"]),
    ],
)
def test_sidecar_names_depend_only_on_the_folder_and_are_distinct(
    tmp_path: Path, names: list[str], expected: list[str | None]
) -> None:
    for name in names:
        (tmp_path / name).touch()
    namer = SidecarNames(".txt")
    for name, text in zip(names, expected, strict=True):
        assert text is None or namer.path(str(tmp_path / name)) == str(tmp_path / text)


def test_sidecar_name_of_an_image_in_a_missing_folder_is_short() -> None:
    assert SidecarNames(".caption").path("gone/a.jpg") == "gone/a.caption"
    assert SidecarNames(".caption").path("g\0ne/a.jpg") == "g\0ne/a.caption"


class TestWalking:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        """Two images whose folders link to each other, to their parent, to themselves and to an outer folder."""
        for name in ("a", "b"):
            (tmp_path / "data" / name).mkdir(parents=True)
            (tmp_path / "data" / name / f"{name}.jpg").touch()
            (tmp_path / "data" / name / f"{name}.txt").write_text(f"image {name}")
        (tmp_path / "outer" / "deep").mkdir(parents=True)
        (tmp_path / "outer" / "deep" / "c.jpg").touch()
        (tmp_path / "outer" / "deep" / "c.txt").write_text("image c")
        (tmp_path / "outer" / "back").symlink_to(tmp_path / "data")
        (tmp_path / "outer" / "above").symlink_to(tmp_path)
        for name, target in (("a/b", "data/b"), ("b/a", "data/a"), ("b/up", "data"), ("a/a", "data/a"), ("o", "outer")):
            (tmp_path / "data" / name).symlink_to(tmp_path / target)
        return tmp_path / "data"

    def test_folders_that_link_to_each_other_are_walked_once(self, folder: Path) -> None:
        # Bug: only links to a folder above were skipped; a/b/a/b/... was walked until paths were too long.
        expected = [str(folder / name) for name in ("a/a.jpg", "b/b.jpg", "o/deep/c.jpg")]
        assert list_image_paths(folder) == list_image_paths(folder, depth=None) == expected

    def test_texts_in_linked_folders_are_read(self, folder: Path) -> None:
        # Bug: images in linked folders were listed, but their sidecar texts were not.
        found = {item.id: item.captions[0] for item in load_annotations(folder)}
        assert found == {"a/a.jpg": "image a", "b/b.jpg": "image b", "o/deep/c.jpg": "image c"}

    def test_images_of_unsupported_formats_are_reported(self, folder: Path) -> None:
        # Bug: images of unsupported formats such as JPEG XL were skipped silently.
        (folder / "a" / "d.jxl").touch()
        (folder / "a" / "._e.jxl").touch()
        assert load_annotations(folder).problems == (
            f"1 file of unsupported formats skipped (.jxl); convert to JPEG or PNG: {folder / 'a' / 'd.jxl'}",
        )
