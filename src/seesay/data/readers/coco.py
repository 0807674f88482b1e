"""COCO caption JSON (`images` and `annotations`) and Karpathy's split JSON (`images` with `sentences`)."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from seesay.data.readers.columns import ColumnNames, parse_captions
from seesay.data.readers.json_tables import parse_json
from seesay.data.records import Reading, Record, count, name_some, split_name, split_of_file
from seesay.errors import DataError


def read_coco(files: list[Path], split_lists: list[Path], requested: ColumnNames) -> Reading:
    """Return the records of COCO caption files; the split is in the file name (captions_train2014.json).

    A file with images only, such as that of a test split with withheld captions, is reported and skipped.

    Raises:
        DataError: A file has another format, or annotations without captions such as instances_*.json.
    """
    reading = Reading()
    contents = {path: parse_json(path, reading) for path in files}
    imageonly = [path for path, content in contents.items() if _lists_images_alone(content)]
    for path in files:
        if path in imageonly and len(imageonly) < len(files):
            (images,) = _lists(contents[path], "images", path=path, form="COCO captions")
            reading.problems.append(f"{path.name} lists {count(len(images), 'image')} and no captions; skipped")
            continue
        _add_records(path, contents[path], reading)
    return reading


def _lists_images_alone(content: object) -> bool:
    return isinstance(content, Mapping) and isinstance(content.get("images"), list) and not content.get("annotations")


def _add_records(path: Path, content: object, reading: Reading) -> None:
    """Add the records of one file to the reading."""
    images, annotations = _lists(content, "images", "annotations", path=path, form="COCO captions")
    split = split_of_file(path)
    captions = _captions_by_image(path, annotations, reading)
    unnamed = []
    for image in images:
        name = _file_name(image)
        if name is None:
            unnamed.append(str(image)[:40])
            continue
        id = str(image.get("id", name))
        own = split_name(image.get("split")) or split
        reading.records.append(Record(name, captions.pop(id, ()), path.parent, own, id, one_row_per_image=True))
    if unnamed:
        reading.problems.append(
            f"{path.name}: {count(len(unnamed), 'image entry')} without a file name: {name_some(unnamed, 2)}"
        )
    if captions:
        reading.problems.append(
            f"{path.name}: captions of {count(len(captions), 'image id')} that are not in images: "
            f"{name_some(list(captions))}"
        )


def _captions_by_image(path: Path, annotations: list[Any], reading: Reading) -> dict[str, list[object]]:
    """Return the captions by image id, in the order of the file; invalid annotations are reported."""
    captions: dict[str, list[object]] = {}
    junk = []
    for number, annotation in enumerate(annotations, start=1):
        if isinstance(annotation, Mapping) and "image_id" in annotation and "caption" in annotation:
            captions.setdefault(str(annotation["image_id"]), []).append(annotation["caption"])
        else:
            junk.append(f"annotation {number} ({str(annotation)[:40]!r})")
    if junk and not captions:
        raise DataError(
            f"{path} has annotations without captions (image_id and caption are required); "
            "COCO's captions are in captions_*.json"
        )
    if junk:
        reading.problems.append(
            f"{path.name}: {count(len(junk), 'annotation')} without image_id and caption: {name_some(junk)}"
        )
    return captions


def _file_name(image: object) -> str | None:
    """Return the file name of an entry of images, or the last part of its URL."""
    if not isinstance(image, Mapping):
        return None
    for field in ("file_name", "filename", "coco_url", "flickr_url", "url"):
        name = image.get(field)
        if isinstance(name, str) and name.strip():
            return PurePosixPath(name).name if "://" in name else name
    return None


def read_karpathy(files: list[Path], split_lists: list[Path], requested: ColumnNames) -> Reading:
    """Return the records of Karpathy's JSON of Flickr8k, Flickr30k and COCO.

    Raises:
        DataError: A file has another format.
    """
    reading = Reading()
    for path in files:
        (images,) = _lists(parse_json(path, reading), "images", path=path, form="Karpathy's splits")
        junk = []
        for number, image in enumerate(images, start=1):
            name = _file_name(image)
            sentences = parse_captions(image.get("sentences")) if isinstance(image, Mapping) else None
            if name is None or sentences is None:
                junk.append(f"entry {number} ({str(image)[:40]!r})")
                continue
            folder = str(image.get("filepath") or "").strip("/")
            name = f"{folder}/{name}" if folder else name
            id = str(image.get("cocoid", PurePosixPath(name).name))
            split = split_name(image.get("split"))
            reading.records.append(Record(name, sentences, path.parent, split, id, one_row_per_image=True))
        if junk:
            reading.problems.append(
                f"{path.name}: {count(len(junk), 'entry')} without filename and sentences: {name_some(junk)}"
            )
    return reading


def _lists(content: object, *keys: str, path: Path, form: str) -> list[list[Any]]:
    """Return the lists under the keys of a JSON object.

    Raises:
        DataError: The content is not an object, or a list is missing.
    """
    found = [content.get(key) for key in keys] if isinstance(content, Mapping) else []
    lists = [value for value in found if isinstance(value, list)]
    if len(lists) != len(keys):
        raise DataError(f"{path} is not {form}: it must be an object with a list under {' and '.join(keys)}")
    return lists
