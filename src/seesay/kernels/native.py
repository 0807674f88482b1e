"""The native library: built with the package where there is a C compiler, chosen by the CPU's instruction set."""

import ctypes
import functools
import logging
import os
from collections.abc import Callable
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SWITCH = "SEESAY_NATIVE"
"""Environment variable; 0 leaves the native library out."""
LEVELS = {"AVX512": ("avx512", "avx2", "base"), "AVX2": ("avx2", "base")}
"""Builds that a CPU can run, best first, by `torch.backends.cpu.get_cpu_capability`; others run `base`."""
_log = logging.getLogger(__name__)


@functools.cache
def library() -> ctypes.CDLL | None:
    """Return the native library; None where it was not built or is switched off, which is logged once."""
    if os.environ.get(SWITCH) == "0":
        return None
    for level in LEVELS.get(torch.backends.cpu.get_cpu_capability(), ("base",)):
        for suffix in EXTENSION_SUFFIXES:
            path = Path(__file__).with_name(f"_native_{level}{suffix}")
            if path.is_file():
                try:
                    # OpenMP's functions are those of torch, which is loaded: two thread pools would compete for cores.
                    return ctypes.CDLL(str(path))
                except OSError as error:
                    _log.debug("%s cannot be loaded: %s", path, error)
    _log.info("no native library was built (docs/performance.md): torch's own operations are used, which are slower")
    return None


def native(*tensors: Tensor | None) -> ctypes.CDLL | None:
    """Return the native library if it can work on these tensors: contiguous, on the CPU, floating ones in float32."""
    for tensor in tensors:
        if tensor is not None and not _is_readable(tensor):
            return None
    return library()


def _is_readable(tensor: Tensor) -> bool:
    wide = tensor.is_floating_point() and tensor.dtype != torch.float32
    return tensor.device.type == "cpu" and not wide and tensor.is_contiguous() and tensor.numel() > 0


def call(function: Callable[..., int], *arguments: Any) -> int:
    """Call a function of the library and return its result, undefined for void.

    Args:
        function: the function.
        arguments: tensors are passed as pointers, integers in 64 bits, anything else as ctypes does.
    """
    return function(*[_for_c(each) for each in arguments])


def _for_c(argument: Any) -> Any:
    if isinstance(argument, Tensor):
        return ctypes.c_void_p(argument.data_ptr())
    return ctypes.c_longlong(argument) if isinstance(argument, int) else argument
