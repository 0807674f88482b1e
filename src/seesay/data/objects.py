"""The objects in an image that a caption's words name: boxes from COCO's instances, and the words that mean them."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from seesay.data.readers.json_tables import parse_json
from seesay.data.records import Box, Reading
from seesay.errors import DataError
from seesay.names import composed

_PEOPLE = ("person", "people", "man", "men", "woman", "women", "boy", "girl", "child", "children", "kid", "player")
_OTHER_NAMES = {"person": tuple((word,) for word in (*_PEOPLE, *(f"{word}s" for word in _PEOPLE)))}


def read_instances(path: Path, image: str) -> tuple[Box, ...]:
    """Returns the boxes of an image in a file of COCO instances, labelled by their categories.

    Args:
        path: such as `instances_val2017.json`.
        image: the image, found by its file's name.

    Raises:
        DataError: the file is of another form, or does not list the image.
    """
    content = parse_json(path, Reading())
    name = composed(PurePosixPath(image.replace("\\", "/")).name)
    try:
        assert isinstance(content, dict)
        labels = {each["id"]: str(each["name"]) for each in content["categories"]}
        ids = {each["id"] for each in content["images"] if composed(PurePosixPath(each["file_name"]).name) == name}
        found = tuple(
            Box(labels[each["category_id"]], *map(float, each["bbox"]))
            for each in content["annotations"]
            if each["image_id"] in ids
        )
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is no file of COCO instances; give one such as instances_val2017.json") from error
    if not ids:
        raise DataError(f"{path} does not list {name}; give the instances of the image's own split")
    return found


def name_objects(words: Sequence[str], boxes: Sequence[Box]) -> list[tuple[int, tuple[Box, ...]]]:
    """Returns the index of each word that names objects with the boxes of all of these.

    A label of several words is named by their sequence, and its last word stands for it; plurals count, and for a
    person the usual words for people.
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
