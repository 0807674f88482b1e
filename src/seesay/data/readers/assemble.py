"""From records, one a row of a file, to annotations, one a picture; what does not fit is named."""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from seesay.data.readers.pictures import PictureFinder, expected_path, is_picture_name, is_url
from seesay.data.records import Annotation, Annotations, Box, Reading, Record, count, name_some
from seesay.errors import DataError
from seesay.names import composed

NO_SPLIT = "in no split, kept out of training"
"""What is reported of images without a split in data that has splits."""


_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)


@dataclass
class _Picture:
    """What all records of one picture say together."""

    id: str
    image: str
    base: Path
    captions: dict[str | None, list[str]] = field(default_factory=lambda: defaultdict(list))
    boxes: dict[str | None, tuple[Box, ...]] = field(default_factory=dict)


def assemble(reading: Reading, source: Path, root: Path, format: str, require_images: bool) -> Annotations:
    """Returns the annotations that a reading amounts to.

    Args:
        reading: What a reader found.
        source: What the user named, for messages.
        root: The folder below which pictures are looked for.
        format: The reader's name.
        require_images: Leave out pictures that cannot be found (they are counted and named). Without it they
            stay, with the path where they would be: scoring finished captions needs no pictures.

    Raises:
        DataError: Not one caption, or not one of the pictures, is there.
    """
    problems = list(reading.problems)
    pictures, silent = _without_silent(_group(reading.records, root, problems), problems)
    if not pictures:
        raise DataError("; ".join([f"{source} holds no caption that the {format} reader understands", *problems[:3]]))
    _deal_by_lists(pictures, reading, problems)
    missing: list[str] = []
    finder = PictureFinder(root)
    found = _locate(pictures, finder, problems)
    if require_images:
        missing = [picture.image for picture, path in zip(pictures, found, strict=True) if path is None]
        _report_missing(missing, len(pictures), finder.root, source, problems)
    located = []
    for picture, path in zip(pictures, found, strict=True):
        if path is not None or not require_images:
            picture.image = path or expected_path(picture.image, picture.base)
            located.append(picture)
    pictures = located
    items = tuple(annotation for picture in pictures for annotation in _annotations(picture))
    stray = [item.id for item in items if item.split is None]
    if stray and len(stray) < len(items):
        problems.append(f"{count(len(stray), 'picture')} {NO_SPLIT}: {name_some(stray)}")
    return Annotations(items, str(source), format, tuple(problems), tuple(missing), tuple(silent))


class Extent(NamedTuple):
    """How many images a reading captions: those that are there, those at addresses; of neither, those with a suffix."""

    there: int
    addresses: int
    named: int


def measure(reading: Reading, finder: PictureFinder) -> Extent:
    """Returns how many images a reading captions."""
    by_name = {
        (record.image.strip(), record.base): _Picture(record.id or record.image, record.image.strip(), record.base)
        for record in reading.records
        if any(caption and not is_label_row(caption) for caption in _captions(record))
    }
    pictures = [picture for picture in by_name.values() if not is_url(picture.image)]
    there = set(_locate(pictures, finder, [])) - {None}
    addresses = len(by_name) - len(pictures)
    named = 0 if there or addresses else sum(is_picture_name(image) for image, _ in by_name)
    return Extent(len(there), addresses, named)


def _captions(record: Record) -> Iterator[str]:
    """Yields the captions of a record, stripped; those that are blank are empty texts."""
    for raw in record.captions:
        yield "" if raw is None or raw != raw else str(raw).strip()  # NaN alone differs from itself


def is_label_row(text: str) -> bool:
    """Tells whether a text is a row of a label file of object detection, such as YOLO's `0 0.51 0.43 0.2 0.3`.

    Such a row has four numbers or more, at least two of them with decimals, and at most one word (the class).
    """
    if text.count(".") < 2:  # nearly every caption
        return False
    cells = text.replace(",", " ").split()
    numbers = [cell for cell in cells if _NUMBER.fullmatch(cell)]
    return len(numbers) >= 4 and len(cells) - len(numbers) <= 1 and sum("." in number for number in numbers) >= 2


def _group(records: list[Record], root: Path, problems: list[str]) -> list[_Picture]:
    """Returns one picture for all records that speak of it; empty captions are dropped and noted."""
    by_id = _ids_name_pictures(records)
    pictures: dict[tuple[str, str], _Picture] = {}
    empty: dict[str, int] = {}
    labels: dict[str, str] = {}
    for record in records:
        image = record.image.strip()
        name = (record.id or image) if by_id else image
        # The same reference from two folders (train/1.jpg, val/1.jpg) means two pictures.
        key = (name, "" if by_id and record.id else str(record.base))
        picture = pictures.setdefault(key, _Picture(name, image, record.base))
        captions = picture.captions.setdefault(record.split, [])
        for caption in _captions(record):
            if not caption:
                empty[name] = empty.get(name, 0) + 1
            elif is_label_row(caption):
                labels.setdefault(name, caption)
            else:
                captions.append(caption)
        if record.boxes:
            picture.boxes[record.split] = record.boxes
    if empty:
        problems.append(f"{count(sum(empty.values()), 'empty caption')} dropped, of {name_some(list(empty))}")
    if labels:
        shown = [f"{name} ({caption[:40]!r})" for name, caption in labels.items()]
        problems.append(
            f"labels of objects are no captions, dropped, of {count(len(shown), 'image')}: {name_some(shown, 3)}"
        )
    return _with_distinct_ids(list(pictures.values()), root)


def _ids_name_pictures(records: list[Record]) -> bool:
    """Tells whether the ids are the pictures' own: one picture an id, and not a number for each caption."""
    images: dict[str, str] = {}
    ids: dict[str, str] = {}
    for record in records:
        if record.id is None:
            continue
        if images.setdefault(record.id, record.image) != record.image:
            return False
        if ids.setdefault(record.image, record.id) != record.id and not record.one_row_a_picture:
            return False
    return bool(images)


def _with_distinct_ids(pictures: list[_Picture], root: Path) -> list[_Picture]:
    """Returns the pictures, those of one name in several folders renamed to folder/name."""
    names = Counter(picture.id for picture in pictures)
    for picture in pictures:
        if names[picture.id] > 1:
            picture.id = f"{os.path.relpath(picture.base, root)}/{picture.id}".replace(os.sep, "/")
    return pictures


def _without_silent(pictures: list[_Picture], problems: list[str]) -> tuple[list[_Picture], list[str]]:
    """Returns the pictures that have a caption, and the names of the others, which are noted."""
    silent = [picture.id for picture in pictures if not any(picture.captions.values())]
    if silent:
        problems.append(f"{count(len(silent), 'picture')} without any caption, left out: {name_some(silent)}")
    return [picture for picture in pictures if any(picture.captions.values())], silent


def _deal_by_lists(pictures: list[_Picture], reading: Reading, problems: list[str]) -> None:
    """Moves captions without a split to the splits whose list files name their picture."""
    listed: dict[str, list[str]] = defaultdict(list)
    for split, names in reading.split_lists.values():
        for name in names:
            if split not in listed[composed(name)]:
                listed[composed(name)].append(split)
    used = set()
    for picture in pictures:
        image = composed(picture.image)
        name = image.replace("\\", "/").rsplit("/", 1)[-1]
        key = next((key for key in (image, name, Path(name).stem) if key in listed), None)
        if key is not None:
            used.add(key)
            captions = picture.captions.pop(None, [])
            for split in listed[key]:
                picture.captions.setdefault(split, []).extend(captions)
    for file, (_, names) in reading.split_lists.items():
        idle = [name for name in dict.fromkeys(names) if composed(name) not in used]
        if idle:
            lines = "1 line names" if len(idle) == 1 else f"{len(idle):,} lines name"
            problems.append(f"{file}: {lines} no picture with captions: {name_some(idle)}")


def _locate(pictures: list[_Picture], finder: PictureFinder, problems: list[str]) -> list[str | None]:
    """Returns the path of each picture, or None: by its name, else by its id, as ROCO's images are fetched."""
    found, by_id = [], []
    for picture in pictures:
        path = finder.find(picture.image, picture.base)
        if path is None and _may_name_a_file(picture):
            path = finder.find(picture.id, picture.base)
            by_id += [] if path is None else [f"{picture.id} ({picture.image})"]
        found.append(path)
    if by_id:
        problems.append(
            f"{count(len(by_id), 'image')} found by id, as there is no file of the name in the table: "
            f"{name_some(by_id, 3)}"
        )
    if finder.ambiguous:
        problems.append(
            f"{count(len(finder.ambiguous), 'picture')} not told apart from one of the same name elsewhere: "
            f"{name_some(finder.ambiguous, 3)}"
        )
    return found


def _may_name_a_file(picture: _Picture) -> bool:
    """Tells whether an id may be a file's name: numbers count captions, too."""
    return picture.id != picture.image and not picture.id.isdigit()


def _report_missing(missing: list[str], pictures: int, root: Path, source: Path, problems: list[str]) -> None:
    """Notes the pictures that are not there.

    Raises:
        DataError: None is.
    """
    if len(missing) == pictures:
        raise DataError(
            f"{source} has captions of {count(len(missing), 'picture')}, none of which is below "
            f"{root}: {name_some(missing, 3)}; put the pictures there, "
            "or name the folder that holds both"
        )
    if missing:
        problems.append(f"{count(len(missing), 'captioned picture')} missing, left out: {name_some(missing)}")


def _annotations(picture: _Picture) -> list[Annotation]:
    """Returns one annotation a split that the picture has captions in."""
    return [
        Annotation(picture.id, picture.image, tuple(captions), split, picture.boxes.get(split, ()))
        for split, captions in picture.captions.items()
        if captions
    ]
