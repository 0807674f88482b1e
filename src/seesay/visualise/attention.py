"""Attention over an image: where the model looked for each word, as maps, overlays, strips and numbers.

Weights are (T, N): one row a word, one column a region. The N regions are a grid of (rows, columns), read row
by row, that covers the whole image given here; of a model that crops, give the crop, which is all it saw.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

from seesay.errors import ConfigError, DataError
from seesay.languages import is_unspaced
from seesay.visualise.fonts import Lettering, split_characters

HEAT = "inferno"  # perceptually uniform: equal steps of weight look like equal steps
HEAT_RANGE = (0.30, 0.92)  # without its black, which says nothing on a dark image, and its palest yellow
STRONGEST_ALPHA = 0.8
IMAGE_COLOUR = 0.5  # saturation kept under the heat, so that an image's own reds are not read as heat
IMAGE_LIGHT = 0.7  # brightness kept: also on white paper the heat is the lightest thing to see
FULL_HEAT = 5.0  # in a strip, at least so many times the uniform weight make full heat: flat maps look flat
MAX_COLUMNS = 6
PAPER, INK = (255, 255, 255), (32, 33, 36)
ELLIPSIS = "…"

Maps = NDArray[np.float32]


def upsample_attention(weights: ArrayLike, grid: tuple[int, int], size: tuple[int, int]) -> Maps:
    """Returns attention drawn out to the pixels of the image, float32 (T, height, width).

    Bicubic, with the centre of a region's cell at the centre of its share of the image; no value leaves
    the range of its row, so that a flat row stays flat and a pixel reads as the weight of its region.

    Args:
        weights: (T, N), not negative.
        grid: rows and columns of the regions, N = rows x columns.
        size: width and height of the image in pixels.

    Raises:
        DataError: if the weights do not fit the grid, or are negative or not finite.
    """
    rows = _checked(weights, grid)
    maps = np.empty((len(rows), size[1], size[0]), dtype=np.float32)
    for target, row in zip(maps, rows.astype(np.float32), strict=True):
        smooth = Image.fromarray(row.reshape(grid)).resize(size, Image.Resampling.BICUBIC)
        np.clip(np.asarray(smooth), row.min(), row.max(), out=target)
    return maps


def overlay(image: Image.Image, attention: ArrayLike, *, peak: float = 0.0) -> Image.Image:
    """Returns the image, its colours muted, under a heat map whose strength follows the attention.

    Args:
        image: the image.
        attention: (height, width) of that image: one map of `upsample_attention`.
        peak: the value drawn at full heat; 0 = the largest of this map.

    Raises:
        DataError: if the map is not of the image's size.
    """
    from matplotlib import colormaps

    heat = np.asarray(attention, dtype=np.float32)
    if heat.shape != (image.height, image.width):
        raise DataError(
            f"a map of shape {heat.shape} does not fit an image of {image.width} x {image.height}; "
            "upsample it to that size first"
        )
    strength = np.clip(heat / (peak or float(heat.max()) or 1.0), 0.0, 1.0)
    low, high = HEAT_RANGE
    colours = np.asarray(colormaps[HEAT](low + (high - low) * strength)[..., :3], dtype=np.float32) * 255
    rgb = np.asarray(image.convert("RGB"), dtype=np.float32)
    grey = np.asarray(image.convert("L"), dtype=np.float32)[..., None]
    muted = IMAGE_LIGHT * (grey + IMAGE_COLOUR * (rgb - grey))
    alpha = STRONGEST_ALPHA * strength[..., None]
    return Image.fromarray(np.rint(muted + alpha * (colours - muted)).astype(np.uint8))


def attention_strip(
    image: Image.Image,
    words: Sequence[str],
    weights: ArrayLike,
    grid: tuple[int, int],
    *,
    title: str = "",
    columns: int = 0,
    tile: int = 160,
    font: str | Path | None = None,
) -> Image.Image:
    """Returns one figure: the image, then for each word the image under that word's attention.

    A word's heat is full at its largest weight, but never below `FULL_HEAT` times the uniform one, so that
    a sharp look is a small bright spot and an undecided one a faint wash.

    Args:
        image: the image.
        words: T words, the labels.
        weights: attention (T, N), a row a word.
        grid: rows and columns of the regions.
        title: a line above, such as the whole caption; empty = none.
        columns: tiles a row; 0 = rows of equal length, of six at most.
        tile: longer side of a tile's image in pixels.
        font: a TrueType or OpenType file; None = DejaVu Sans, and installed fonts for characters that it lacks.

    Raises:
        DataError: if words, weights and grid do not fit together.
        ConfigError: if the font cannot be read, or `columns` or `tile` is out of range.
    """
    rows = _checked(weights, grid)
    if len(words) != len(rows):
        raise DataError(f"{len(words)} words but attention for {len(rows)}; give one row of weights a word")
    if columns < 0 or tile < 16:
        raise ConfigError(f"a strip of {columns} columns with tiles of {tile} pixels; use 0 or more, and 16 or more")
    image = fitted(image, tile)
    floor = FULL_HEAT / rows.shape[1]
    maps = upsample_attention(rows, grid, image.size)
    tiles = [image, *(overlay(image, heat, peak=max(floor, float(heat.max()))) for heat in maps)]
    return _arranged(tiles, ["", *words], title, columns or _even_columns(len(tiles)), tile, font)


def attention_entropy(weights: ArrayLike) -> NDArray[np.float64]:
    """Returns how spread each word's attention is, (T,) in bits: 0 = one region, log2 N = all alike.

    Args:
        weights: (T, N), not negative, every row with a positive sum.

    Raises:
        DataError: if the weights are negative, not finite or a row sums to nothing.
    """
    array = np.asarray(weights)
    shares = attention_shares(array, (1, array.shape[-1] if array.ndim else 0))
    logs = np.log2(shares, out=np.zeros_like(shares), where=shares > 0)
    return np.asarray(np.maximum(-(shares * logs).sum(axis=1), 0.0))


def _checked(weights: ArrayLike, grid: tuple[int, int]) -> NDArray[np.float64]:
    """Returns the weights as (T, N), or says why they cannot be attention over that grid."""
    array = np.asarray(weights, dtype=np.float64)
    rows, columns = grid
    if array.ndim != 2 or min(grid) < 1 or array.shape[1] != rows * columns:
        raise DataError(
            f"attention of shape {array.shape} does not fit a grid of {rows} x {columns}; "
            f"give (words, {rows * columns})"
        )
    if not np.isfinite(array).all() or (array < 0).any():
        raise DataError("attention holds negative or non-finite weights; give the weights after the softmax")
    return array


def attention_shares(weights: ArrayLike, grid: tuple[int, int]) -> NDArray[np.float64]:
    """Returns the weights (T, N) with every row summing to one, also where half precision had rounded it."""
    rows = _checked(weights, grid)
    sums = rows.sum(axis=1, keepdims=True)
    if not (sums > 0).all():
        raise DataError("a word without any attention has no share or spread; leave it out")
    return np.asarray(rows / sums)


def fitted(image: Image.Image, side: int) -> Image.Image:
    """Returns the image in RGB with its longer side of so many pixels."""
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def _even_columns(tiles: int) -> int:
    """Returns the columns that fill the fewest rows most evenly."""
    return math.ceil(tiles / math.ceil(tiles / MAX_COLUMNS))


def _arranged(
    tiles: Sequence[Image.Image],
    labels: Sequence[str],
    title: str,
    columns: int,
    side: int,
    font: str | Path | None,
) -> Image.Image:
    """Returns the tiles in rows on light paper, a label above each and the title on top."""
    gap = side // 12
    text = Lettering([*labels, ELLIPSIS], max(10, side // 10), font)
    head = Lettering([title, ELLIPSIS], max(11, side // 8), font)
    line, head_line = round(text.size * 1.5), round(head.size * 1.4)
    across, down = max(tiles[0].width, round(side * 0.6)), line + tiles[0].height
    columns = min(columns, len(tiles))
    width = gap + columns * (across + gap)
    heading = _wrapped(title, head, width - 2 * gap)
    top = gap + (len(heading) * head_line + gap // 2 if heading else 0)
    figure = Image.new("RGB", (width, top + math.ceil(len(tiles) / columns) * (down + gap)), PAPER)
    draw = ImageDraw.Draw(figure)
    for number, words in enumerate(heading):
        head.write(draw, (gap, gap + (number + 0.5) * head_line), words, INK)
    for number, (tile, label) in enumerate(zip(tiles, labels, strict=True)):
        x = gap + number % columns * (across + gap)
        y = top + number // columns * (down + gap)
        shown = _cut(label, text, across)
        text.write(draw, (x + (across - text.length(shown)) / 2, y + line / 2), shown, INK)
        figure.paste(tile, (x + (across - tile.width) // 2, y + line))
    return figure


def _cut(text: str, font: Lettering, width: float) -> str:
    """Returns the text on one line, shortened with an ellipsis where it is wider than the room."""
    text = " ".join(text.split())
    if font.length(text) <= width:
        return text
    while text and font.length(text + ELLIPSIS) > width:
        text = text[:-1]
    return text + ELLIPSIS


def _wrapped(text: str, font: Lettering, width: float) -> list[str]:
    """Returns the text in lines that fit the room; text without spaces may break between any two characters."""
    lines: list[str] = []
    for word in text.split():
        for number, part in enumerate(split_characters(word) if is_unspaced([word]) else [word]):
            joined = f"{lines[-1]}{'' if number else ' '}{part}" if lines else ""
            if joined and font.length(joined) <= width:
                lines[-1] = joined
            else:
                lines.append(_cut(part, font, width))
    return lines
