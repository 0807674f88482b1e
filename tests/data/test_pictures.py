"""Listing folders of images, and the names of the text files beside images."""

from pathlib import Path

import pytest

from seesay.data.readers.pictures import SidecarNames


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.jpg"], ["a.txt"]),
        (["a.jpg", "a.txt", "b.png"], ["a.txt", None, "b.txt"]),
        (["a.jpg", "a.png", "A.JPG"], ["a.jpg.txt", "a.png.txt", "A.JPG.txt"]),
        (["a.jpg", "a.jpg.png"], ["a.txt", "a.jpg.png.txt"]),
        (["a.jpg", "a.png", "a.jpg.png"], ["a.jpg.txt", "a.png.txt", "a.jpg.png.txt"]),
        (["photo", "photo.jpg"], ["photo.txt", "photo.jpg.txt"]),
        (["a.dat", "a.jpg", "a.dat.png"], ["a.dat.txt", "a.txt", "a.dat.png.txt"]),
        (["a.txt", "a.txt.jpg"], [None, "a.txt.txt"]),
    ],
)
def test_sidecar_names_depend_on_the_folder_alone_and_are_distinct(
    tmp_path: Path, names: list[str], expected: list[str | None]
) -> None:
    for name in names:
        (tmp_path / name).touch()
    namer = SidecarNames(".txt")
    for name, text in zip(names, expected, strict=True):
        assert text is None or namer.path(str(tmp_path / name)) == str(tmp_path / text)


def test_sidecar_name_of_an_image_in_no_folder_is_short() -> None:
    assert SidecarNames(".caption").path("gone/a.jpg") == "gone/a.caption"
