"""The normal form of a data set: boxes, annotations, and the records readers make on the way to them."""

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
    """A labelled rectangle, in pixels of the image as stored; (x, y) is its top-left corner."""

    label: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Annotation:
    """One image with its captions.

    Attributes:
        id: Names the image within its data set.
        image: A path, a URL, or a member of a file: `archive.tar::member`, `table.parquet::column::row`.
        captions: What people said about it, stripped, never empty.
        split: train, restval, val, test, a name of the data's own, or None where it belongs to none.
        boxes: Labelled rectangles, where the data has them.
    """

    id: str
    image: str
    captions: tuple[str, ...]
    split: str | None = None
    boxes: tuple[Box, ...] = ()


@dataclass(frozen=True)
class Annotations:
    """The annotations of a data set, where they came from, and what was wrong with them.

    Attributes:
        items: One annotation an image (one a split, where an image is in two).
        source: The path that was read, or what made them.
        format: The name of the reader.
        problems: One line a kind of defect, naming the first few cases.
        missing: Images that captions name and nobody can find; they are not in `items`.
        silent: Images without any caption; they are not in `items` either.
    """

    items: tuple[Annotation, ...]
    source: str
    format: str
    problems: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Annotation]:
        return iter(self.items)

    def __getitem__(self, index: int) -> Annotation:
        return self.items[index]

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits that have images, train first."""
        names = {item.split for item in self.items if item.split is not None}
        return tuple(name for name in SPLITS if name in names) + tuple(sorted(names.difference(SPLITS)))

    def split(self, name: str) -> "Annotations":
        """Returns the annotations of one split.

        `train` takes in `restval`: the images of COCO's validation set that Karpathy's split leaves over
        are training images by convention. A standard split without images is empty.

        Raises:
            DataError: The name is no standard split and none of this data's.
        """
        wanted = split_name(name)
        if wanted not in SPLITS and wanted not in self.splits:
            raise DataError(f"{self.source} has no split {name!r}; it has {', '.join(self.splits) or 'none'}")
        names = ("train", "restval") if wanted == "train" else (wanted,)
        return replace(self, items=tuple(item for item in self.items if item.split in names))


@dataclass(slots=True)
class Record:
    """What one row, line or entry of a captions file says.

    Attributes:
        image: The image as written there.
        captions: As written, not yet stripped.
        base: The folder that `image` is relative to.
        split: A canonical split name, or None.
        id: The data's own name for the image, or None to use `image`.
        boxes: Labelled rectangles.
        one_row_a_image: The row lists all captions, so that its id is the image's, not the caption's.
    """

    image: str
    captions: Sequence[object]
    base: Path
    split: str | None = None
    id: str | None = None
    boxes: tuple[Box, ...] = ()
    one_row_a_image: bool = False


@dataclass
class Reading:
    """What a reader found: records, and the lines it could make no sense of.

    Attributes:
        records: In the order of the file.
        problems: One line a kind of defect.
        split_lists: By file name, the split it stands for and the images it lists.
    """

    records: list[Record] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    split_lists: dict[str, tuple[str, list[str]]] = field(default_factory=dict)


def split_name(text: object) -> str | None:
    """Returns the canonical name of a split (`dev` and `validation` are `val`), or None for an empty one."""
    name = "" if text is None else str(text).strip().lower()
    return _ALIASES.get(name, name) or None


def split_in_name(text: str) -> str | None:
    """Returns the split that a file or folder name speaks of, such as `captions_train2014`, or None."""
    # A capital after a small letter starts a word: testImages, valSet.
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", text).lower()
    found = _SPLIT_WORD.search(words)
    return split_name(found.group(1)) if found else None


def split_of_file(path: Path) -> str | None:
    """Returns the split that a file's name speaks of, else the one its folder is named after, or None."""
    return split_in_name(path.stem) or split_of_folder(path.parent.name)


def split_of_folder(name: str) -> str | None:
    """Returns the split that a folder is named after (train, val2017, test_images), or None.

    Nothing else may be in the name: folders called "test of the camera" or "train stations" are no splits.
    """
    found = _SPLIT_FOLDER.fullmatch(name)
    return split_name(found.group(1)) if found else None


def name_some(names: Sequence[str], most: int = 5) -> str:
    """Returns the first names joined by commas, and how many more there are.

    What no terminal shows (line breaks, escape sequences from a hostile file) becomes a question mark.
    """
    shown = ", ".join("".join(c if c.isprintable() else "?" for c in name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def count(number: int, noun: str) -> str:
    """Returns the number with its noun in the singular or plural, such as `1 entry`, `2,000 entries`."""
    if number != 1:
        noun = noun[:-1] + "ies" if noun.endswith("y") else noun + "s"
    return f"{number:,} {noun}"
