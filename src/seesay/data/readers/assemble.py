"""Records (one per row of a file) to annotations (one per image and split), with a report of problems."""

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
from seesay.names import to_nfc

NO_SPLIT = "without a split, not used in training"
"""Problem reported for images without a split in data that has splits."""


_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)


@dataclass
class _Image:
    """All records of one image, merged."""

    id: str
    image: str
    base: Path
    captions: dict[str | None, list[str]] = field(default_factory=lambda: defaultdict(list))
    boxes: dict[str | None, tuple[Box, ...]] = field(default_factory=dict)


def assemble(reading: Reading, source: Path, root: Path, format: str, require_images: bool) -> Annotations:
    """Return the annotations of a reader's records.

    Args:
        reading: Output of a reader.
        source: Path that the user passed, for messages.
        root: Folder below which images are located.
        format: Name of the reader.
        require_images: Skip and report images that cannot be found; if False, keep them with their expected path.

    Raises:
        DataError: There are no captions, or none of the images is found.
    """
    problems = list(reading.problems)
    images, uncaptioned = _without_uncaptioned(_group(reading.records, root, problems), problems)
    if not images:
        raise DataError("; ".join([f"{source} contains no captions for the {format} reader", *problems[:3]]))
    _apply_split_lists(images, reading, problems)
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
    unsplit = [item.id for item in items if item.split is None]
    if unsplit and len(unsplit) < len(items):
        problems.append(f"{count(len(unsplit), 'image')} {NO_SPLIT}: {name_some(unsplit)}")
    return Annotations(items, str(source), format, tuple(problems), tuple(missing), tuple(uncaptioned))


class Coverage(NamedTuple):
    """Number of captioned images: found files, URLs and, if there are neither, names with an image suffix."""

    found: int
    urls: int
    by_suffix: int


def measure(reading: Reading, finder: ImageFinder) -> Coverage:
    """Return the number of images that a reading captions."""
    by_name = {
        (record.image.strip(), record.base): _Image(record.id or record.image, record.image.strip(), record.base)
        for record in reading.records
        if any(caption and not is_label_row(caption) for caption in _captions(record))
    }
    images = [image for image in by_name.values() if not is_url(image.image)]
    found = set(_locate(images, finder, [])) - {None}
    urls = len(by_name) - len(images)
    by_suffix = 0 if found or urls else sum(is_image_name(image) for image, _ in by_name)
    return Coverage(len(found), urls, by_suffix)


def _captions(record: Record) -> Iterator[str]:
    """Yield the captions of a record, stripped; blank ones as empty strings."""
    for raw in record.captions:
        yield "" if raw is None or raw != raw else str(raw).strip()  # NaN


def is_label_row(text: str) -> bool:
    """Return whether a text is a row of an object detection label file, such as YOLO's `0 0.51 0.43 0.2 0.3`.

    Such a row has at least four numbers, two of them with decimals, and at most one word (the class).
    """
    if text.count(".") < 2:  # fast path for nearly all captions
        return False
    cells = text.replace(",", " ").split()
    numbers = [cell for cell in cells if _NUMBER.fullmatch(cell)]
    return len(numbers) >= 4 and len(cells) - len(numbers) <= 1 and sum("." in number for number in numbers) >= 2


def _group(records: list[Record], root: Path, problems: list[str]) -> list[_Image]:
    """Return one image for all of its records; empty captions are dropped and reported."""
    by_id = _ids_name_images(records)
    images: dict[tuple[str, str], _Image] = {}
    empty: dict[str, int] = {}
    labels: dict[str, str] = {}
    for record in records:
        reference = record.image.strip()
        name = (record.id or reference) if by_id else reference
        # The same reference in two folders (train/1.jpg, val/1.jpg) means two images.
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
            f"object labels instead of captions dropped, of {count(len(shown), 'image')}: {name_some(shown, 3)}"
        )
    return _with_distinct_ids(list(images.values()), root)


def _ids_name_images(records: list[Record]) -> bool:
    """Return whether ids identify images: one image per id, and not one id per caption."""
    images: dict[str, str] = {}
    ids: dict[str, str] = {}
    for record in records:
        if record.id is None:
            continue
        if images.setdefault(record.id, record.image) != record.image:
            return False
        if ids.setdefault(record.image, record.id) != record.id and not record.one_row_per_image:
            return False
    return bool(images)


def _with_distinct_ids(images: list[_Image], root: Path) -> list[_Image]:
    """Return the images; equal ids from several folders become folder/id."""
    names = Counter(image.id for image in images)
    for image in images:
        if names[image.id] > 1:
            image.id = f"{os.path.relpath(image.base, root)}/{image.id}".replace(os.sep, "/")
    return images


def _without_uncaptioned(images: list[_Image], problems: list[str]) -> tuple[list[_Image], list[str]]:
    """Return the images with captions, and the ids of the others, which are reported."""
    uncaptioned = [image.id for image in images if not any(image.captions.values())]
    if uncaptioned:
        problems.append(f"{count(len(uncaptioned), 'image')} without captions, skipped: {name_some(uncaptioned)}")
    return [image for image in images if any(image.captions.values())], uncaptioned


def _apply_split_lists(images: list[_Image], reading: Reading, problems: list[str]) -> None:
    """Assign captions without a split to the splits whose list files contain their image."""
    listed: dict[str, list[str]] = defaultdict(list)
    for split, names in reading.split_lists.values():
        for name in names:
            if split not in listed[to_nfc(name)]:
                listed[to_nfc(name)].append(split)
    used = set()
    for image in images:
        reference = to_nfc(image.image)
        name = reference.replace("\\", "/").rsplit("/", 1)[-1]
        key = next((key for key in (reference, name, Path(name).stem) if key in listed), None)
        if key is not None:
            used.add(key)
            captions = image.captions.pop(None, [])
            for split in listed[key]:
                image.captions.setdefault(split, []).extend(captions)
    for file, (_, names) in reading.split_lists.items():
        unmatched = [name for name in dict.fromkeys(names) if to_nfc(name) not in used]
        if unmatched:
            lines = "1 line names" if len(unmatched) == 1 else f"{len(unmatched):,} lines name"
            problems.append(f"{file}: {lines} no image with captions: {name_some(unmatched)}")


def _locate(images: list[_Image], finder: ImageFinder, problems: list[str]) -> list[str | None]:
    """Return the path of each image or None, found by its reference, else by its id (as in ROCO)."""
    found, by_id = [], []
    for image in images:
        path = finder.find(image.image, image.base)
        if path is None and _may_name_a_file(image):
            path = finder.find(image.id, image.base)
            by_id += [] if path is None else [f"{image.id} ({image.image})"]
        found.append(path)
    if by_id:
        problems.append(
            f"{count(len(by_id), 'image')} found by id, because no file has the name in the table: "
            f"{name_some(by_id, 3)}"
        )
    if finder.ambiguous:
        problems.append(
            f"{count(len(finder.ambiguous), 'image')} ambiguous between files of the same name: "
            f"{name_some(finder.ambiguous, 3)}"
        )
    return found


def _may_name_a_file(image: _Image) -> bool:
    """Return whether an id may be a file name; a number may be a caption's id."""
    return image.id != image.image and not image.id.isdigit()


def _report_missing(missing: list[str], images: int, root: Path, source: Path, problems: list[str]) -> None:
    """Report the missing images.

    Raises:
        DataError: All are missing.
    """
    if len(missing) == images:
        raise DataError(
            f"{source} has captions of {count(len(missing), 'image')}, but none of them is below "
            f"{root}: {name_some(missing, 3)}; move the images there, "
            "or pass the folder that contains both"
        )
    if missing:
        problems.append(f"{count(len(missing), 'captioned image')} missing, skipped: {name_some(missing)}")


def _annotations(image: _Image) -> list[Annotation]:
    """Return one annotation per split in which the image has captions."""
    return [
        Annotation(image.id, image.image, tuple(captions), split, image.boxes.get(split, ()))
        for split, captions in image.captions.items()
        if captions
    ]
