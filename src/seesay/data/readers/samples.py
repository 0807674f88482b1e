"""Image and caption file of a sample, i.e. of files with one name in a folder or tar."""

from collections.abc import Sequence
from pathlib import PurePosixPath

TEXT_SUFFIXES = (".txt", ".caption", ".captions", ".cap", ".text")
"""Suffixes of caption files, in order of preference."""
# Other images of a sample with a JPEG are masks or depth maps, which are not stored as JPEG.
_PHOTO_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".webp")


def choose_image(names: Sequence[str]) -> str:
    """Return the image of a sample: `0.jpg` before `0.seg.jpg`, a JPEG before a PNG."""
    return min(names, key=lambda name: (_parts(name), _rank(name, _PHOTO_SUFFIXES)))


def choose_text(names: Sequence[str]) -> str:
    """Return the caption file of a sample: `0.txt` before `0.en.txt`, `.txt` before `.caption`."""
    return min(names, key=lambda name: (_parts(name), _rank(name, TEXT_SUFFIXES)))


def _parts(name: str) -> int:
    return PurePosixPath(name).name.count(".")


def _rank(name: str, order: Sequence[str]) -> int:
    suffix = PurePosixPath(name).suffix.lower()
    return order.index(suffix) if suffix in order else len(order)
