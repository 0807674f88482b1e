import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml

from seesay.checkpoint import is_run, load_run, load_weights, save_run, save_weights, update_progress
from seesay.errors import CheckpointError
from seesay.models.captioning import CaptionModel, build_model
from seesay.models.encoders import build_encoder
from seesay.tokenizer import Tokenizer


@pytest.fixture
def run(cached_run: Path, tmp_path: Path) -> Path:
    """A copy of a run, which tests may modify."""
    return shutil.copytree(cached_run, tmp_path / "run")


def build(folder: Path, **sizes: Any) -> CaptionModel:
    run = load_run(folder)
    encoder = build_encoder(run.config.encoder, identity=run.info.features)
    config = run.config.model.replace(**sizes)
    return build_model(config, run.info.vocabulary_size, run.info.feature_size, encoder)


def test_a_run_survives_a_round_trip(cached_run: Path, tmp_path: Path) -> None:
    run = load_run(cached_run)
    save_run(tmp_path / "new" / "run", run.config, run.info, run.tokenizer)
    again = load_run(tmp_path / "new" / "run")
    assert (again.config, again.info) == (run.config, run.info)
    assert again.tokenizer.vocabulary == run.tokenizer.vocabulary
    assert is_run(tmp_path / "new" / "run")
    assert not is_run(tmp_path / "new")


def test_weights_survive_a_round_trip(tmp_path: Path) -> None:
    weights = {"a": torch.randn(3, 4).T, "b": torch.zeros(2, requires_grad=True)}
    save_weights(tmp_path, weights)
    read = safetensors.torch.load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(read[name], tensor) for name, tensor in weights.items())


def test_progress_is_merged(run: Path) -> None:
    info = update_progress(run, load_run(run).info, epochs=99)
    assert load_run(run).info == info
    assert (info.progress["epochs"], info.progress["finished"]) == (99, True)


@pytest.mark.parametrize("name", ["config.yaml", "captioner.json", "tokenizer.json"])
@pytest.mark.parametrize("content", [None, b"", b"half", b"5", b"[]", b"\xff\xfe\xfa"])
def test_a_missing_or_damaged_file_is_reported_in_one_line(run: Path, name: str, content: bytes | None) -> None:
    path = run / name
    half = path.read_bytes()[: path.stat().st_size // 2]
    path.unlink()
    if content is not None:
        path.write_bytes(half if content == b"half" else content)
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")) as caught:
        load_run(run)
    assert "\n" not in str(caught.value)


def test_folders_that_are_no_runs_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no run folder at"):
        load_run(tmp_path / "gone")
    with pytest.raises(CheckpointError, match=r"not a run folder: it has no captioner\.json"):
        load_run(tmp_path)


def test_an_unknown_setting_of_another_version_is_reported(run: Path) -> None:
    values = yaml.safe_load((run / "config.yaml").read_text())
    values["training"]["warp"] = 9
    (run / "config.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(CheckpointError, match=r"cannot be used: .*unknown configuration key 'training\.warp'"):
        load_run(run)


def test_a_run_of_a_later_format_is_an_error(run: Path) -> None:
    content = json.loads((run / "captioner.json").read_text())
    (run / "captioner.json").write_text(json.dumps({**content, "format": 2}))
    with pytest.raises(CheckpointError, match="another version of seesay"):
        load_run(run)


def test_the_vocabulary_of_another_run_is_an_error(run: Path) -> None:
    config = load_run(run).config.text
    Tokenizer.build(["quite another caption"], config).save(run / "tokenizer.json")
    with pytest.raises(CheckpointError, match=r"has 7 words but the model \d+; they belong to different runs"):
        load_run(run)


def test_a_run_without_weights_is_an_error(run: Path) -> None:
    (run / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no model\.safetensors yet: its first epoch is not finished"):
        load_weights(load_run(run), build(run))


@pytest.mark.parametrize("keep", [0.0, 0.01, 0.5, 0.99])
def test_truncated_weights_are_an_error(run: Path, keep: float) -> None:
    path = run / "model.safetensors"
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged or cut short") as caught:
        load_weights(load_run(run), build(run))
    assert "\n" not in str(caught.value)


def test_weights_of_another_model_are_an_error(cached_run: Path) -> None:
    run = load_run(cached_run)
    load_weights(run, build(cached_run))
    with pytest.raises(CheckpointError, match=r"does not match the run's configuration: \d+ tensors, such as decoder"):
        load_weights(run, build(cached_run, hidden_size=33))
    with pytest.raises(CheckpointError, match=r"tensors, such as decoder\.output\.0"):
        load_weights(run, build(cached_run, output_size=8))


def test_a_full_disk_keeps_the_earlier_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_weights(tmp_path, {"a": torch.ones(2)})

    def fail(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half")
        raise safetensors.SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(safetensors.torch, "save_file", fail)
    with pytest.raises(CheckpointError, match=r"cannot write .*model\.safetensors .*No space left.*make room"):
        save_weights(tmp_path, {"a": torch.zeros(2)})
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    assert torch.equal(safetensors.torch.load_file(tmp_path / "model.safetensors")["a"], torch.ones(2))
