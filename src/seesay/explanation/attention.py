"""Attention over an image as maps, overlays, strips and statistics.

Weights are (T, N): one row per word, one column per region. The N regions are a grid of (rows, columns) in row-major
order that covers the whole image; for a model that crops, pass the crop.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

from seesay.errors import ConfigError, DataError
from seesay.explanation.fonts import TextRenderer, split_characters
from seesay.languages import is_unspaced

HEAT = "inferno"  # perceptually uniform
HEAT_RANGE = (0.30, 0.92)  # without black, which is invisible on a dark image, and the palest yellow
MAX_ALPHA = 0.8
IMAGE_SATURATION = 0.5  # saturation of the image under the heat map, so that its reds do not resemble heat
IMAGE_BRIGHTNESS = 0.7  # brightness of the image, so that heat is the brightest part even on white
FULL_HEAT = 5.0  # minimum weight at full heat in a strip, in multiples of the uniform weight: flat maps stay faint
MAX_COLUMNS = 6
BACKGROUND, INK = (255, 255, 255), (32, 33, 36)
ELLIPSIS = "…"

Maps = NDArray[np.float32]


def upsample_attention(weights: ArrayLike, grid: tuple[int, int], size: tuple[int, int]) -> Maps:
    """Returns attention upsampled to the pixels of the image, float32 (T, height, width).

    Bicubic with aligned cell centres, clipped to the range of each row, so that a flat row stays flat.

    Args:
        weights: (T, N), non-negative.
        grid: rows and columns of the regions, N = rows x columns.
        size: width and height of the image in pixels.

    Raises:
        DataError: the weights do not match the grid, or are negative or not finite.
    """
    rows = _checked(weights, grid)
    maps = np.empty((len(rows), size[1], size[0]), dtype=np.float32)
    for target, row in zip(maps, rows.astype(np.float32), strict=True):
        smooth = Image.fromarray(row.reshape(grid)).resize(size, Image.Resampling.BICUBIC)
        np.clip(np.asarray(smooth), row.min(), row.max(), out=target)
    return maps


def overlay(image: Image.Image, attention: ArrayLike, *, peak: float = 0.0) -> Image.Image:
    """Returns the image with muted colours under a heat map of the attention.

    Args:
        image: the image.
        attention: (height, width), one map of `upsample_attention`.
        peak: value at full heat; 0: the maximum of the map.

    Raises:
        DataError: the map does not have the size of the image.
    """
    from matplotlib import colormaps

    heat = np.asarray(attention, dtype=np.float32)
    if heat.shape != (image.height, image.width):
        raise DataError(
            f"attention map of shape {heat.shape} for an image of {image.width} x {image.height}; "
            "upsample it to the size of the image"
        )
    strength = np.clip(heat / (peak or float(heat.max()) or 1.0), 0.0, 1.0)
    low, high = HEAT_RANGE
    colours = np.asarray(colormaps[HEAT](low + (high - low) * strength)[..., :3], dtype=np.float32) * 255
    rgb = np.asarray(image.convert("RGB"), dtype=np.float32)
    grey = np.asarray(image.convert("L"), dtype=np.float32)[..., None]
    muted = IMAGE_BRIGHTNESS * (grey + IMAGE_SATURATION * (rgb - grey))
    alpha = MAX_ALPHA * strength[..., None]
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
    """Returns one figure: the image, then the attention overlay of each word.

    Full heat is the word's maximum weight but at least `FULL_HEAT` times the uniform weight, so that focused attention
    is a small bright spot and diffuse attention is faint.

    Args:
        image: the image.
        words: T words, the labels.
        weights: attention (T, N).
        grid: rows and columns of the regions.
        title: a line above, such as the caption; empty: none.
        columns: tiles per row; 0: rows of equal length, six at most.
        tile: longer side of a tile's image in pixels.
        font: a TrueType or OpenType file; None: DejaVu Sans, and installed fonts for other characters.

    Raises:
        DataError: words, weights and grid do not match.
        ConfigError: the font cannot be read, or `columns` or `tile` is out of range.
    """
    rows = _checked(weights, grid)
    if len(words) != len(rows):
        raise DataError(f"{len(words)} words but attention for {len(rows)}; pass one row of weights per word")
    if columns < 0 or tile < 16:
        raise ConfigError(f"strip of {columns} columns, tiles of {tile} pixels; use at least 0 columns and 16 pixels")
    image = resize_to_side(image, tile)
    floor = FULL_HEAT / rows.shape[1]
    maps = upsample_attention(rows, grid, image.size)
    tiles = [image, *(overlay(image, heat, peak=max(floor, float(heat.max()))) for heat in maps)]
    return _compose(tiles, ["", *words], title, columns or _even_columns(len(tiles)), tile, font)


def attention_entropy(weights: ArrayLike) -> NDArray[np.float64]:
    """Returns the entropy of each word's attention, (T,) in bits: 0 for one region, log2 N for uniform attention.

    Args:
        weights: (T, N), non-negative, rows with a positive sum.

    Raises:
        DataError: the weights are negative or not finite, or the sum of a row is 0.
    """
    array = np.asarray(weights)
    shares = normalize_attention(array, (1, array.shape[-1] if array.ndim else 0))
    logs = np.log2(shares, out=np.zeros_like(shares), where=shares > 0)
    return np.asarray(np.maximum(-(shares * logs).sum(axis=1), 0.0))


def _checked(weights: ArrayLike, grid: tuple[int, int]) -> NDArray[np.float64]:
    """Returns the weights as (T, N); raises DataError if they are not attention over the grid."""
    array = np.asarray(weights, dtype=np.float64)
    rows, columns = grid
    if array.ndim != 2 or min(grid) < 1 or array.shape[1] != rows * columns:
        raise DataError(
            f"attention of shape {array.shape} for a grid of {rows} x {columns}; expected (words, {rows * columns})"
        )
    if not np.isfinite(array).all() or (array < 0).any():
        raise DataError("attention has negative or non-finite weights; pass the weights after the softmax")
    return array


def normalize_attention(weights: ArrayLike, grid: tuple[int, int]) -> NDArray[np.float64]:
    """Returns the weights (T, N) with rows normalised to a sum of 1, which half precision may have rounded."""
    rows = _checked(weights, grid)
    sums = rows.sum(axis=1, keepdims=True)
    if not (sums > 0).all():
        raise DataError("the attention weights of a word sum to 0; remove the word")
    return np.asarray(rows / sums)


def resize_to_side(image: Image.Image, side: int) -> Image.Image:
    """Returns the image in RGB, resized to a longer side of `side` pixels."""
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def _even_columns(tiles: int) -> int:
    """Returns the number of columns that fills the fewest rows evenly."""
    return math.ceil(tiles / math.ceil(tiles / MAX_COLUMNS))


def _compose(
    tiles: Sequence[Image.Image],
    labels: Sequence[str],
    title: str,
    columns: int,
    side: int,
    font: str | Path | None,
) -> Image.Image:
    """Returns the tiles in rows on a white background, with a label above each and the title on top."""
    gap = side // 12
    text = TextRenderer([*labels, ELLIPSIS], max(10, side // 10), font)
    head = TextRenderer([title, ELLIPSIS], max(11, side // 8), font)
    line, head_line = round(text.size * 1.5), round(head.size * 1.4)
    across, down = max(tiles[0].width, round(side * 0.6)), line + tiles[0].height
    columns = min(columns, len(tiles))
    width = gap + columns * (across + gap)
    heading = _wrap(title, head, width - 2 * gap)
    top = gap + (len(heading) * head_line + gap // 2 if heading else 0)
    figure = Image.new("RGB", (width, top + math.ceil(len(tiles) / columns) * (down + gap)), BACKGROUND)
    draw = ImageDraw.Draw(figure)
    for number, words in enumerate(heading):
        head.write(draw, (gap, gap + (number + 0.5) * head_line), words, INK)
    for number, (tile, label) in enumerate(zip(tiles, labels, strict=True)):
        x = gap + number % columns * (across + gap)
        y = top + number // columns * (down + gap)
        displayed = _truncate(label, text, across)
        text.write(draw, (x + (across - text.length(displayed)) / 2, y + line / 2), displayed, INK)
        figure.paste(tile, (x + (across - tile.width) // 2, y + line))
    return figure


def _truncate(text: str, font: TextRenderer, width: float) -> str:
    """Returns the text on one line, truncated with an ellipsis if it exceeds the width."""
    text = " ".join(text.split())
    if font.length(text) <= width:
        return text
    while text and font.length(text + ELLIPSIS) > width:
        text = text[:-1]
    return text + ELLIPSIS


def _wrap(text: str, font: TextRenderer, width: float) -> list[str]:
    """Returns the text in lines that fit the width; text without spaces between words may break anywhere."""
    lines: list[str] = []
    for word in text.split():
        for number, part in enumerate(split_characters(word) if is_unspaced([word]) else [word]):
            joined = f"{lines[-1]}{'' if number else ' '}{part}" if lines else ""
            if joined and font.length(joined) <= width:
                lines[-1] = joined
            else:
                lines.append(_truncate(part, font, width))
    return lines
