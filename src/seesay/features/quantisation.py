"""Features in 8 bits: each region has a scale and a zero of its own.

    feature = (code - zero) * scale

as in Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference", eq. 1. The 256 steps lie between a region's lowest and highest feature: those of networks that end in a
rectifier, which are never negative, use all of the steps, where steps symmetric about 0 would leave half idle. 0 is
a step, so that the many zeros of a rectifier stay zeros.
"""

import numpy as np
import torch
from numpy.typing import NDArray

_LOWEST, _HIGHEST = -128, 127
_UNSHARED = 32768  # numbers, as many as torch leaves to one thread: its at::internal::GRAIN_SIZE
_FLOAT16_LIMIT = 65519.0  # what lies below rounds to a finite float16


def quantise(features: NDArray[np.float16]) -> tuple[NDArray[np.int8], NDArray[np.float32], NDArray[np.int8]]:
    """Returns codes (B, N, F), scales (B, N) and zeros (B, N) of finite features (B, N, F).

    A feature comes back within half of its region's scale, and then rounded to float16.
    """
    wide = features.astype(np.float32)
    low = np.minimum(wide.min(axis=-1), 0)
    scales = (np.maximum(wide.max(axis=-1), 0) - low) / np.float32(_HIGHEST - _LOWEST)
    steps = np.where(scales == 0, np.float32(1), scales)  # 0 where a region holds nothing but zeros
    zeros = _LOWEST - np.rint(low / steps)
    steps = steps[..., None]
    most = np.floor(_FLOAT16_LIMIT / steps)  # rounded up, the largest float16 would come back infinite
    codes = np.clip(np.rint(wide / steps), -most, most) + zeros[..., None]
    return np.clip(codes, _LOWEST, _HIGHEST).astype(np.int8), scales, zeros.astype(np.int8)


def dequantise(codes: NDArray[np.int8], scales: NDArray[np.float32], zeros: NDArray[np.int8]) -> NDArray[np.float16]:
    """Returns features (B, N, F) of codes (B, N, F), scales (B, N) and zeros (B, N).

    By torch, whose conversion to float16 takes a sixth of NumPy's time. In pieces so small that torch does not share
    them out over threads: what reads features does so beside a training that keeps all cores busy, and would wait
    for its own second thread to get its turn, for tens of milliseconds where the work takes half a one.
    """
    features = torch.empty(codes.shape, dtype=torch.float16)
    regions = max(1, _UNSHARED // codes.shape[2])
    pieces = (
        tensor.reshape(-1, tensor.shape[-1]).split(regions)  # type: ignore[no-untyped-call]
        for tensor in (
            features,
            torch.from_numpy(codes),
            torch.from_numpy(zeros).float().unsqueeze(-1),
            torch.from_numpy(scales).unsqueeze(-1),
        )
    )
    for feature, code, zero, scale in zip(*pieces, strict=True):
        feature.copy_(code.float().sub_(zero).mul_(scale))
    return np.asarray(features.numpy())
