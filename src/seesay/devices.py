"""Which device and which arithmetic to use."""

import torch

from seesay.errors import ConfigError


def choose_device(wanted: str = "auto") -> str:
    """Returns the device asked for, or for "auto" the best there is: CUDA, Apple's, the CPU.

    Raises:
        ConfigError: there is no such device here.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        return next(name for name, is_there in there.items() if is_there)
    if not there.get(wanted.partition(":")[0]):
        raise ConfigError(f"device is {wanted!r}; here are auto, {', '.join(name for name in there if there[name])}")
    return wanted


def computes_bfloat16(device: str) -> bool:
    """Tells whether a device has instructions for bfloat16, and not only an emulation that is slow."""
    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported())
    if device != "cpu" or not hasattr(torch.cpu, "get_capabilities"):
        return False
    has = torch.cpu.get_capabilities()
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))
