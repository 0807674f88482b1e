import itertools
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageColor

from seesay.data.annotations import Annotation, Annotations, Box, load_annotations
from seesay.data.synthetic.drawing import Scene, draw_scene
from seesay.data.synthetic.scenes import (
    COLOURS,
    SHAPES,
    make_scenes,
    mentions,
    sample_scene,
    unfounded_mentions,
    vocabulary,
)
from seesay.errors import ConfigError, DataError

SIZE = 96


def annotate(scene: Scene) -> Annotation:
    return Annotation("x", "x.png", scene.captions, None, draw_scene(scene, SIZE)[1])


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [sample_scene(3, "train", index) for index in range(400)]


@pytest.fixture(scope="module")
def annotated(scenes: list[Scene]) -> list[Annotation]:
    return [annotate(scene) for scene in scenes]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Annotations]:
    folder = tmp_path_factory.mktemp("scenes") / "new" / "folder"
    return folder, make_scenes(folder, train=40, val=12, test=12, seed=5, size=64)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_folder_is_read_back_unchanged(made: tuple[Path, Annotations]) -> None:
    folder, annotations = made
    read = load_annotations(folder)
    assert read.items == annotations.items
    assert read.format == annotations.format
    assert not read.problems
    assert [len(read.split(name)) for name in ("train", "val", "test")] == [40, 12, 12]
    with Image.open(annotations[0].image) as image:
        assert (image.size, image.mode) == ((64, 64), "RGB")


def test_same_seed_gives_the_same_bytes(made: tuple[Path, Annotations], tmp_path: Path) -> None:
    make_scenes(tmp_path, train=40, val=12, test=12, seed=5, size=64)
    assert files(tmp_path) == files(made[0])


def test_another_seed_gives_different_scenes(made: tuple[Path, Annotations], tmp_path: Path) -> None:
    other = make_scenes(tmp_path, train=40, val=12, test=12, seed=6, size=64)
    assert not set(files(tmp_path).values()) & set(files(made[0]).values())
    assert all(a.captions != b.captions for a, b in zip(other, made[1], strict=True))


def test_an_image_does_not_depend_on_the_number_of_images(made: tuple[Path, Annotations], tmp_path: Path) -> None:
    make_scenes(tmp_path, train=3, val=0, test=5, seed=5, size=64)
    many, few = files(made[0]), files(tmp_path)
    assert len(few) == 9
    assert all(many[name] == data for name, data in few.items() if name.endswith(".png"))
    assert set((tmp_path / "captions.jsonl").read_text().splitlines()) <= set(
        (made[0] / "captions.jsonl").read_text().splitlines()
    )


def test_no_scene_is_in_two_splits(made: tuple[Path, Annotations]) -> None:
    images = [path.read_bytes() for path in (made[0] / "images").iterdir()]
    assert len(images) == len(set(images)) == 64


def test_scenes_in_a_folder_can_be_replaced(tmp_path: Path) -> None:
    make_scenes(tmp_path, train=2, val=1, test=1, seed=1, size=48)
    second = make_scenes(tmp_path, train=2, val=1, test=1, seed=2, size=48)
    assert load_annotations(tmp_path).items == second.items


def test_captions_are_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_scenes(tmp_path, train=3, val=0, test=0, seed=1, size=48)

    def stop(scene: Scene, size: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("seesay.data.synthetic.scenes.draw_scene", stop)
    with pytest.raises(KeyboardInterrupt):
        make_scenes(tmp_path, train=3, val=0, test=0, seed=2, size=48)
    assert not (tmp_path / "captions.jsonl").exists()  # old captions would not match the new images


def test_captions_of_other_images_are_kept(tmp_path: Path) -> None:
    other_captions = '{"id": "dog", "image": "dog.jpg", "captions": ["a dog"]}\n'
    (tmp_path / "captions.jsonl").write_text(other_captions)
    with pytest.raises(DataError, match="captions of other images; pass another folder"):
        make_scenes(tmp_path, train=1, val=0, test=0)
    assert (tmp_path / "captions.jsonl").read_text() == other_captions
    assert not (tmp_path / "images").exists()


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "scenes").write_text("")
    with pytest.raises(DataError, match="is a file"):
        make_scenes(tmp_path / "scenes", train=1, val=0, test=0)


@pytest.mark.parametrize(
    "arguments", [{"size": 47}, {"train": -1}, {"val": -1}, {"test": -1}, {"train": 0, "val": 0, "test": 0}]
)
def test_invalid_numbers_are_refused(arguments: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"use 48 or more|request at least one"):
        make_scenes(tmp_path, **arguments)
    assert not list(tmp_path.iterdir())


def test_every_scene_has_a_distractor_and_distinct_objects(annotated: list[Annotation]) -> None:
    for annotation in annotated:
        kinds = [(box.label.split()[-1], *(set(box.label.split()) & set(COLOURS))) for box in annotation.boxes]
        assert 3 <= len(kinds) <= 5
        assert len(set(kinds)) == len(kinds)
        (
            (shape, colour),
            *_,
        ) = kinds
        assert any((other[0] == shape) != (other[1] == colour) for other in kinds[2:])


def test_target_and_landmark_are_the_largest_and_second_largest(annotated: list[Annotation]) -> None:
    for annotation in annotated:
        target, landmark, *rest = (max(box.width, box.height) for box in annotation.boxes)
        assert target > landmark > max(rest)


def test_boxes_are_small_disjoint_and_inside_the_image(annotated: list[Annotation]) -> None:
    boxes = [box for annotation in annotated for box in annotation.boxes]
    assert np.median([box.width * box.height for box in boxes]) < 0.15 * SIZE**2
    assert all(box.width * box.height < 0.3 * SIZE**2 for box in boxes)
    for box in boxes:
        assert min(box.x, box.y) >= 0
        assert max(box.x + box.width, box.y + box.height) <= SIZE
    for annotation in annotated:
        for a, b in itertools.combinations(annotation.boxes, 2):
            assert gap(a, b) >= 0


def gap(a: Box, b: Box) -> float:
    """Returns the distance of two boxes in pixels, the larger of both axes; negative if they overlap."""
    return max(b.x - a.x - a.width, a.x - b.x - b.width, b.y - a.y - a.height, a.y - b.y - b.height)


@pytest.mark.parametrize("size", [48, 96, 131, 224])
def test_boxes_tightly_enclose_the_pixels_drawn(scenes: list[Scene], size: int) -> None:
    for scene in scenes[:25]:
        empty = np.asarray(draw_scene(replace(scene, shapes=()), size)[0]).astype(int)
        for shape, box in zip(scene.shapes, draw_scene(scene, size)[1], strict=True):
            image, _ = draw_scene(replace(scene, shapes=(shape,)), size)
            rows, columns = np.nonzero(np.abs(np.asarray(image) - empty).max(axis=2) > 0)
            drawn = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            expected = (box.x, box.y, box.x + box.width, box.y + box.height)
            # An edge pixel with a coverage of a few per cent may round to the background's value.
            assert np.abs(np.subtract(drawn, expected)).max() <= 1
            assert all(np.subtract(drawn, expected)[:2] >= 0)
            assert all(np.subtract(drawn, expected)[2:] <= 0)


def test_an_image_contains_all_of_its_shapes_and_nothing_else(scenes: list[Scene]) -> None:
    for scene in scenes[:50]:
        image, boxes = draw_scene(scene, SIZE)
        difference = np.abs(
            np.asarray(image).astype(int) - np.asarray(draw_scene(replace(scene, shapes=()), SIZE)[0])
        ).max(axis=2)
        for box in boxes:
            inside = difference[int(box.y) : int(box.y + box.height), int(box.x) : int(box.x + box.width)]
            assert (inside > 40).mean() > 0.15
            inside[:] = 0
        assert not difference.any()


def test_colours_are_distinguishable(scenes: list[Scene]) -> None:
    tints: dict[str, list[tuple[int, int, int]]] = {}
    for shape in (shape for scene in scenes for shape in scene.shapes):
        tints.setdefault(shape.colour, []).append(shape.tint)
    assert set(tints) == set(COLOURS)
    for one, other in itertools.combinations(tints, 2):
        apart = np.array(tints[one])[:, None] - np.array(tints[other])[None]
        assert np.linalg.norm(apart, axis=2).min() > 40
    for name, found in tints.items():  # the names match the standard colours
        nearest = min(COLOURS, key=lambda c: float(np.abs(np.subtract(ImageColor.getrgb(c), found[0])).sum()))
        assert nearest == name


def test_textures_are_visible(scenes: list[Scene]) -> None:
    for scene in scenes[:100]:
        image, boxes = draw_scene(scene, SIZE)
        for shape, box in zip(scene.shapes[:2], boxes, strict=False):
            part = (box.x, box.y, box.x + box.width, box.y + box.height)
            pixels = np.asarray(image.crop(part)).reshape(-1, 3).astype(int)
            plain = (np.abs(pixels - shape.tint).max(axis=1) <= 2).mean()
            light = (pixels.min(axis=1) > 242).mean()  # lighter than the background at the corners
            if shape.texture:
                assert plain < 0.62
            else:
                assert light < 0.02
                assert plain > 0.2


def test_five_distinct_captions_of_known_words(annotated: list[Annotation]) -> None:
    words = set()
    for annotation in annotated:
        assert len(set(annotation.captions)) == 5
        words |= {word for caption in annotation.captions for word in caption.split()}
    assert words == vocabulary()
    assert all(re.fullmatch("[a-z]+", word) for word in words)


def test_no_word_after_an_article_starts_with_a_vowel(annotated: list[Annotation]) -> None:
    captions = " . ".join(caption for annotation in annotated for caption in annotation.captions)
    assert not re.search(r"\ba [aeiou]", captions)


def test_every_noun_of_a_caption_has_its_box(annotated: list[Annotation]) -> None:
    for annotation in annotated:
        for caption in annotation.captions:
            words = caption.split()
            nouns = [index for index, word in enumerate(words) if word in SHAPES]
            found = mentions(caption, annotation)
            assert [index for index, _ in found] == nouns
            assert len(nouns) == 2
            assert {box for _, box in found} == set(annotation.boxes[:2])
            for index, box in found:
                assert words[index] == box.label.split()[-1]
            assert not unfounded_mentions(caption, annotation)


SIDES = {
    "left": (-1, 0),
    "right": (1, 0),
    "above": (0, -1),
    "below": (0, 1),
}


def test_relations_are_true(annotated: list[Annotation]) -> None:
    found = set()
    for annotation in annotated:
        for caption in annotation.captions:
            (_, first), (end, second) = mentions(caption, annotation)
            words = caption.split()
            place = re.search(r" (in|at|on) the (top|bottom|left|right|middle)( left| right)?( corner)?", caption)
            rest = caption.replace(place.group(), "") if place else caption
            side = next(word for word in rest.split() if word in SIDES)
            if rest.split()[-1] in ("it", "left", "right") and words[end + 1 :]:  # "... with a star on its left"
                first, second = second, first
            right, down = SIDES[side]
            assert right * (first.x - second.x) >= abs(right) * (first.width if right < 0 else second.width)
            assert down * (first.y - second.y) >= abs(down) * (first.height if down < 0 else second.height)
            found.add(side)
    assert found == set(SIDES)


def test_places_are_true(annotated: list[Annotation]) -> None:
    found = set()
    for annotation in annotated:
        target = annotation.boxes[0]
        x, y = (target.x + target.width / 2) / SIZE, (target.y + target.height / 2) / SIZE
        column = "left" if x < 0.4 else "right" if x > 0.6 else ""
        row = "top" if y < 0.4 else "bottom" if y > 0.6 else ""
        for caption in annotation.captions:
            place = re.search(r"\b(?:in|at|on) the ((?:top|bottom|left|right|middle)(?: left| right)?)", caption)
            if place:
                assert place.group(1) == (f"{row} {column}".strip() or "middle")
                found.add(place.group(1))
    assert len(found) == 9


def test_captions_do_not_match_other_images(annotated: list[Annotation]) -> None:
    named = fitting = 0
    for annotation, other in itertools.pairwise(annotated):
        for caption in annotation.captions:
            named += 2
            fitting += 2 - len(unfounded_mentions(caption, other))
    assert fitting / named < 0.1


def image_of(*labels: str) -> Annotation:
    return Annotation("x", "x.png", ("x",), None, tuple(Box(label, k, 0, 1, 1) for k, label in enumerate(labels)))


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a red circle above a blue striped square", [(2, 0), (7, 2)]),
        ("A Red Circle, above a blue striped square.", [(2, 0), (7, 2)]),
        ("a square", [(1, 2)]),  # unique without adjectives
        ("a circle", []),  # ambiguous
        ("a large circle", [(2, 0)]),
        ("a green circle", [(2, 1)]),
        ("a small red circle", []),  # not in the image
        ("a large red striped circle", []),  # not striped
        ("a red ring", []),
        ("red circle green circle", [(1, 0), (3, 1)]),  # adjectives of a noun end at the previous noun
        ("a red and a circle", []),  # and at any other word
        ("red a square", [(2, 2)]),
        ("", []),
    ],
)
def test_mentions_of_arbitrary_captions(caption: str, expected: list[tuple[int, int]]) -> None:
    annotation = image_of("large red circle", "green circle", "small blue striped square")
    assert mentions(caption, annotation) == [(word, annotation.boxes[box]) for word, box in expected]


def test_unfounded_mentions_are_returned_with_their_words() -> None:
    annotation = image_of("large red circle", "green circle")
    assert unfounded_mentions("a circle above a small red circle", annotation) == [(6, "small red circle")]
    assert unfounded_mentions("a star is over a blue cross", annotation) == [(1, "star"), (6, "blue cross")]
    assert unfounded_mentions("there is nothing", annotation) == []


def bleu4(hypotheses: list[str], references: list[tuple[str, ...]]) -> float:
    from pycocoevalcap.bleu.bleu import Bleu

    candidates = {index: [text] for index, text in enumerate(hypotheses)}
    scores, _ = Bleu(4).compute_score(dict(enumerate(map(list, references))), candidates, verbose=0)
    return float(scores[3])


def test_captions_agree_with_their_scene_and_not_with_others(scenes: list[Scene]) -> None:
    hypotheses = [scene.captions[0] for scene in scenes]
    references = [scene.captions[1:] for scene in scenes]
    assert bleu4(hypotheses, references) > 0.6
    assert bleu4(hypotheses[1:] + hypotheses[:1], references) < 0.25
