"""A sample: the files of one name, in a folder or in a tar, and which of them is the image and which the caption."""

from collections.abc import Sequence
from pathlib import PurePosixPath

TEXT_SUFFIXES = (".txt", ".caption", ".captions", ".cap", ".text")
"""Suffixes of caption files, the preferred first."""
# Where a sample has a JPEG, its other images are masks, depth maps or drawings, which are not stored as JPEG.
_PHOTO_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".webp")


def choose_image(names: Sequence[str]) -> str:
    """Returns the image of a sample: `0.jpg` before `0.seg.jpg`, a JPEG before a PNG."""
    return min(names, key=lambda name: (_parts(name), _place(name, _PHOTO_SUFFIXES)))


def choose_text(names: Sequence[str]) -> str:
    """Returns the caption file of a sample: `0.txt` before `0.en.txt`, `.txt` before `.caption`."""
    return min(names, key=lambda name: (_parts(name), _place(name, TEXT_SUFFIXES)))


def _parts(name: str) -> int:
    return PurePosixPath(name).name.count(".")


def _place(name: str, order: Sequence[str]) -> int:
    suffix = PurePosixPath(name).suffix.lower()
    return order.index(suffix) if suffix in order else len(order)
