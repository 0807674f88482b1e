"""Which device and which arithmetic to use."""

import torch


def choose_device(wanted: str = "auto") -> str:
    """Returns the device asked for, or for "auto" the best there is: CUDA, Apple's, the CPU."""
    if wanted != "auto":
        return wanted
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def computes_bfloat16(device: str) -> bool:
    """Tells whether a device has instructions for bfloat16, and not only an emulation that is slow."""
    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported())
    if device != "cpu" or not hasattr(torch.cpu, "get_capabilities"):
        return False
    has = torch.cpu.get_capabilities()
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))
