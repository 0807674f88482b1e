"""A folder of pictures, each with a text file of the same name beside it."""

# Paths are strings here: an object for each of millions of names takes seconds.
# ruff: noqa: PTH119, PTH120, PTH122
import os
from pathlib import Path

from seesay.data.readers.pictures import list_images, list_pictures, walk_files
from seesay.data.readers.text import read_text, text_lines
from seesay.data.records import Reading, Record, split_of_folder

TEXT_SUFFIXES = (".txt", ".caption")


def read_sidecar(folder: Path) -> Reading:
    """Returns the records of `name.jpg` with `name.txt`, `name.jpg.txt` or `name.caption`, a caption a line.

    The texts lie beside the pictures or, with the same names, in a folder beside theirs. A folder called
    train, val or test (at any level) gives the split.
    """
    reading = Reading()
    texts = _texts(folder)
    listing = list_images(folder)
    reading.problems += filter(None, [listing.remark()])
    for picture in listing.images:
        text = _text_of(picture, texts)
        captions: list[object] = []
        if text is not None:
            captions = [line for line in text_lines(read_text(Path(text), reading)) if line.strip()] or [""]
        relative = os.path.relpath(picture, folder)
        parts = Path(relative).parts[:-1]
        split = next((split for part in parts if (split := split_of_folder(part))), None)
        reading.records.append(Record(relative, captions, folder, split, one_row_a_picture=True))
    return reading


def has_sidecars(folder: Path) -> bool:
    """Tells whether at least one picture below a folder has a text of its name."""
    texts = _texts(folder)
    return bool(texts) and any(_text_of(picture, texts) for picture in list_pictures(folder))


def _texts(folder: Path) -> dict[str, list[str]]:
    """Returns the text files below a folder by name without suffix."""
    texts: dict[str, list[str]] = {}
    for path in walk_files(folder):
        name = os.path.basename(path)
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in TEXT_SUFFIXES and not name.startswith("."):
            texts.setdefault(stem, []).append(path)
    return texts


def _text_of(picture: str, texts: dict[str, list[str]]) -> str | None:
    """Returns the text of a picture: beside it, or in the one folder beside its own that has its name."""
    folder, name = os.path.split(picture)
    candidates = texts.get(name, []) + texts.get(os.path.splitext(name)[0], [])
    beside = [text for text in candidates if os.path.dirname(text) == folder]
    near = [text for text in candidates if os.path.dirname(os.path.dirname(text)) == os.path.dirname(folder)]
    if beside:
        return beside[0]
    return near[0] if len(near) == 1 else None
