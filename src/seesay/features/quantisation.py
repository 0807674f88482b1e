"""8-bit features with a scale and a zero point per region.

    feature = (code - zero) * scale

as in Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference", eq. 1. The 256 steps cover the range from the minimum (or 0) to the maximum (or 0) of a region, so that
non-negative features (after a ReLU) use all steps. 0 is a step, so that zeros stay exact.
"""

import numpy as np
import torch
from numpy.typing import NDArray

_LOWEST, _HIGHEST = -128, 127
_GRAIN_SIZE = 32768  # elements; torch uses one thread up to this number (at::internal::GRAIN_SIZE)
_FLOAT16_LIMIT = 65519.0  # smaller values round to a finite float16


def quantise(features: NDArray[np.float16]) -> tuple[NDArray[np.int8], NDArray[np.float32], NDArray[np.int8]]:
    """Return codes (B, N, F), scales (B, N) and zero points (B, N) of finite features (B, N, F).

    The error of a dequantised feature is at most half of its region's scale, plus the rounding to float16.
    """
    wide = features.astype(np.float32)
    low = np.minimum(wide.min(axis=-1), 0)
    scales = (np.maximum(wide.max(axis=-1), 0) - low) / np.float32(_HIGHEST - _LOWEST)
    steps = np.where(scales == 0, np.float32(1), scales)  # the scale of a region of zeros is 0
    zeros = _LOWEST - np.rint(low / steps)
    steps = steps[..., None]
    max_code = np.floor(_FLOAT16_LIMIT / steps)  # rounding up could make the largest float16 infinite
    codes = np.clip(np.rint(wide / steps), -max_code, max_code) + zeros[..., None]
    return np.clip(codes, _LOWEST, _HIGHEST).astype(np.int8), scales, zeros.astype(np.int8)


def dequantise(codes: NDArray[np.int8], scales: NDArray[np.float32], zeros: NDArray[np.int8]) -> NDArray[np.float16]:
    """Return features (B, N, F) of codes (B, N, F), scales (B, N) and zero points (B, N).

    torch converts to float16 in a sixth of NumPy's time. The pieces are small enough that torch uses one thread:
    features are read while training keeps all cores busy, and waiting for a second thread would take tens of
    milliseconds for half a millisecond of work.
    """
    features = torch.empty(codes.shape, dtype=torch.float16)
    regions = max(1, _GRAIN_SIZE // codes.shape[2])
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
