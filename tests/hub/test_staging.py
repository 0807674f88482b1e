"""What is pushed of fine-tuned runs: adapters and full models, with names in place of paths of this machine."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from seesay.config import resolve_config, save_config
from seesay.errors import CheckpointError
from seesay.hub import push as pushing
from seesay.hub.card import CardOptions
from seesay.hub.facts import RunFacts, is_local_path, name_only, read_facts
from seesay.hub.push import write_repository

BASE = "Salesforce/blip-image-captioning-base"
COMMIT = "82a37760796d32b1411fe092ab5d4e227313294b"
SNAPSHOT = f"/home/ada/.cache/huggingface/hub/models--Salesforce--blip-image-captioning-base/snapshots/{COMMIT}"


@pytest.fixture(autouse=True)
def snippet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the run of the usage snippet, which needs the base model."""
    monkeypatch.setattr(pushing, "run_snippet", lambda folder, image: "a dog on the grass")


def fine_tuned(folder: Path, base: str, *, lora: bool) -> Path:
    """Write a fine-tuned run as training writes it, with paths of another machine."""
    tensors = {"a": torch.zeros(3, 4), "b": torch.ones(5)}
    files: dict[str, Any] = {
        "captioner.json": {
            "format": 1,
            "seesay": "0.1.0",
            "data": "/home/ada/photos/garden",
            "progress": {"finished": True, "epochs": 2, "best": 71.5, "best_epoch": 2, "seconds": 9.0},
            "captions": {"train": "10 images, 20 captions, digest 01234567"},
            "pretrained": {"model": base, "revision": COMMIT, "family": "blip", "lora": lora},
        }
    }
    if lora:
        adapter = {"peft_type": "LORA", "base_model_name_or_path": SNAPSHOT, "revision": None, "r": 8}
        files |= {"adapter/adapter_config.json": adapter, "adapter/adapter_model.safetensors": tensors}
        files |= {"adapter/README.md": "a template of peft"}
    else:
        files |= {"model/config.json": {"model_type": "blip", "_name_or_path": SNAPSHOT}, "model/vocab.txt": "a\n"}
        files |= {"model/model.safetensors": tensors, "model/tokenizer_config.json": {"name_or_path": BASE}}
        files |= {"model/modeling_blip.py": "print()"}
    files |= {"checkpoints/last.ckpt": "state", "metrics.csv": "epoch,loss\n"}
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".safetensors":
            save_file(content, path)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content))
    save_config(resolve_config(), folder / "config.yaml")
    return folder


def written(run: Path, out: Path) -> tuple[set[str], dict[str, Any], str]:
    """The files that would be pushed, the card's metadata and its text."""
    write_repository(read_facts(run), out, "ada/garden", CardOptions())
    files = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    _, metadata, text = (out / "README.md").read_text().split("---\n", 2)
    assert not any(b"/home/ada" in (out / name).read_bytes() for name in files)
    return files, yaml.safe_load(metadata), text


def test_an_adapter_names_its_base_model_and_revision(tmp_path: Path) -> None:
    files, metadata, text = written(fine_tuned(tmp_path / "run", BASE, lora=True), tmp_path / "out")
    assert files == {
        *("README.md", "captioner.json", "config.yaml", "metrics.csv"),
        *("adapter/adapter_config.json", "adapter/adapter_model.safetensors"),
    }
    adapter = json.loads((tmp_path / "out/adapter/adapter_config.json").read_text())
    assert adapter == {"peft_type": "LORA", "base_model_name_or_path": BASE, "revision": COMMIT, "r": 8}
    info = json.loads((tmp_path / "out/captioner.json").read_text())
    assert info["pretrained"] == {"model": BASE, "revision": COMMIT, "family": "blip", "lora": True}
    assert (metadata["base_model"], metadata["base_model_relation"]) == (BASE, "adapter")
    assert f"a LoRA adapter of `{BASE}` at revision `{COMMIT}`" in text
    assert f"| base model revision | {COMMIT} |" in text
    assert "| stored parameters | 17 |" in text
    assert "pip install 'seesay[hub] @ " in text
    assert "- train split: 10 images, 20 captions, digest 01234567\n" in text


def test_a_full_model_needs_no_base_model(tmp_path: Path) -> None:
    for base in (BASE, "/home/ada/models/blip"):
        run = fine_tuned(tmp_path / name_only(base), base, lora=False)
        files, metadata, text = written(run, tmp_path / f"out-{name_only(base)}")
        assert {name for name in files if name.startswith("model/")} == {
            *("model/config.json", "model/model.safetensors", "model/tokenizer_config.json", "model/vocab.txt"),
        }
        public = base if base == BASE else "blip"
        info = json.loads((tmp_path / f"out-{name_only(base)}/captioner.json").read_text())
        assert info["pretrained"]["model"] == public
        assert metadata.get("base_model") == (BASE if base == BASE else None)
        assert metadata.get("base_model_relation") == ("finetune" if base == BASE else None)
        assert f"a fine-tuned copy of `{public}`" in text


def test_an_adapter_of_a_local_model_is_not_pushed(tmp_path: Path) -> None:
    run = fine_tuned(tmp_path / "run", "/home/ada/models/blip", lora=True)
    with pytest.raises(CheckpointError, match="adapts the local model /home/ada/models/blip, which others do not have"):
        written(run, tmp_path / "out")


def test_a_damaged_adapter(tmp_path: Path) -> None:
    run = fine_tuned(tmp_path / "run", BASE, lora=True)
    (run / "adapter/adapter_config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"adapter_config\.json of .* is damaged"):
        written(run, tmp_path / "out")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/home/ada/data/flickr8k", "flickr8k"),
        ("C:\\Users\\ada\\flickr8k\\", "flickr8k"),
        ("data/captions.csv", "captions.csv"),
        ("hf:ada/garden:small", "hf:ada/garden:small"),
        ("..", "unnamed data"),
        ("", "unnamed data"),
    ],
)
def test_the_name_of_the_data(path: str, name: str, tmp_path: Path) -> None:
    facts = RunFacts(tmp_path, {"data": path}, resolve_config(), (), ())
    assert facts.data == name


def test_local_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    assert all(map(is_local_path, ("/a", "~/a", "D:\\a", "d:/a", "\\\\server\\a", "models")))
    assert not any(map(is_local_path, (BASE, "tf_efficientnet_lite0", "80/10/10", "hf:a/b", "")))
