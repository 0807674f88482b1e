"""Batch-norm statistics for networks with random weights."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_SIDES = (2, 4, 8, 16, 32, 64)


@torch.no_grad()
def calibrate(network: nn.Module, forward: Callable[[Tensor], object], size: int) -> None:
    """Set the running statistics of batch norms from synthetic images, so that activations keep their scale.

    The initial statistics, mean 0 and variance 1, have no effect: the features of a deep network grow to 1e12.

    Args:
        network: the network, in evaluation mode.
        forward: computes its features from normalised images (B, 3, size, size).
        size: height and width of the images in pixels.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average: the statistics of the single batch
        norm.train()
    forward(_mosaics(size))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def _mosaics(size: int) -> Tensor:
    """Return images (6, 3, size, size) in -1..1, mosaics of random colours at different scales.

    They have edges at every scale: after calibration with smooth images or noise, features of photographs are 50 times
    larger.
    """
    generator = torch.Generator().manual_seed(0)
    tiles = (torch.rand(1, 3, side, side, generator=generator) for side in _SIDES)
    return torch.cat([F.interpolate(tile, (size, size)) for tile in tiles]) * 2 - 1
