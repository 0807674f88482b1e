import json
from pathlib import Path

import pytest

from seesay.data.objects import name_objects, read_instances
from seesay.data.records import Box
from seesay.errors import DataError

INSTANCES = {
    "images": [{"id": 7, "file_name": "000007.jpg"}, {"id": 8, "file_name": "000008.jpg"}],
    "annotations": [
        {"image_id": 7, "category_id": 1, "bbox": [1, 2, 3, 4]},
        {"image_id": 8, "category_id": 1, "bbox": [9, 9, 9, 9]},
        {"image_id": 7, "category_id": 58, "bbox": [5, 6.5, 7, 8]},
    ],
    "categories": [{"id": 1, "name": "person"}, {"id": 58, "name": "hot dog"}],
}


def test_boxes_of_an_image_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "instances.json").write_text(json.dumps(INSTANCES))
    assert read_instances(tmp_path / "instances.json", "somewhere/000007.jpg") == (
        Box("person", 1, 2, 3, 4),
        Box("hot dog", 5, 6.5, 7, 8),
    )
    with pytest.raises(DataError, match=r"does not list 9\.jpg"):
        read_instances(tmp_path / "instances.json", "9.jpg")


@pytest.mark.parametrize("content", ["[]", "{}", '{"images": 1, "annotations": [], "categories": []}'])
def test_a_file_of_another_format_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(DataError, match=r"x\.json is not a COCO instances file"):
        read_instances(tmp_path / "x.json", "9.jpg")


def test_words_name_objects_in_singular_plural_and_by_other_names() -> None:
    one, two = Box("person", 0, 0, 1, 1), Box("person", 5, 5, 1, 1)
    snack, cat, couch = Box("hot dog", 2, 2, 1, 1), Box("cat", 1, 1, 1, 1), Box("berry", 3, 3, 1, 1)
    words = ["Two", "men", "eat", "hot", "dogs", "near", "a", "cat.", "dog", "and", "berries"]
    assert name_objects(words, [one, snack, two, cat, couch]) == [
        (1, (one, two)),
        (4, (snack,)),
        (7, (cat,)),
        (10, (couch,)),
    ]
    assert name_objects(words, []) == []
