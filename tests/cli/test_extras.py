"""Commands without extras: each names the missing one in a line, with exit code 2, before it writes anything."""

import json
import shutil
from pathlib import Path

import pytest

from seesay.data.annotations import load_annotations
from tests.missing import run

EXTRAS = {
    "coco": ("pycocoevalcap",),
    "datasets": ("datasets",),
    "endpoint": ("httpx",),
    "hdf5": ("h5py",),
    "hub": ("accelerate", "peft", "transformers"),
    "onnx": ("onnxscript",),
    "ray": ("ray",),
    "serve": ("fastapi", "prometheus_client", "python_multipart", "starlette", "uvicorn"),
    "tune": ("optuna",),
}

SERVER = "--endpoint http://localhost:1/v1"
HUB = "pretrained"  # a folder in the hub's format
COMMANDS = {
    f"caption photo.png --model any {SERVER}": "endpoint",
    f"evaluate any data {SERVER}": "endpoint",
    f"caption photo.png --model {HUB}": "hub",
    f"evaluate {HUB} data": "hub",
    f"explain photo.png --model {HUB}": "hub",
    "caption photo.png": "hub",  # the default model
    "evaluate captions.jsonl data --metrics CLIPScore": "hub",
    "evaluate captions.jsonl data --metrics METEOR": "coco",
    "serve run": "serve",
    f"serve any {SERVER}": "serve",
    "review captions.jsonl": "serve",
    "export run": "onnx",
    "caption photo.png --model run --engine ray --out new.parquet": "ray",
    "tune data": "tune",
    "extract data --import-from features.h5": "hdf5",
    f"train data --model {HUB} --lora --out new": "hub",
    "data check hf:ada/garden": "datasets",
    "caption hf:ada/garden --model run --out new.jsonl": "datasets",
}
LATER = (("python_multipart", "serve run"), ("peft", f"train data --model {HUB} --lora --out new"))
"""One library that is missing -> a command that needs it."""


@pytest.fixture
def folder(tmp_path: Path, colours: Path, cached_run: Path) -> Path:
    """A folder with a data set, a run, a pretrained model, and an image."""
    shutil.copytree(colours, tmp_path / "data")
    shutil.copytree(cached_run, tmp_path / "run")
    shutil.copy(next((tmp_path / "data").rglob("*.png")), tmp_path / "photo.png")
    (tmp_path / "pretrained").mkdir()
    (tmp_path / "pretrained" / "config.json").write_text('{"model_type": "blip"}')
    (tmp_path / "features.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    return tmp_path


def test_every_command_names_the_missing_extra(folder: Path) -> None:
    """Without any extra; then without one library that is needed later, which must be missed at the start.

    Bug: without python-multipart the service started, and every upload failed with status 500.
    """
    row = {"caption": "red", "score": -1.0, "log_probs": [], "end_log_prob": -1.0, "finished": True}
    lines = (json.dumps({"image": item.image, **row}) for item in load_annotations(folder / "data").split("test"))
    (folder / "captions.jsonl").write_text("\n".join(lines) + "\n")
    before = sorted(folder.rglob("*"))
    hidden = tuple(module for modules in EXTRAS.values() for module in modules)
    commands = [(hidden, command) for command in COMMANDS] + [((module,), command) for module, command in LATER]
    # The hub's client is a dependency of timm: pushing needs no extra.
    *found, pushed = run(folder, [*commands, (hidden, "push run ada/colours --dry-run --out repository")])
    for (missing, command), (code, errors) in zip(commands, found, strict=True):
        extra = COMMANDS[command]
        assert code == 2, f"{command}: {errors}"
        assert errors.count("\n") == 1, f"{command}: {errors}"
        assert errors.endswith(f"run: pip install 'seesay[{extra}]'\n"), f"{command}: {errors}"
        if len(missing) == 1:
            assert f"needs {missing[0]}, which is not installed" in errors
    assert pushed[0] == 0, pushed[1]
    shutil.rmtree(folder / "repository")
    assert sorted(folder.rglob("*")) == before
