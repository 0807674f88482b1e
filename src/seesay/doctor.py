"""What this installation has."""

import platform
from importlib import metadata, util

_EXTRAS = {
    "pycocoevalcap": "coco",
    "transformers": "hub",
    "h5py": "hdf5",
    "optuna": "tune",
    "ray": "ray",
    "fastapi": "serve",
    "onnx": "onnx",
    "onnxscript": "onnx",
    "onnxruntime": "onnx",
}
_LIBRARIES = ("torch", "torchvision", "timm", "lightning", "tokenizers", "safetensors", "pyarrow")


def diagnose() -> list[tuple[str, str]]:
    """Returns rows of (part, state): versions, devices, what is missing and how to get it."""
    import torch

    from seesay import __version__
    from seesay.devices import choose_device, computes_bfloat16
    from seesay.models.kernels import kernels_for

    device = choose_device()
    rows = [("seesay", __version__), ("python", platform.python_version())]
    rows += [(name, metadata.version(name)) for name in _LIBRARIES]
    rows += [
        ("device", device),
        ("bfloat16", "in hardware" if computes_bfloat16(device) else "not in hardware; float32 is used"),
        ("threads", str(torch.get_num_threads())),
        ("kernels", "compiled" if kernels_for(torch.zeros(1)) else "torch's: no C compiler (cc) that works is here"),
    ]
    for name, extra in _EXTRAS.items():
        missing = f"not installed: pip install 'seesay[{extra}]'"
        rows.append((name, metadata.version(name) if util.find_spec(name) else missing))
    return rows
