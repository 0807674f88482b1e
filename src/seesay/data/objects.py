"""Caption words matched to object boxes: boxes from COCO instances and the words that name them."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from seesay.data.readers.json_tables import parse_json
from seesay.data.records import Box, Reading
from seesay.errors import DataError
from seesay.names import to_nfc

_PEOPLE = ("person", "people", "man", "men", "woman", "women", "boy", "girl", "child", "children", "kid", "player")
_OTHER_NAMES = {"person": tuple((word,) for word in (*_PEOPLE, *(f"{word}s" for word in _PEOPLE)))}


def read_instances(path: Path, image: str) -> tuple[Box, ...]:
    """Return the boxes of an image in a COCO instances file, labelled with their categories.

    Args:
        path: file such as `instances_val2017.json`.
        image: path of the image, matched by its file name.

    Raises:
        DataError: the file has another format or does not list the image.
    """
    content = parse_json(path, Reading())
    name = to_nfc(PurePosixPath(image.replace("\\", "/")).name)
    try:
        assert isinstance(content, dict)
        labels = {category["id"]: str(category["name"]) for category in content["categories"]}
        ids = {entry["id"] for entry in content["images"] if to_nfc(PurePosixPath(entry["file_name"]).name) == name}
        boxes = tuple(
            Box(labels[instance["category_id"]], *map(float, instance["bbox"]))
            for instance in content["annotations"]
            if instance["image_id"] in ids
        )
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is not a COCO instances file; pass one such as instances_val2017.json") from error
    if not ids:
        raise DataError(f"{path} does not list {name}; pass the instances file of the image's split")
    return boxes


def name_objects(words: Sequence[str], boxes: Sequence[Box]) -> list[tuple[int, tuple[Box, ...]]]:
    """Return the index of each word that names objects, with the boxes of these objects.

    A label of several words matches their sequence, at the index of its last word. Plurals match, and common words for
    people match the label `person`.
    """
    plain = [word.strip(".,;:!?").lower() for word in words]
    by_label: dict[str, list[Box]] = {}
    for box in boxes:
        by_label.setdefault(box.label.lower(), []).append(box)
    found = {}
    for label, of_label in by_label.items():
        for form in _forms(label):
            for end in range(len(form), len(plain) + 1):
                if tuple(plain[end - len(form) : end]) == form:
                    found[end - 1] = tuple(of_label)
    return sorted(found.items())


def _forms(label: str) -> list[tuple[str, ...]]:
    *before, last = label.split()
    plurals = [f"{last}s", f"{last}es", *([f"{last[:-1]}ies"] if last.endswith("y") else [])]
    return [*((*before, form) for form in (last, *plurals)), *_OTHER_NAMES.get(label, ())]
