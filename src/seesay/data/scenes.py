"""The built-in data set: drawn scenes of shapes, each with five true captions and the boxes of its objects.

A scene holds three to five objects of different colour and shape. The captions speak of the two largest, the
*target* and the *landmark*, and say how they lie to each other, in five different sentences; smaller
*distractors* repeat the target's or the landmark's shape or colour, so that a captioner has to bind words to
places. Everything follows from a seed, and an image does not depend on how many others are made with it.
"""

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from PIL.PngImagePlugin import PngInfo

from seesay.data.annotations import Annotation, Annotations, Box, write_annotations
from seesay.data.scene_drawing import Scene, Shape, draw_scene
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
TEXTURES = ("", "striped", "dotted")  # a plain object's texture is not spoken of
SIZES = {"large": 0.46, "": 0.34, "small": 0.25, "tiny": 0.17}  # side of an object over the image's
_ROLES = (  # sizes of target, landmark and distractors: always descending, so who is who can be seen
    ("large", "", "small"),
    ("large", "", "tiny"),
    ("large", "small", "tiny"),
    ("", "small", "tiny"),
)
# A relation: how "X ... Y" is said, and how "Y with X ..." is.
_RELATIONS = {
    "left": ("to the left of", "on its left"),
    "right": ("to the right of", "on its right"),
    "above": ("above", "above it"),
    "below": ("below", "below it"),
}
_TEMPLATES = {  # a and b: target and landmark; ab: how a lies to b; ba: how b lies to a; its: the same, short
    "{a} is {ab} {b}": 4,
    "there is {a} {ab} {b}": 3,
    "{a} {ab} {b}": 3,
    "{a} {place} and {b} {its}": 2,
    "{a} is {place} with {b} {its}": 2,
    "{a} with {b} {its}": 2,
    "{b} is {ba} {a}": 1,
    "{b} {ba} {a} {place}": 1,
}
_ZONES = ((0.0, 0.37), (0.44, 0.56), (0.63, 1.0))  # near, middle, far: a target's centre lies clearly in one
_MARGIN = 0.02  # least distance of objects from each other and from the frame, over the image's side
SMALLEST_SIZE = 48  # below, textures and tiny shapes cannot be told apart


def make_scenes(
    folder: str | Path, train: int = 3000, val: int = 200, test: int = 200, seed: int = 0, size: int = 96
) -> Annotations:
    """Draws a data set of scenes into a folder and returns its annotations.

    Writes `images/*.png`, and at the end `captions.jsonl`; scenes made there before are replaced.

    Args:
        folder: where to; made where absent.
        train: images of the train split; `val` and `test` likewise.
        val: images of the val split.
        test: images of the test split.
        seed: the same seed gives the same bytes.
        size: side of the square images in pixels.

    Raises:
        ConfigError: for numbers that cannot be drawn.
        DataError: for a folder that holds captions of other images.
    """
    counts = {"train": train, "val": val, "test": test}
    if size < SMALLEST_SIZE:
        raise ConfigError(f"scenes of {size} pixels are too small to tell shapes apart; use {SMALLEST_SIZE} or more")
    if min(counts.values()) < 0 or not any(counts.values()):
        raise ConfigError(f"{train} train, {val} val and {test} test scenes cannot be made; ask for at least one")
    folder = Path(folder)
    names = [f"scene-{split}-{index:05d}" for split, count in counts.items() for index in range(count)]
    captions, images = folder / "captions.jsonl", folder / "images"
    _refuse_other_files(folder, captions, [images / f"{name}.png" for name in names])
    captions.unlink(missing_ok=True)  # those of scenes made before, which would not fit images that are drawn anew
    images.mkdir(parents=True, exist_ok=True)
    items, about = [], PngInfo()
    about.add_text("Software", "seesay")
    for name in names:
        _, split, index = name.split("-")
        scene = sample_scene(seed, split, int(index))
        image, boxes = draw_scene(scene, size)
        image.save(images / f"{name}.png", compress_level=2, pnginfo=about)
        items.append(Annotation(name, str(images / f"{name}.png"), scene.captions, split, boxes))
    annotations = Annotations(tuple(items), source=str(folder), format="jsonl")
    write_annotations(annotations, captions)
    return annotations


def _refuse_other_files(folder: Path, captions: Path, images: Sequence[Path]) -> None:
    """Refuses a folder in which scenes would replace other files."""
    check_name(folder, "FOLDER")
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file; name a folder for the scenes")
    if captions.exists():
        with captions.open("rb") as file:
            if not file.readline().startswith(b'{"id": "scene-'):
                raise DataError(f"{captions} holds captions that are not of scenes; name another folder for the scenes")
    for image in images if (folder / "images").exists() else ():
        check_file(image, PNG_IMAGE, "FOLDER")


def sample_scene(seed: int, split: str, index: int) -> Scene:
    """Returns the scene that belongs to a seed, a split and a number, with its five captions."""
    rng = random.Random(f"seesay scene {seed} {split} {index}")
    while True:
        things = _sample_shapes(rng)
        if things is not None:
            return Scene(things, _write_captions(things[0], things[1], rng), rng.getrandbits(32))


def _sample_shapes(rng: random.Random) -> tuple[Shape, ...] | None:
    """Returns the objects of a scene, or None where the places drawn leave no room."""
    target_size, landmark_size, rest = rng.choice(_ROLES)
    kinds = _sample_kinds(rng, 3 + rng.randrange(3))
    sizes = [target_size, landmark_size] + [rest] * (len(kinds) - 2)
    things: list[Shape] = []
    for size, (shape, colour) in zip(sizes, kinds, strict=True):
        side = SIZES[size] * rng.uniform(0.95, 1.05)
        for _ in range(40):
            x, y = (rng.uniform(side / 2 + _MARGIN, 1 - side / 2 - _MARGIN) for _ in range(2))
            if _fits(x, y, side, things):
                break
        else:
            return None
        texture = rng.choice(TEXTURES)
        red, green, blue = (min(255, max(0, part + rng.randint(-10, 10))) for part in COLOURS[colour])
        angle, grain = rng.uniform(-0.16, 0.16), rng.uniform(0, math.pi)
        things.append(Shape(shape, colour, texture, size, x, y, side, angle, grain, (red, green, blue)))
    return tuple(things)


def _sample_kinds(rng: random.Random, count: int) -> list[tuple[str, str]]:
    """Returns different (shape, colour) pairs; third and fourth share with first and second."""
    kinds: list[tuple[str, str]] = []
    while len(kinds) < count:
        shape, colour = rng.choice(SHAPES), rng.choice(tuple(COLOURS))
        if len(kinds) in (2, 3):
            like = kinds[len(kinds) - 2]
            shape, colour = rng.choice(((like[0], colour), (shape, like[1])))
        if (shape, colour) not in kinds:
            kinds.append((shape, colour))
    return kinds


def _fits(x: float, y: float, side: float, things: list[Shape]) -> bool:
    """Tells whether a place is free, and for target and landmark one that words describe without doubt."""
    if any(max(abs(x - t.x), abs(y - t.y)) < (side + t.side) / 2 + _MARGIN for t in things):
        return False
    if not things:
        return all(any(low <= centre <= high for low, high in _ZONES) for centre in (x, y))
    if len(things) == 1:
        across, along = sorted((abs(x - things[0].x), abs(y - things[0].y)))
        return across <= 0.6 * along
    return True


def _relation(a: Shape, b: Shape) -> str:
    """Returns how a lies to b, along the axis on which they are further apart."""
    if abs(a.x - b.x) > abs(a.y - b.y):
        return "left" if a.x < b.x else "right"
    return "above" if a.y < b.y else "below"


def _place(x: float, y: float) -> str:
    """Returns where in the image a centre lies."""
    column, row = (next(i for i, (_, high) in enumerate(_ZONES) if centre <= high) for centre in (x, y))
    horizontal, vertical = ("left", "", "right")[column], ("top", "", "bottom")[row]
    if horizontal and vertical:
        return f"in the {vertical} {horizontal} corner"
    if vertical:
        return f"at the {vertical}"
    return f"on the {horizontal}" if horizontal else "in the middle"


def _write_captions(a: Shape, b: Shape, rng: random.Random) -> tuple[str, ...]:
    """Returns five different sentences about target and landmark."""
    (ab, _), (ba, its) = _RELATIONS[_relation(a, b)], _RELATIONS[_relation(b, a)]
    # Sorting by u ** (1 / weight) draws without replacement, each with a chance that grows with its weight.
    order = sorted(_TEMPLATES, key=lambda template: -(rng.random() ** (1 / _TEMPLATES[template])))
    words = {"a": _describe(a), "b": _describe(b), "ab": ab, "ba": ba, "its": its, "place": _place(a.x, a.y)}
    return tuple(template.format(**words) for template in order[:5])


def _describe(thing: Shape) -> str:
    """Returns a noun phrase with all that sets the object apart."""
    return f"a {thing.label}"  # no size or colour wants "an"


def vocabulary() -> frozenset[str]:
    """Returns every word that captions of scenes can hold."""
    places = (_place(x, y) for x in (0.3, 0.5, 0.7) for y in (0.3, 0.5, 0.7))
    relations = (phrase for both in _RELATIONS.values() for phrase in both)
    frames = (word for template in _TEMPLATES for word in template.split() if not word.startswith("{"))
    said_sizes = {size for roles in _ROLES for size in roles[:2] if size}
    phrases = (*SHAPES, *COLOURS, *TEXTURES, *said_sizes, *places, *relations, *frames, "a")
    return frozenset(word for phrase in phrases for word in phrase.split())


def mentions(caption: str, annotation: Annotation) -> list[tuple[int, Box]]:
    """Returns the word index of every noun of a caption with the box of the object it speaks of.

    A noun speaks of an object if the adjectives right before it hold of that object and of no other one of
    the image; a noun that fits none or several has no entry. Words are those of `caption.split()`.
    """
    found = ((index, _matches(words, annotation)) for index, words in _noun_phrases(caption))
    return [(index, boxes[0]) for index, boxes in found if len(boxes) == 1]


def unfounded_mentions(caption: str, annotation: Annotation) -> list[tuple[int, str]]:
    """Returns word index and phrase of every object that a caption names and the image does not show."""
    found = _noun_phrases(caption)
    return [(index, " ".join(words)) for index, words in found if not _matches(words, annotation)]


def names_only_scenes(items: Iterable[Annotation]) -> bool:
    """Returns whether every box is labelled as those of scenes are: adjectives, then a shape."""
    return all(box.label.split()[-1:] and box.label.split()[-1] in SHAPES for item in items for box in item.boxes)


def _noun_phrases(caption: str) -> Iterator[tuple[int, list[str]]]:
    """Yields each shape's word index and the words of its phrase: its adjectives and itself."""
    adjectives = {*COLOURS, *TEXTURES, *SIZES}
    start = 0
    for index, word in enumerate(words := [word.strip(".,;:!?").lower() for word in caption.split()]):
        if word in SHAPES:
            yield index, words[start : index + 1]
        if word not in adjectives:
            start = index + 1


def _matches(words: list[str], annotation: Annotation) -> list[Box]:
    return [box for box in annotation.boxes if set(words) <= set(box.label.split())]
