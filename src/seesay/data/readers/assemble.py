"""From records, one a row of a file, to annotations, one an image; what does not fit is named."""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from seesay.data.readers.images import ImageFinder, expected_path, is_image_name, is_url
from seesay.data.records import Annotation, Annotations, Box, Reading, Record, count, name_some
from seesay.errors import DataError
from seesay.names import composed

NO_SPLIT = "in no split, kept out of training"
"""What is reported of images without a split in data that has splits."""


_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)


@dataclass
class _Image:
    """What all records of one image say together."""

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
        root: The folder below which images are looked for.
        format: The reader's name.
        require_images: Leave out images that cannot be found (they are counted and named). Without it they
            stay, with the path where they would be: scoring finished captions needs no images.

    Raises:
        DataError: Not one caption, or not one of the images, is there.
    """
    problems = list(reading.problems)
    images, silent = _without_silent(_group(reading.records, root, problems), problems)
    if not images:
        raise DataError("; ".join([f"{source} holds no caption that the {format} reader understands", *problems[:3]]))
    _deal_by_lists(images, reading, problems)
    missing: list[str] = []
    finder = ImageFinder(root)
    found = _locate(images, finder, problems)
    if require_images:
        missing = [image.image for image, path in zip(images, found, strict=True) if path is None]
        _report_missing(missing, len(images), finder.root, source, problems)
    located = []
    for image, path in zip(images, found, strict=True):
        if path is not None or not require_images:
            image.image = path or expected_path(image.image, image.base)
            located.append(image)
    images = located
    items = tuple(annotation for image in images for annotation in _annotations(image))
    stray = [item.id for item in items if item.split is None]
    if stray and len(stray) < len(items):
        problems.append(f"{count(len(stray), 'image')} {NO_SPLIT}: {name_some(stray)}")
    return Annotations(items, str(source), format, tuple(problems), tuple(missing), tuple(silent))


class Extent(NamedTuple):
    """How many images a reading captions: those that are there, those at addresses; of neither, those with a suffix."""

    there: int
    addresses: int
    named: int


def measure(reading: Reading, finder: ImageFinder) -> Extent:
    """Returns how many images a reading captions."""
    by_name = {
        (record.image.strip(), record.base): _Image(record.id or record.image, record.image.strip(), record.base)
        for record in reading.records
        if any(caption and not is_label_row(caption) for caption in _captions(record))
    }
    images = [image for image in by_name.values() if not is_url(image.image)]
    there = set(_locate(images, finder, [])) - {None}
    addresses = len(by_name) - len(images)
    named = 0 if there or addresses else sum(is_image_name(image) for image, _ in by_name)
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


def _group(records: list[Record], root: Path, problems: list[str]) -> list[_Image]:
    """Returns one image for all records that speak of it; empty captions are dropped and noted."""
    by_id = _ids_name_images(records)
    images: dict[tuple[str, str], _Image] = {}
    empty: dict[str, int] = {}
    labels: dict[str, str] = {}
    for record in records:
        reference = record.image.strip()
        name = (record.id or reference) if by_id else reference
        # The same reference from two folders (train/1.jpg, val/1.jpg) means two images.
        key = (name, "" if by_id and record.id else str(record.base))
        image = images.setdefault(key, _Image(name, reference, record.base))
        captions = image.captions.setdefault(record.split, [])
        for caption in _captions(record):
            if not caption:
                empty[name] = empty.get(name, 0) + 1
            elif is_label_row(caption):
                labels.setdefault(name, caption)
            else:
                captions.append(caption)
        if record.boxes:
            image.boxes[record.split] = record.boxes
    if empty:
        problems.append(f"{count(sum(empty.values()), 'empty caption')} dropped, of {name_some(list(empty))}")
    if labels:
        shown = [f"{name} ({caption[:40]!r})" for name, caption in labels.items()]
        problems.append(
            f"labels of objects are no captions, dropped, of {count(len(shown), 'image')}: {name_some(shown, 3)}"
        )
    return _with_distinct_ids(list(images.values()), root)


def _ids_name_images(records: list[Record]) -> bool:
    """Tells whether the ids are the images' own: one image an id, and not a number for each caption."""
    images: dict[str, str] = {}
    ids: dict[str, str] = {}
    for record in records:
        if record.id is None:
            continue
        if images.setdefault(record.id, record.image) != record.image:
            return False
        if ids.setdefault(record.image, record.id) != record.id and not record.one_row_a_image:
            return False
    return bool(images)


def _with_distinct_ids(images: list[_Image], root: Path) -> list[_Image]:
    """Returns the images, those of one name in several folders renamed to folder/name."""
    names = Counter(image.id for image in images)
    for image in images:
        if names[image.id] > 1:
            image.id = f"{os.path.relpath(image.base, root)}/{image.id}".replace(os.sep, "/")
    return images


def _without_silent(images: list[_Image], problems: list[str]) -> tuple[list[_Image], list[str]]:
    """Returns the images that have a caption, and the names of the others, which are noted."""
    silent = [image.id for image in images if not any(image.captions.values())]
    if silent:
        problems.append(f"{count(len(silent), 'image')} without any caption, left out: {name_some(silent)}")
    return [image for image in images if any(image.captions.values())], silent


def _deal_by_lists(images: list[_Image], reading: Reading, problems: list[str]) -> None:
    """Moves captions without a split to the splits whose list files name their image."""
    listed: dict[str, list[str]] = defaultdict(list)
    for split, names in reading.split_lists.values():
        for name in names:
            if split not in listed[composed(name)]:
                listed[composed(name)].append(split)
    used = set()
    for image in images:
        reference = composed(image.image)
        name = reference.replace("\\", "/").rsplit("/", 1)[-1]
        key = next((key for key in (reference, name, Path(name).stem) if key in listed), None)
        if key is not None:
            used.add(key)
            captions = image.captions.pop(None, [])
            for split in listed[key]:
                image.captions.setdefault(split, []).extend(captions)
    for file, (_, names) in reading.split_lists.items():
        idle = [name for name in dict.fromkeys(names) if composed(name) not in used]
        if idle:
            lines = "1 line names" if len(idle) == 1 else f"{len(idle):,} lines name"
            problems.append(f"{file}: {lines} no image with captions: {name_some(idle)}")


def _locate(images: list[_Image], finder: ImageFinder, problems: list[str]) -> list[str | None]:
    """Returns the path of each image, or None: by its name, else by its id, as ROCO's images are fetched."""
    found, by_id = [], []
    for image in images:
        path = finder.find(image.image, image.base)
        if path is None and _may_name_a_file(image):
            path = finder.find(image.id, image.base)
            by_id += [] if path is None else [f"{image.id} ({image.image})"]
        found.append(path)
    if by_id:
        problems.append(
            f"{count(len(by_id), 'image')} found by id, as there is no file of the name in the table: "
            f"{name_some(by_id, 3)}"
        )
    if finder.ambiguous:
        problems.append(
            f"{count(len(finder.ambiguous), 'image')} not told apart from one of the same name elsewhere: "
            f"{name_some(finder.ambiguous, 3)}"
        )
    return found


def _may_name_a_file(image: _Image) -> bool:
    """Tells whether an id may be a file's name: numbers count captions, too."""
    return image.id != image.image and not image.id.isdigit()


def _report_missing(missing: list[str], images: int, root: Path, source: Path, problems: list[str]) -> None:
    """Notes the images that are not there.

    Raises:
        DataError: None is.
    """
    if len(missing) == images:
        raise DataError(
            f"{source} has captions of {count(len(missing), 'image')}, none of which is below "
            f"{root}: {name_some(missing, 3)}; put the images there, "
            "or name the folder that holds both"
        )
    if missing:
        problems.append(f"{count(len(missing), 'captioned image')} missing, left out: {name_some(missing)}")


def _annotations(image: _Image) -> list[Annotation]:
    """Returns one annotation a split that the image has captions in."""
    return [
        Annotation(image.id, image.image, tuple(captions), split, image.boxes.get(split, ()))
        for split, captions in image.captions.items()
        if captions
    ]
