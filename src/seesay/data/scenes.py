"""The built-in data set: drawn scenes of shapes, each with five true captions and the boxes of its objects.

A scene holds three to five objects of different colour and shape. The captions speak of the two largest, the
*target* and the *landmark*, and say how they lie to each other, in five different sentences; smaller
*distractors* repeat the target's or the landmark's shape or colour, so that a captioner has to bind words to
places. Everything follows from a seed, and a picture does not depend on how many others are made with it.
"""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from seesay.data.annotations import Annotation, Annotations, Box, write_annotations
from seesay.errors import ConfigError, DataError

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
SIZES = {"large": 0.46, "": 0.34, "small": 0.25, "tiny": 0.17}  # side of an object over the picture's
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
_MARGIN = 0.02  # least distance of objects from each other and from the frame, over the picture's side
_SUPERSAMPLING = 4
SMALLEST_SIZE = 48  # below, textures and tiny shapes cannot be told apart


@dataclass(frozen=True)
class Thing:
    """One object of a scene; centre and side are fractions of the picture's side, angles are radians."""

    shape: str
    colour: str
    texture: str
    size: str
    x: float
    y: float
    side: float
    angle: float
    grain: float  # direction of stripes and rows of dots
    tint: tuple[int, int, int]

    @property
    def label(self) -> str:
        """Returns the full description, which no other object of the scene answers to; the noun is last."""
        return _join(self.size, self.colour, self.texture, self.shape)


@dataclass(frozen=True)
class Scene:
    """What a picture shows: the target, the landmark, then the distractors."""

    things: tuple[Thing, ...]
    captions: tuple[str, ...]
    background: int  # seed of the background


def make_scenes(
    folder: str | Path, train: int = 3000, val: int = 200, test: int = 200, seed: int = 0, size: int = 96
) -> Annotations:
    """Draws a data set of scenes into a folder and returns its annotations.

    Writes `images/*.png`, and at the end `captions.jsonl`; scenes made there before are replaced.

    Args:
        folder: where to; made where absent.
        train: pictures of the train split; `val` and `test` likewise.
        val: pictures of the val split.
        test: pictures of the test split.
        seed: the same seed gives the same bytes.
        size: side of the square pictures in pixels.

    Raises:
        ConfigError: for numbers that cannot be drawn.
        DataError: for a folder that holds captions of other pictures.
    """
    counts = {"train": train, "val": val, "test": test}
    if size < SMALLEST_SIZE:
        raise ConfigError(f"scenes of {size} pixels are too small to tell shapes apart; use {SMALLEST_SIZE} or more")
    if min(counts.values()) < 0 or not any(counts.values()):
        raise ConfigError(f"{train} train, {val} val and {test} test scenes cannot be made; ask for at least one")
    folder = Path(folder)
    captions = folder / "captions.jsonl"
    _clear_captions(captions)
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    items = []
    for split, count in counts.items():
        for index in range(count):
            name = f"scene-{split}-{index:05d}"
            scene = sample_scene(seed, split, index)
            picture, boxes = draw_scene(scene, size)
            picture.save(images / f"{name}.png", compress_level=2)
            items.append(Annotation(name, str(images / f"{name}.png"), scene.captions, split, boxes))
    annotations = Annotations(tuple(items), source=str(folder), format="jsonl")
    write_annotations(annotations, captions)
    return annotations


def _clear_captions(path: Path) -> None:
    """Removes the captions of scenes made before, which would not fit pictures that are drawn anew."""
    if path.parent.exists() and not path.parent.is_dir():
        raise DataError(f"{path.parent} is a file; name a folder for the scenes")
    if not path.exists():
        return
    with path.open("rb") as file:
        ours = file.readline().startswith(b'{"id": "scene-')
    if not ours:
        raise DataError(f"{path} holds captions that are not of scenes; name another folder for the scenes")
    path.unlink()


def sample_scene(seed: int, split: str, index: int) -> Scene:
    """Returns the scene that belongs to a seed, a split and a number, with its five captions."""
    rng = random.Random(f"seesay scene {seed} {split} {index}")
    while True:
        things = _sample_things(rng)
        if things is not None:
            return Scene(things, _write_captions(things[0], things[1], rng), rng.getrandbits(32))


def _sample_things(rng: random.Random) -> tuple[Thing, ...] | None:
    """Returns the objects of a scene, or None where the places drawn leave no room."""
    target_size, landmark_size, rest = rng.choice(_ROLES)
    kinds = _sample_kinds(rng, 3 + rng.randrange(3))
    sizes = [target_size, landmark_size] + [rest] * (len(kinds) - 2)
    things: list[Thing] = []
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
        things.append(Thing(shape, colour, texture, size, x, y, side, angle, grain, (red, green, blue)))
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


def _fits(x: float, y: float, side: float, things: list[Thing]) -> bool:
    """Tells whether a place is free, and for target and landmark one that words describe without doubt."""
    if any(max(abs(x - t.x), abs(y - t.y)) < (side + t.side) / 2 + _MARGIN for t in things):
        return False
    if not things:
        return all(any(low <= centre <= high for low, high in _ZONES) for centre in (x, y))
    if len(things) == 1:
        across, along = sorted((abs(x - things[0].x), abs(y - things[0].y)))
        return across <= 0.6 * along
    return True


def _relation(a: Thing, b: Thing) -> str:
    """Returns how a lies to b, along the axis on which they are further apart."""
    if abs(a.x - b.x) > abs(a.y - b.y):
        return "left" if a.x < b.x else "right"
    return "above" if a.y < b.y else "below"


def _place(x: float, y: float) -> str:
    """Returns where in the picture a centre lies."""
    column, row = (next(i for i, (_, high) in enumerate(_ZONES) if centre <= high) for centre in (x, y))
    horizontal, vertical = ("left", "", "right")[column], ("top", "", "bottom")[row]
    if horizontal and vertical:
        return f"in the {vertical} {horizontal} corner"
    if vertical:
        return f"at the {vertical}"
    return f"on the {horizontal}" if horizontal else "in the middle"


def _write_captions(a: Thing, b: Thing, rng: random.Random) -> tuple[str, ...]:
    """Returns five different sentences about target and landmark."""
    (ab, _), (ba, its) = _RELATIONS[_relation(a, b)], _RELATIONS[_relation(b, a)]
    # Sorting by u ** (1 / weight) draws without replacement, each with a chance that grows with its weight.
    order = sorted(_TEMPLATES, key=lambda template: -(rng.random() ** (1 / _TEMPLATES[template])))
    words = {"a": _describe(a), "b": _describe(b), "ab": ab, "ba": ba, "its": its, "place": _place(a.x, a.y)}
    return tuple(template.format(**words) for template in order[:5])


def _describe(thing: Thing) -> str:
    """Returns a noun phrase with all that sets the object apart."""
    return _join("a", thing.size, thing.colour, thing.texture, thing.shape)  # no size or colour wants "an"


def _join(*words: str) -> str:
    return " ".join(word for word in words if word)


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
    the picture; a noun that fits none or several has no entry. Words are those of `caption.split()`.
    """
    found = ((index, _matches(words, annotation)) for index, words in _noun_phrases(caption))
    return [(index, boxes[0]) for index, boxes in found if len(boxes) == 1]


def unfounded_mentions(caption: str, annotation: Annotation) -> list[tuple[int, str]]:
    """Returns word index and phrase of every object that a caption names and the picture does not show."""
    found = _noun_phrases(caption)
    return [(index, " ".join(words)) for index, words in found if not _matches(words, annotation)]


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


def draw_scene(scene: Scene, size: int) -> tuple[Image.Image, tuple[Box, ...]]:
    """Returns the picture of a scene, `size` pixels square, and the box of each of its things in order."""
    canvas = _background(scene.background, size)
    boxes = tuple(_draw_thing(canvas, thing) for thing in scene.things)
    return Image.fromarray(np.rint(canvas).astype(np.uint8)), boxes


def _background(seed: int, size: int) -> NDArray[np.float32]:
    """Returns a pale paper of one tone with a slant of light and soft clouds, (size, size, 3) in 0..255."""
    rng = np.random.default_rng(seed)
    tone = rng.uniform(200, 226) + rng.uniform(-9, 9, 3)
    slant = rng.uniform(-9, 9, 2)
    clouds = Image.fromarray(rng.normal(0, 4, (7, 7)).astype(np.float32)).resize((size, size), Image.Resampling.BICUBIC)
    down, right = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    light = slant[0] * right + slant[1] * down + np.asarray(clouds)
    return np.asarray(np.clip(tone + light[..., None], 0, 255), dtype=np.float32)


def _draw_thing(canvas: NDArray[np.float32], thing: Thing) -> Box:
    """Paints a thing on a canvas (size, size, 3) and returns the box of the pixels it touches."""
    size = len(canvas)
    side = thing.side * size
    left, top = (math.floor(centre * size - side / 2) for centre in (thing.x, thing.y))
    patch = math.ceil(side) + 1
    centre_x, centre_y = thing.x * size - left, thing.y * size - top
    large = Image.new("L", (patch * _SUPERSAMPLING, patch * _SUPERSAMPLING))
    pen = ImageDraw.Draw(large)
    for fill, outline in zip((255, 0), _outlines(thing.shape, thing.angle), strict=False):
        corners = outline * (side / 2) + (centre_x, centre_y)
        pen.polygon([(x, y) for x, y in (corners * _SUPERSAMPLING).tolist()], fill=fill)
    mask = large.reduce(_SUPERSAMPLING)
    inside = mask.filter(ImageFilter.MinFilter(2 * max(1, round(size / 96)) + 1))
    alpha, inner = (np.asarray(image, dtype=np.float32)[..., None] * np.float32(1 / 255) for image in (mask, inside))
    region = canvas[top : top + patch, left : left + patch]
    height, width, _ = region.shape
    region += (alpha * _paint(thing, inner, side))[:height, :width] - alpha[:height, :width] * region
    x0, y0, x1, y1 = mask.getbbox() or (0, 0, patch, patch)
    return Box(thing.label, left + x0, top + y0, x1 - x0, y1 - y0)


def _paint(thing: Thing, inner: NDArray[np.float32], side: float) -> NDArray[np.float32]:
    """Returns the colours of a thing's surface, (patch, patch, 3): its tint, with light stripes or dots.

    The pattern stays in the inner part, (patch, patch, 1) in 0..1, so that a rim keeps the shape readable.
    """
    tint = np.array(thing.tint, dtype=np.float32)
    patch = len(inner)
    period = max(4.5, side / 5)  # pixels; finer patterns would blur to one tone
    down, right = np.mgrid[0:patch, 0:patch].astype(np.float32) * np.float32(2 * math.pi / period)
    along = math.cos(thing.grain) * right + math.sin(thing.grain) * down
    across = math.cos(thing.grain) * down - math.sin(thing.grain) * right
    if not thing.texture:
        wave = np.full_like(along, -1)
    else:
        wave = np.sin(along) if thing.texture == "striped" else np.sin(along) + np.sin(across) - 0.7
    light = np.clip(0.5 + wave * period / 5, 0, 1)[..., None]  # edges about a pixel wide
    return np.asarray(tint + 0.8 * inner * light * (255 - tint), dtype=np.float32)


def _outlines(shape: str, angle: float) -> list[NDArray[np.float64]]:
    """Returns the outline of a shape, (points, 2), within -1..1 on both axes, and that of its hole if any."""
    turn = np.arange(64) * (2 * math.pi / 64)
    circle = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    if shape == "circle":
        return [circle]
    if shape == "ring":
        return [circle, circle * 0.48]
    if shape == "star":
        points = np.stack([np.sin(turn[:10] * 6.4), -np.cos(turn[:10] * 6.4)], axis=1)
        points[1::2] *= 0.45
    elif shape == "heart":
        rise = sum(part * np.cos((k + 1) * turn) for k, part in enumerate((13, -5, -2, -1)))
        points = np.stack([16 * np.sin(turn) ** 3, -rise], axis=1)
    else:
        corners = {
            "square": [(-1, -1), (1, -1), (1, 1), (-1, 1)],
            "triangle": [(0, -1), (1, 0.8), (-1, 0.8)],
            "cross": [(-0.36, -1), (0.36, -1), (0.36, -0.36), (1, -0.36), (1, 0.36), (0.36, 0.36)],
        }
        points = np.array(corners[shape])
        if shape == "cross":
            points = np.concatenate([points, -points])
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    points = points @ rotation.T
    low, high = points.min(axis=0), points.max(axis=0)
    return [(points - (low + high) / 2) * (2 / (high - low).max())]
