"""Data types of a data set: boxes, annotations, and the records that readers return."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from seesay.errors import DataError

SPLITS = ("train", "restval", "val", "test")
_ALIASES = {
    "training": "train",
    "dev": "val",
    "valid": "val",
    "validation": "val",
    "eval": "val",
    "testing": "test",
}
SPLIT_WORDS = "restval|training|train|validation|valid|val|dev|eval|testing|test"
_SPLIT_WORD = re.compile(rf"(?<![a-z])({SPLIT_WORDS})(?=images?\b|[^a-z]|$)")
_SPLIT_FOLDER = re.compile(rf"({SPLIT_WORDS})(20\d\d)?([-_ ]?(images?|set|split))?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Box:
    """A labelled rectangle in pixels of the stored image (before EXIF rotation); (x, y) is the top-left corner."""

    label: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Annotation:
    """One image with its captions.

    Attributes:
        id: Identifies the image within its data set.
        image: A path, a URL, or a member of a file: `archive.tar::member`, `table.parquet::column::row`.
        captions: Captions written by people, stripped, never empty.
        split: train, restval, val, test, a custom name, or None.
        boxes: Labelled rectangles, if the data has any.
    """

    id: str
    image: str
    captions: tuple[str, ...]
    split: str | None = None
    boxes: tuple[Box, ...] = ()


@dataclass(frozen=True)
class Annotations:
    """The annotations of a data set with their source and problems.

    Attributes:
        items: One annotation per image and split.
        source: The path that was read, or the name of the generator.
        format: Name of the reader.
        problems: One line per kind of problem, with the first cases.
        missing: Captioned images that were not found and are not in `items`.
        uncaptioned: Images without captions, which are not in `items`.
    """

    items: tuple[Annotation, ...]
    source: str
    format: str
    problems: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    uncaptioned: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Annotation]:
        return iter(self.items)

    def __getitem__(self, index: int) -> Annotation:
        return self.items[index]

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that have images, train first."""
        names = {item.split for item in self.items if item.split is not None}
        return tuple(name for name in SPLITS if name in names) + tuple(sorted(names.difference(SPLITS)))

    def split(self, name: str) -> "Annotations":
        """Return the annotations of one split.

        `train` includes `restval`: by convention, Karpathy's split of COCO trains on the remaining validation images.
        A standard split without images is empty.

        Raises:
            DataError: The name is neither a standard split nor one of this data.
        """
        wanted = split_name(name)
        if wanted not in SPLITS and wanted not in self.splits:
            raise DataError(f"{self.source} has no split {name!r}; it has {', '.join(self.splits) or 'none'}")
        names = ("train", "restval") if wanted == "train" else (wanted,)
        return replace(self, items=tuple(item for item in self.items if item.split in names))


@dataclass(slots=True)
class Record:
    """One row, line or entry of a captions file.

    Attributes:
        image: Image reference as written in the file.
        captions: Captions as written in the file, not stripped.
        base: The folder that `image` is relative to.
        split: Canonical split name, or None.
        id: Image id, or None to use `image`.
        boxes: Labelled rectangles.
        one_row_per_image: The row lists all captions, so that its id belongs to the image and not to the caption.
    """

    image: str
    captions: Sequence[object]
    base: Path
    split: str | None = None
    id: str | None = None
    boxes: tuple[Box, ...] = ()
    one_row_per_image: bool = False


@dataclass
class Reading:
    """The output of a reader.

    Attributes:
        records: Records in the order of the file.
        problems: One line per kind of problem.
        split_lists: Split and listed images of each split list, by file name.
    """

    records: list[Record] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    split_lists: dict[str, tuple[str, list[str]]] = field(default_factory=dict)


def split_name(text: object) -> str | None:
    """Return the canonical name of a split (`dev` and `validation` are `val`), or None for an empty one."""
    name = "" if text is None else str(text).strip().lower()
    return _ALIASES.get(name, name) or None


def split_in_name(text: str) -> str | None:
    """Return the split in a file or folder name such as `captions_train2014`, or None."""
    # A capital after a lower-case letter starts a word: testImages, valSet.
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", text).lower()
    found = _SPLIT_WORD.search(words)
    return split_name(found.group(1)) if found else None


def split_of_file(path: Path) -> str | None:
    """Return the split in a file's name, else the split its folder is named after, or None."""
    return split_in_name(path.stem) or split_of_folder(path.parent.name)


def split_of_folder(name: str) -> str | None:
    """Return the split that a folder is named after (train, val2017, test_images), or None.

    The name must contain nothing else: "test of the camera" and "train stations" are not splits.
    """
    found = _SPLIT_FOLDER.fullmatch(name)
    return split_name(found.group(1)) if found else None


def name_some(names: Sequence[str], limit: int = 5) -> str:
    """Return the first names joined by commas, and the number of the others.

    Unprintable characters (line breaks, terminal escape sequences in a hostile file) become question marks.
    """
    shown = ", ".join("".join(c if c.isprintable() else "?" for c in name) for name in names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


def count(number: int, noun: str) -> str:
    """Return a number with its noun in the singular or plural, such as `1 entry` or `2,000 entries`."""
    if number != 1:
        noun = noun[:-1] + "ies" if noun.endswith("y") else noun + "s"
    return f"{number:,} {noun}"
