"""Selection of device and precision."""

import torch

from seesay.errors import ConfigError


def choose_device(name: str = "auto") -> str:
    """Return the named device, or for "auto" the first available of CUDA, MPS and CPU.

    Raises:
        ConfigError: the device is not available.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    devices = [device for device, is_available in available.items() if is_available]
    if name == "auto":
        return devices[0]
    if name.partition(":")[0] not in devices:
        raise ConfigError(f"device {name!r} is not available; choose from auto, {', '.join(devices)}")
    return name


def supports_bfloat16(device: str) -> bool:
    """Return whether a device has instructions for bfloat16, not only a slow emulation."""
    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported())
    if device != "cpu" or not hasattr(torch.cpu, "get_capabilities"):
        return False
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
