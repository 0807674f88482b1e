"""The built-in data set: rendered scenes of shapes, each with five correct captions and the boxes of its objects.

A scene contains three to five objects of different colour and shape. The five captions describe the two largest, the
*target* and the *landmark*, and their spatial relation. Smaller *distractors* repeat the shape or colour of the target
or the landmark, so that a captioner must associate words with image regions. A seed determines everything; an image
does not depend on the number of images.
"""

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from PIL.PngImagePlugin import PngInfo

from seesay.data.annotations import Annotation, Annotations, Box, write_annotations
from seesay.data.synthetic.drawing import Scene, Shape, draw_scene
from seesay.errors import ConfigError, DataError
from seesay.outputs import PNG_IMAGE, check_file, check_name

SHAPES = ("circle", "square", "triangle", "star", "cross")
COLOURS = {
    "red": (214, 40, 40),
    "yellow": (247, 208, 30),
    "green": (48, 158, 74),
    "blue": (40, 98, 212),
    "purple": (132, 54, 166),
    "black": (40, 40, 46),
}
TEXTURES = ("", "striped", "dotted")  # captions do not mention the texture of a plain object
SIZES = {"large": 0.46, "": 0.34, "small": 0.25, "tiny": 0.17}  # side of an object relative to the image
_ROLES = (  # sizes of target, landmark and distractors: always descending, so that the roles are visible
    ("large", "", "small"),
    ("large", "", "tiny"),
    ("large", "small", "tiny"),
    ("", "small", "tiny"),
)
# Phrases of each relation: in "X ... Y" and in "Y with X ...".
_RELATIONS = {
    "left": ("to the left of", "on its left"),
    "right": ("to the right of", "on its right"),
    "above": ("above", "above it"),
    "below": ("below", "below it"),
}
_TEMPLATES = {  # weight by template; a, b: target, landmark; ab: relation of a to b; ba: of b to a; its: ba, short
    "{a} is {ab} {b}": 4,
    "there is {a} {ab} {b}": 3,
    "{a} {ab} {b}": 3,
    "{a} {place} and {b} {its}": 2,
    "{a} is {place} with {b} {its}": 2,
    "{a} with {b} {its}": 2,
    "{b} is {ba} {a}": 1,
    "{b} {ba} {a} {place}": 1,
}
_ZONES = ((0.0, 0.37), (0.44, 0.56), (0.63, 1.0))  # near, middle, far: the target's centre is inside one of them
_MARGIN = 0.02  # minimum distance between objects and to the border, relative to the image
SMALLEST_SIZE = 48  # pixels; below, textures and tiny shapes are indistinguishable


def make_scenes(
    folder: str | Path, train: int = 3000, val: int = 200, test: int = 200, seed: int = 0, size: int = 96
) -> Annotations:
    """Render a data set of scenes into a folder and return its annotations.

    Writes `images/*.png`, then `captions.jsonl`; existing scenes are replaced.

    Args:
        folder: output folder; created if missing.
        train: number of training images.
        val: number of validation images.
        test: number of test images.
        seed: the same seed gives the same bytes.
        size: side of the square images in pixels.

    Raises:
        ConfigError: invalid numbers of images or size.
        DataError: the folder contains captions of other images.
    """
    counts = {"train": train, "val": val, "test": test}
    if size < SMALLEST_SIZE:
        raise ConfigError(f"scenes of {size} pixels are too small to distinguish shapes; use {SMALLEST_SIZE} or more")
    if min(counts.values()) < 0 or not any(counts.values()):
        raise ConfigError(f"cannot make {train} train, {val} val and {test} test scenes; request at least one")
    folder = Path(folder)
    names = [f"scene-{split}-{index:05d}" for split, count in counts.items() for index in range(count)]
    captions, images = folder / "captions.jsonl", folder / "images"
    _refuse_other_files(folder, captions, [images / f"{name}.png" for name in names])
    captions.unlink(missing_ok=True)  # captions of earlier scenes would not match the new images
    images.mkdir(parents=True, exist_ok=True)
    items, metadata = [], PngInfo()
    metadata.add_text("Software", "seesay")
    for name in names:
        _, split, index = name.split("-")
        scene = sample_scene(seed, split, int(index))
        image, boxes = draw_scene(scene, size)
        image.save(images / f"{name}.png", compress_level=2, pnginfo=metadata)
        items.append(Annotation(name, str(images / f"{name}.png"), scene.captions, split, boxes))
    annotations = Annotations(tuple(items), source=str(folder), format="jsonl")
    write_annotations(annotations, captions)
    return annotations


def _refuse_other_files(folder: Path, captions: Path, images: Sequence[Path]) -> None:
    """Raise DataError if the scenes would replace other files."""
    check_name(folder, "FOLDER")
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file; pass a folder for the scenes")
    if captions.exists():
        with captions.open("rb") as file:
            if not file.readline().startswith(b'{"id": "scene-'):
                raise DataError(f"{captions} contains captions of other images; pass another folder for the scenes")
    for image in images if (folder / "images").exists() else ():
        check_file(image, PNG_IMAGE, "FOLDER")


def sample_scene(seed: int, split: str, index: int) -> Scene:
    """Return the scene of a seed, split and index, with its five captions."""
    rng = random.Random(f"seesay scene {seed} {split} {index}")
    while True:
        shapes = _sample_shapes(rng)
        if shapes is not None:
            return Scene(shapes, _write_captions(shapes[0], shapes[1], rng), rng.getrandbits(32))


def _sample_shapes(rng: random.Random) -> tuple[Shape, ...] | None:
    """Return the shapes of a scene, or None if the sampled positions do not fit."""
    target_size, landmark_size, rest = rng.choice(_ROLES)
    kinds = _sample_kinds(rng, 3 + rng.randrange(3))
    sizes = [target_size, landmark_size] + [rest] * (len(kinds) - 2)
    shapes: list[Shape] = []
    for size, (shape, colour) in zip(sizes, kinds, strict=True):
        side = SIZES[size] * rng.uniform(0.95, 1.05)
        for _ in range(40):
            x, y = (rng.uniform(side / 2 + _MARGIN, 1 - side / 2 - _MARGIN) for _ in range(2))
            if _fits(x, y, side, shapes):
                break
        else:
            return None
        texture = rng.choice(TEXTURES)
        red, green, blue = (min(255, max(0, part + rng.randint(-10, 10))) for part in COLOURS[colour])
        angle, grain = rng.uniform(-0.16, 0.16), rng.uniform(0, math.pi)
        shapes.append(Shape(shape, colour, texture, size, x, y, side, angle, grain, (red, green, blue)))
    return tuple(shapes)


def _sample_kinds(rng: random.Random, count: int) -> list[tuple[str, str]]:
    """Return distinct (shape, colour) pairs; the third and fourth share a property with the first and second."""
    kinds: list[tuple[str, str]] = []
    while len(kinds) < count:
        shape, colour = rng.choice(SHAPES), rng.choice(tuple(COLOURS))
        if len(kinds) in (2, 3):
            like = kinds[len(kinds) - 2]
            shape, colour = rng.choice(((like[0], colour), (shape, like[1])))
        if (shape, colour) not in kinds:
            kinds.append((shape, colour))
    return kinds


def _fits(x: float, y: float, side: float, shapes: list[Shape]) -> bool:
    """Return whether a position is free and, for target and landmark, unambiguous in words."""
    if any(max(abs(x - t.x), abs(y - t.y)) < (side + t.side) / 2 + _MARGIN for t in shapes):
        return False
    if not shapes:
        return all(any(low <= centre <= high for low, high in _ZONES) for centre in (x, y))
    if len(shapes) == 1:
        across, along = sorted((abs(x - shapes[0].x), abs(y - shapes[0].y)))
        return across <= 0.6 * along
    return True


def _relation(a: Shape, b: Shape) -> str:
    """Return the relation of a to b along the axis of their larger distance."""
    if abs(a.x - b.x) > abs(a.y - b.y):
        return "left" if a.x < b.x else "right"
    return "above" if a.y < b.y else "below"


def _place(x: float, y: float) -> str:
    """Return the phrase for a position in the image."""
    column, row = (next(i for i, (_, high) in enumerate(_ZONES) if centre <= high) for centre in (x, y))
    horizontal, vertical = ("left", "", "right")[column], ("top", "", "bottom")[row]
    if horizontal and vertical:
        return f"in the {vertical} {horizontal} corner"
    if vertical:
        return f"at the {vertical}"
    return f"on the {horizontal}" if horizontal else "in the middle"


def _write_captions(a: Shape, b: Shape, rng: random.Random) -> tuple[str, ...]:
    """Return five distinct captions of target and landmark."""
    (ab, _), (ba, its) = _RELATIONS[_relation(a, b)], _RELATIONS[_relation(b, a)]
    # Sorting by u ** (1 / weight) is weighted sampling without replacement.
    order = sorted(_TEMPLATES, key=lambda template: -(rng.random() ** (1 / _TEMPLATES[template])))
    words = {"a": _describe(a), "b": _describe(b), "ab": ab, "ba": ba, "its": its, "place": _place(a.x, a.y)}
    return tuple(template.format(**words) for template in order[:5])


def _describe(shape: Shape) -> str:
    return f"a {shape.label}"  # no size or colour starts with a vowel


def vocabulary() -> frozenset[str]:
    """Return all words that captions of scenes can contain."""
    places = (_place(x, y) for x in (0.3, 0.5, 0.7) for y in (0.3, 0.5, 0.7))
    relations = (phrase for both in _RELATIONS.values() for phrase in both)
    frames = (word for template in _TEMPLATES for word in template.split() if not word.startswith("{"))
    described_sizes = {size for roles in _ROLES for size in roles[:2] if size}
    phrases = (*SHAPES, *COLOURS, *TEXTURES, *described_sizes, *places, *relations, *frames, "a")
    return frozenset(word for phrase in phrases for word in phrase.split())


def mentions(caption: str, annotation: Annotation) -> list[tuple[int, Box]]:
    """Return the word index of each noun in a caption with the box of the object it refers to.

    A noun refers to an object if its adjectives match that object and no other of the image; a noun that matches none
    or several is skipped. Indices are those of `caption.split()`.
    """
    found = ((index, _matches(words, annotation)) for index, words in _noun_phrases(caption))
    return [(index, boxes[0]) for index, boxes in found if len(boxes) == 1]


def unfounded_mentions(caption: str, annotation: Annotation) -> list[tuple[int, str]]:
    """Return word index and phrase of each object that a caption mentions but the image does not contain."""
    found = _noun_phrases(caption)
    return [(index, " ".join(words)) for index, words in found if not _matches(words, annotation)]


def names_only_scenes(items: Iterable[Annotation]) -> bool:
    """Return whether all boxes have labels of scenes: adjectives, then a shape."""
    return all(box.label.split()[-1:] and box.label.split()[-1] in SHAPES for item in items for box in item.boxes)


def _noun_phrases(caption: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the word index of each shape and the words of its phrase (adjectives and shape)."""
    adjectives = {*COLOURS, *TEXTURES, *SIZES}
    start = 0
    for index, word in enumerate(words := [word.strip(".,;:!?").lower() for word in caption.split()]):
        if word in SHAPES:
            yield index, words[start : index + 1]
        if word not in adjectives:
            start = index + 1


def _matches(words: list[str], annotation: Annotation) -> list[Box]:
    return [box for box in annotation.boxes if set(words) <= set(box.label.split())]
