"""The functions of attention.c, where there is a compiler for them."""

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from seesay.compiled import compiled


class Kernels:
    """Arithmetic in float32 on a processor, of contiguous tensors; each row's picture is named by `image_of_row`.

    Args:
        library: attention.c.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    def additive_energies(self, keys: Tensor, factors: Tensor, score: Tensor, image_of_row: Tensor | None) -> Tensor:
        """Returns the energies (..., N) of additive attention but for what is the same for all regions.

        Args:
            keys: exp(2 k), (B, N, A).
            factors: exp(2 q), (..., A).
            score: v, (A,).
            image_of_row: (R,) int64 for factors (R, A); None = as many rows to each picture, in their order.
        """
        images, regions, units = keys.shape
        rows = factors.numel() // units
        found = factors.new_empty(*factors.shape[:-1], regions)
        tensors, sizes = (keys, factors, score, image_of_row), (max(1, rows // images), rows, regions, units)
        self._library.additive_energies(*map(_address, tensors), *map(ctypes.c_longlong, sizes), _address(found))
        return found

    def additive_gradients(
        self, keys: Tensor, factors: Tensor, grad: Tensor, image_of_row: Tensor, sums: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Returns sum_n g r (1 - r), (R, A), of energies' gradients g (R, N), r as in `seesay.models.additive`.

        Args:
            keys: exp(2 k), (B, N, A).
            factors: exp(2 q), (R, A).
            grad: g, (R, N).
            image_of_row: (R,) int64.
            sums: to which g r (1 - r) of each region and unit is added, (B, N, A), and g r of each unit, (A,).
        """
        found = torch.empty_like(factors)
        tensors, sizes = (keys, factors, grad, image_of_row), (len(factors), *keys.shape[1:])
        self._library.additive_gradients(
            *map(_address, tensors), *map(ctypes.c_longlong, sizes), *map(_address, (found, *sums))
        )
        return found

    def picture_product(self, matrix: Tensor, x: Tensor, image_of_row: Tensor) -> Tensor:
        """Returns x (R, K) times the matrix (B, K, L) of its picture, (R, L)."""
        return self._product(self._library.picture_product, matrix, x, image_of_row, matrix.shape[2])

    def picture_product_back(self, matrix: Tensor, grad: Tensor, image_of_row: Tensor) -> Tensor:
        """Returns grad (R, L) times the transposed matrix (B, K, L) of its picture, (R, K)."""
        return self._product(self._library.picture_product_back, matrix, grad, image_of_row, matrix.shape[1])

    def _product(self, function: object, matrix: Tensor, x: Tensor, image_of_row: Tensor, width: int) -> Tensor:
        found, sizes = x.new_empty(len(x), width), (len(x), *matrix.shape[1:])
        assert callable(function)
        function(*map(_address, (matrix, x, image_of_row)), *map(ctypes.c_longlong, sizes), _address(found))
        return found


def kernels_for(tensor: Tensor) -> Kernels | None:
    """Returns the compiled functions if there are any and they are of use for such a tensor."""
    if tensor.device.type != "cpu" or tensor.dtype != torch.float32 or not tensor.is_contiguous():
        return None
    library = compiled(Path(__file__).with_name("attention.c"))
    return None if library is None else Kernels(library)


def _address(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())
