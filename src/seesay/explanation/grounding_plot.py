"""Grounding of attention: its overlap with the boxes of the object that a word names."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from seesay.errors import DataError
from seesay.explanation.attention import normalize_attention

Frame = tuple[float, float, float, float]
"""x, y of the top-left corner, width and height, in pixels."""


def grounding_ratio(weights: ArrayLike, grid: tuple[int, int], boxes: Sequence[Frame], size: tuple[int, int]) -> float:
    """Returns the fraction of attention inside boxes over the boxes' fraction of the image; 1 for uniform attention.

    Regions partly inside a box count proportionally; overlaps of boxes count once.

    Args:
        weights: (N,), non-negative, with a positive sum.
        grid: rows and columns of the regions.
        boxes: frames of the objects, clipped to the image.
        size: width and height of the image in pixels.

    Raises:
        DataError: the weights do not match the grid or sum to 0, or no box overlaps the image.
    """
    share = normalize_attention(np.asarray(weights)[None], grid)[0].reshape(grid)
    inside = _inside(grid, boxes, size)
    area = float(inside.mean())
    if not area > 0:
        raise DataError(
            f"the boxes {list(boxes)} have no area inside an image of {size[0]} x {size[1]}; check their units"
        )
    return float((share * inside).sum()) / area


def is_grounded(weights: ArrayLike, grid: tuple[int, int], boxes: Sequence[Frame], size: tuple[int, int]) -> bool:
    """Returns whether the centre of the region with maximum attention is inside a box.

    The pointing game of Zhang et al. 2016, "Top-down Neural Attention by Excitation Backprop", section 4.1, without its
    tolerance in pixels, which is smaller than a region.

    Args:
        weights: (N,), non-negative, with a positive sum.
        grid: rows and columns of the regions.
        boxes: frames of the objects.
        size: width and height of the image in pixels.

    Raises:
        DataError: the weights do not match the grid or sum to 0.
    """
    share = normalize_attention(np.asarray(weights)[None], grid)[0]
    return bool(_centres_inside(grid, boxes, size).flat[int(share.argmax())])


def grounding_baseline(grid: tuple[int, int], boxes: Sequence[Frame], size: tuple[int, int]) -> float:
    """Returns the probability that `is_grounded` holds for a random region."""
    return float(_centres_inside(grid, boxes, size).mean())


def frame_of_crop(box: Frame, size: tuple[int, int], crop: tuple[int, int]) -> Frame | None:
    """Returns a box of an image in the pixels of its centre crop, or None if it is outside.

    Args:
        box: frame in the image.
        size: width and height of the image.
        crop: width and height to which the largest centre square is resized.
    """
    side = min(size)
    scale = crop[0] / side
    left, top = (size[0] - side) / 2, (size[1] - side) / 2
    x, y = max(0.0, (box[0] - left) * scale), max(0.0, (box[1] - top) * scale)
    right = min(float(crop[0]), (box[0] + box[2] - left) * scale)
    bottom = min(float(crop[1]), (box[1] + box[3] - top) * scale)
    return (x, y, right - x, bottom - y) if right > x and bottom > y else None


def _centres_inside(grid: tuple[int, int], boxes: Sequence[Frame], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Returns the regions whose centre is inside a box, (rows, columns)."""
    x = (np.arange(grid[1]) + 0.5) * size[0] / grid[1]
    y = (np.arange(grid[0]) + 0.5) * size[1] / grid[0]
    inside = np.zeros(grid, bool)
    for left, top, width, height in boxes:
        inside |= np.outer((top <= y) & (y <= top + height), (left <= x) & (x <= left + width))
    return inside


def _inside(grid: tuple[int, int], boxes: Sequence[Frame], size: tuple[int, int]) -> NDArray[np.float64]:
    """Returns the fraction of each region inside boxes, (rows, columns) in 0..1.

    The edges of boxes divide the image into tiles that are either inside or outside each box.
    """
    xs = _edges([(box[0], box[0] + box[2]) for box in boxes], size[0], grid[1])
    ys = _edges([(box[1], box[1] + box[3]) for box in boxes], size[1], grid[0])
    across, down = (xs[1:] + xs[:-1]) / 2, (ys[1:] + ys[:-1]) / 2
    covered = np.zeros((len(down), len(across)), bool)
    for x, y, width, height in boxes:
        covered |= np.outer((y < down) & (down < y + height), (x < across) & (across < x + width))
    parts = covered * np.outer(np.diff(ys), np.diff(xs))
    rows, columns = (
        np.minimum((centre * cells / length).astype(int), cells - 1)
        for centre, cells, length in ((down, grid[0], size[1]), (across, grid[1], size[0]))
    )
    inside = np.zeros(grid)
    np.add.at(inside, (rows[:, None], columns[None]), parts)
    return inside * (grid[0] * grid[1] / (size[0] * size[1]))


def _edges(spans: Sequence[tuple[float, float]], length: int, cells: int) -> NDArray[np.float64]:
    """Returns the edges of cells and spans along one axis, clipped to the image."""
    edges = np.concatenate([np.arange(cells + 1) * (length / cells), *(np.array(span) for span in spans)])
    return np.unique(np.clip(edges[np.isfinite(edges)], 0.0, length))
