"""Average pooling of a grid of features to fewer rows and columns."""

import torch
from torch import Tensor


def pooling_matrix(grid: tuple[int, int], size: int) -> Tensor:
    """Return the weights (size * size, rows * columns) that average a grid to `size` rows and columns.

    `pooling_matrix(grid, size) @ features` averages features (..., rows * columns, F) over the windows of
    `torch.nn.functional.adaptive_avg_pool2d`, which overlap where `size` does not divide the grid. A matrix product can
    be exported to ONNX for any sizes; adaptive pooling cannot.

    Args:
        grid: (rows, columns), each at least `size`.
        size: rows and columns of the result.
    """
    rows, columns = (_window_means(length, size) for length in grid)
    return torch.kron(rows, columns)


def _window_means(length: int, size: int) -> Tensor:
    """Return the weights (size, length) of the mean over each window."""
    weights = torch.zeros(size, length)
    for index in range(size):
        begin, end = index * length // size, -(-(index + 1) * length // size)
        weights[index, begin:end] = 1 / (end - begin)
    return weights
