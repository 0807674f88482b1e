from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seesay.captioners.caption import Caption
from seesay.data.records import Annotation, Box
from seesay.explanation.grounding import GroundingHit, find_grounding_hits, measure_grounding

GRID = (2, 2)


def caption(text: str, regions: list[int]) -> Caption:
    """Returns a caption whose words attend to one region each."""
    words = tuple(text.split())
    return Caption(text, words, (0.0,) * len(words), 0.0, 0.0, True, np.eye(4, dtype=np.float32)[regions], GRID)


@pytest.fixture
def item(tmp_path: Path) -> Annotation:
    Image.new("RGB", (100, 80)).save(tmp_path / "a.png")
    boxes = (Box("dog", 0, 0, 50, 40), Box("cat", 50, 40, 50, 40), Box("cat", 0, 40, 50, 40))
    return Annotation("a", str(tmp_path / "a.png"), ("a dog",), "test", boxes)


def test_words_that_name_objects_have_their_grounding(item: Annotation) -> None:
    dog, cat = find_grounding_hits(caption("a dog sees cats", [3, 0, 0, 1]), item.boxes, (100, 80))
    assert dog == GroundingHit(1, "dog", dog.ratio, True, 0.25)
    assert cat == GroundingHit(3, "cat", cat.ratio, False, 0.5)
    assert (dog.ratio, cat.ratio) == pytest.approx((4, 0))


def test_objects_outside_the_image_are_ignored(item: Annotation) -> None:
    assert find_grounding_hits(caption("a dog", [0, 0]), (Box("dog", 200, 200, 5, 5),), (100, 80)) == ()


def test_means_are_over_all_words_that_name_objects(item: Annotation) -> None:
    other = replace(item, id="b", boxes=item.boxes[1:])
    captions = {"a": caption("a dog sees cats", [3, 0, 0, 1]), "b": caption("cats", [2])}
    found = measure_grounding(captions, [item, other])
    assert (found.nouns, found.entropy) == (3, 0)
    assert found.accuracy == pytest.approx(2 / 3)
    assert found.ratio == pytest.approx((4 + 0 + 2) / 3)
    assert found.baseline == pytest.approx((0.25 + 0.5 + 0.5) / 3)
    assert found.unfounded == 0


def test_scenes_use_their_vocabulary_and_absent_objects_are_counted(tmp_path: Path) -> None:
    Image.new("RGB", (100, 80)).save(tmp_path / "a.png")
    boxes = (Box("small red circle", 0, 0, 50, 40), Box("large blue square", 50, 0, 50, 40))
    item = Annotation("a", str(tmp_path / "a.png"), ("x",), "test", boxes)
    generated = caption("a red circle and a green triangle", [0, 0, 1, 0, 0, 0, 0])
    found = measure_grounding({"a": generated}, [item])
    assert (found.nouns, found.accuracy, found.unfounded) == (1, 0, 0.5)


def test_captions_without_objects(item: Annotation) -> None:
    found = measure_grounding({"a": caption("nothing", [0])}, [item])
    assert (found.nouns, found.ratio, found.accuracy) == (0, 0, 0)
