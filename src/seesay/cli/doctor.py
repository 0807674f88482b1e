"""Diagnosis of the installation."""

import platform
from importlib import metadata, util
from pathlib import Path

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
    import torch

    from seesay import __version__
    from seesay.devices import choose_device, supports_bfloat16
    from seesay.kernels.native import SWITCH, library

    device, native = choose_device(), library()
    rows = [("seesay", __version__), ("python", platform.python_version())]
    rows += [(name, metadata.version(name)) for name in _LIBRARIES]
    rows += [
        ("device", device),
        ("bfloat16", "native" if supports_bfloat16(device) else "emulated; float32 is used"),
        ("threads", str(torch.get_num_threads())),
        (
            "native library",
            Path(native._name).name if native else f"absent: not built, or {SWITCH}=0; training is slower",
        ),
    ]
    for name, extra in _EXTRAS.items():
        missing = f"not installed: pip install 'seesay[{extra}]'"
        rows.append((name, metadata.version(name) if util.find_spec(name) else missing))
    return rows


def list_encoders() -> list[str]:
    """Return two lines per alias of an encoder: timm's name, then its properties and whether its weights are cached."""
    from seesay.config.encoder_aliases import encoder_aliases
    from seesay.models.networks import cached_weights

    lines = []
    for name, alias in encoder_aliases().items():
        file = cached_weights(alias.network)
        size = file.stat().st_size / 1e6 if file else 0
        cached = f"cached: revision {file.parent.name[:8]}, {size:.0f} MB" if file else "not cached"
        features = f"{alias.pixels} px, {alias.grid}x{alias.grid}x{alias.features}"
        lines += [
            f"{name}: {alias.network}",
            f"    {features}, {alias.parameters / 1e6:.1f} M parameters, {alias.license}, {cached}",
        ]
    return lines
