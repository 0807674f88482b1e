"""Missing libraries: each command names the missing one in a line, with exit code 2, before it writes anything."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from seesay.captioners.onnx.manifest import REQUIREMENTS
from seesay.cli.doctor import diagnose
from seesay.data.annotations import load_annotations
from seesay.errors import core_dependencies
from tests.missing import modules_beyond, run

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


def test_every_command_names_the_missing_dependency(folder: Path, exported: Path) -> None:
    # Bug: in the documented installation without torch, commands that need it ended in a traceback, as did `doctor` and
    # a mistyped name of an export.
    shutil.copytree(exported, folder / "app")
    hidden = modules_beyond(REQUIREMENTS)
    before = sorted(folder.rglob("*"))
    commands = {
        "caption photo.png --model run": "torch",
        "export run": "torch",
        "evaluate app data": "",  # whichever is imported first
        "explain photo.png --model app": "",
        "train data": "",
        "doctor --encoders": "",
        "caption photo.png --model app --out new.parquet": "pyarrow",
    }
    *found, mistyped, diagnosed = run(
        folder,
        [*((hidden, each) for each in commands), (hidden, "caption photo.png --model app/nope"), (hidden, "doctor")],
    )
    for (command, library), (code, errors) in zip(commands.items(), found, strict=True):
        assert code == 2, f"{command}: {errors}"
        assert re.fullmatch(
            rf"seesay: error: .* needs {library or '[a-z]+'}, which is not installed; run: pip install seesay\n", errors
        ), f"{command}: {errors}"
    assert mistyped[0] == 2
    assert "no run folder at app/nope" in mistyped[1]
    assert diagnosed == (0, "")
    assert sorted(folder.rglob("*")) == before


def test_the_doctor_lists_missing_dependencies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(sys.modules, "optuna", None)
    rows = dict(diagnose())
    assert (rows["torch"], rows["optuna"]) == (
        "not installed: pip install seesay",
        "not installed: pip install 'seesay[tune]'",
    )
    assert "device" not in rows


def test_a_missing_dependency_is_named_in_python(folder: Path) -> None:
    # Bug: `load_captioner` of a run raised ModuleNotFoundError without torch.
    code = """
import sys
sys.modules["torch"] = None
import seesay
for call in (lambda: seesay.load_captioner("run"), lambda: seesay.load_captioner("nope"), lambda: seesay.train):
    try:
        call()
    except seesay.SeesayError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    run, nope, train = done.stdout.splitlines()
    assert run == "this model needs torch, which is not installed; run: pip install seesay"
    assert nope.startswith("no run folder at nope")
    assert train == "seesay.train needs torch, which is not installed; run: pip install seesay"


def test_other_failed_imports_are_not_replaced() -> None:
    for failed in (ImportError("cannot import name"), ModuleNotFoundError("no torch.new", name="torch.new")):
        with pytest.raises(ImportError, match=str(failed)) as raised, core_dependencies("this"):
            raise failed
        assert raised.value is failed
