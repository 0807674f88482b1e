"""Scenes of geometric shapes and how their images are rendered."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from seesay.data.annotations import Box

_SUPERSAMPLING = 4


@dataclass(frozen=True)
class Shape:
    """One object of a scene; centre and side are fractions of the image's side, angles are radians."""

    shape: str
    colour: str
    texture: str
    size: str
    x: float
    y: float
    side: float
    angle: float
    grain: float  # direction of stripes or rows of dots, radians
    tint: tuple[int, int, int]

    @property
    def label(self) -> str:
        """Full description, unique within the scene; the noun is last."""
        return " ".join(filter(None, (self.size, self.colour, self.texture, self.shape)))


@dataclass(frozen=True)
class Scene:
    """The content of an image: the shapes (target, landmark, distractors) and the captions."""

    shapes: tuple[Shape, ...]
    captions: tuple[str, ...]
    background: int  # seed of the background


def draw_scene(scene: Scene, size: int) -> tuple[Image.Image, tuple[Box, ...]]:
    """Return the image of a scene, (size, size) pixels, and the bounding boxes of its shapes in order."""
    canvas = _background(scene.background, size)
    boxes = tuple(_draw_shape(canvas, shape) for shape in scene.shapes)
    return Image.fromarray(np.rint(canvas).astype(np.uint8)), boxes


def _background(seed: int, size: int) -> NDArray[np.float32]:
    """Return a pale background with a brightness gradient and soft noise, (size, size, 3) in 0..255."""
    rng = np.random.default_rng(seed)
    tone = rng.uniform(200, 226) + rng.uniform(-9, 9, 3)
    gradient = rng.uniform(-9, 9, 2)
    noise = Image.fromarray(rng.normal(0, 4, (7, 7)).astype(np.float32)).resize((size, size), Image.Resampling.BICUBIC)
    down, right = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    light = gradient[0] * right + gradient[1] * down + np.asarray(noise)
    return np.asarray(np.clip(tone + light[..., None], 0, 255), dtype=np.float32)


def _draw_shape(canvas: NDArray[np.float32], shape: Shape) -> Box:
    """Draw a shape on a canvas (size, size, 3) and return the bounding box of the changed pixels."""
    size = len(canvas)
    side = shape.side * size
    left, top = (math.floor(centre * size - side / 2) for centre in (shape.x, shape.y))
    patch = math.ceil(side) + 1
    centre_x, centre_y = shape.x * size - left, shape.y * size - top
    large = Image.new("L", (patch * _SUPERSAMPLING, patch * _SUPERSAMPLING))
    pen = ImageDraw.Draw(large)
    for fill, outline in zip((255, 0), _outlines(shape.shape, shape.angle), strict=False):
        corners = outline * (side / 2) + (centre_x, centre_y)
        pen.polygon([(x, y) for x, y in (corners * _SUPERSAMPLING).tolist()], fill=fill)
    mask = large.reduce(_SUPERSAMPLING)
    inside = mask.filter(ImageFilter.MinFilter(2 * max(1, round(size / 96)) + 1))
    alpha, inner = (np.asarray(image, dtype=np.float32)[..., None] * np.float32(1 / 255) for image in (mask, inside))
    region = canvas[top : top + patch, left : left + patch]
    height, width, _ = region.shape
    region += (alpha * _paint(shape, inner, side))[:height, :width] - alpha[:height, :width] * region
    x0, y0, x1, y1 = mask.getbbox() or (0, 0, patch, patch)
    return Box(shape.label, left + x0, top + y0, x1 - x0, y1 - y0)


def _paint(shape: Shape, inner: NDArray[np.float32], side: float) -> NDArray[np.float32]:
    """Return the colours of a shape's surface, (patch, patch, 3): its tint, with light stripes or dots.

    The pattern covers only the inner part, (patch, patch, 1) in 0..1, so that a plain rim keeps the outline visible.
    """
    tint = np.array(shape.tint, dtype=np.float32)
    patch = len(inner)
    period = max(4.5, side / 5)  # pixels; finer patterns would blur to one tone
    down, right = np.mgrid[0:patch, 0:patch].astype(np.float32) * np.float32(2 * math.pi / period)
    along = math.cos(shape.grain) * right + math.sin(shape.grain) * down
    across = math.cos(shape.grain) * down - math.sin(shape.grain) * right
    if not shape.texture:
        wave = np.full_like(along, -1)
    else:
        wave = np.sin(along) if shape.texture == "striped" else np.sin(along) + np.sin(across) - 0.7
    light = np.clip(0.5 + wave * period / 5, 0, 1)[..., None]  # edges about a pixel wide
    return np.asarray(tint + 0.8 * inner * light * (255 - tint), dtype=np.float32)


def _outlines(shape: str, angle: float) -> list[NDArray[np.float64]]:
    """Return the outline of a shape, (points, 2), within -1..1 on both axes, and the outline of its hole, if any."""
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
