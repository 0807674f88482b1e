"""Diagnosis of the installation."""

import platform
from importlib import metadata, util
from pathlib import Path

_EXTRAS = {
    "pycocoevalcap": "coco",
    "transformers": "hub",
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
