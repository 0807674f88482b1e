"""Diagnosis of the installation."""

import platform
from collections.abc import Mapping
from importlib import metadata, util
from pathlib import Path
from typing import Any

from seesay.errors import install_command

_EXTRAS = {
    "pycocoevalcap": "coco",
    "transformers": "hub",
    "datasets": "datasets",
    "peft": "hub",
    "httpx": "endpoint",
    "bitsandbytes": "quantised",
    "h5py": "hdf5",
    "optuna": "tune",
    "ray": "ray",
    "fastapi": "serve",
    "onnxscript": "onnx",
}
_LIBRARIES = (
    "torch",
    "torchvision",
    "timm",
    "lightning",
    "onnx",
    "onnxruntime",
    "tokenizers",
    "safetensors",
    "pyarrow",
)


def diagnose() -> list[tuple[str, str]]:
    """Return rows of (component, state): versions, devices, and missing packages with their install command."""
    from seesay import __version__

    return [
        ("seesay", __version__),
        ("python", platform.python_version()),
        *((name, _state(name)) for name in _LIBRARIES),
        *(_computation() if util.find_spec("torch") else ()),
        *((name, _state(name, extra)) for name, extra in _EXTRAS.items()),
    ]


def _state(library: str, extra: str = "") -> str:
    """Return the version of a library, or how to install it."""
    return metadata.version(library) if util.find_spec(library) else f"not installed: {install_command(extra)}"


def _computation() -> list[tuple[str, str]]:
    """Return the rows of the device and of the CPU operations, which need torch."""
    import torch

    from seesay.devices import choose_device, supports_bfloat16
    from seesay.kernels.native import SWITCH, library

    device, native = choose_device(), library()
    return [
        ("device", device),
        ("bfloat16", "native" if supports_bfloat16(device) else "emulated; float32 is used"),
        ("threads", str(torch.get_num_threads())),
        (
            "native library",
            Path(native._name).name if native else f"absent: not built, or {SWITCH}=0; training is slower",
        ),
    ]


def cached_encoders() -> list[dict[str, Any]]:
    """Return the properties of each alias of an encoder, and whether its weights are cached."""
    from seesay.config.encoder_aliases import encoder_aliases
    from seesay.models.networks import cached_weights

    found = []
    for name, alias in encoder_aliases().items():
        file = cached_weights(alias.network)
        cached = {"revision": file.parent.name, "bytes": file.stat().st_size} if file else None
        found.append(
            {
                "alias": name,
                "network": alias.network,
                "pixels": alias.pixels,
                "grid": alias.grid,
                "features": alias.features,
                "parameters": alias.parameters,
                "license": alias.license,
                "cached": cached,
            }
        )
    return found


def describe_encoder(encoder: Mapping[str, Any]) -> str:
    """Return two lines on an alias of `cached_encoders`: timm's name, then its properties."""
    cached = encoder["cached"]
    state = f"cached: revision {cached['revision'][:8]}, {cached['bytes'] / 1e6:.0f} MB" if cached else "not cached"
    grid = "{pixels} px, {grid}x{grid}x{features}".format_map(encoder)
    size = f"{encoder['parameters'] / 1e6:.1f} M parameters"
    return f"{encoder['alias']}: {encoder['network']}\n    {grid}, {size}, {encoder['license']}, {state}"
