"""Fine-tuning of tiny models: overfitting, frozen weights, exact resume, and the run in every command."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from seesay import load_captioner
from seesay.captioners.pretrained import PretrainedCaptioner
from seesay.checkpoint import is_pretrained_run, load_run, read_run
from seesay.cli import main as cli
from seesay.config import Config, resolve_config
from seesay.data.annotations import load_annotations
from seesay.errors import CheckpointError, ConfigError
from seesay.evaluation import evaluate
from seesay.metrics import CaptionMetrics
from seesay.training.finetuning.module import FinetuningModule
from seesay.training.train import train
from tests.training.finetuning.conftest import CAPTIONS, Folders, settings
from tests.training.outcomes import rows

pytestmark = [
    # Warnings of NumPy and torch about what transformers and peft do.
    pytest.mark.filterwarnings("ignore:__array:DeprecationWarning"),
]

FAST = ("blip-lora",)
SLOW = (
    "blip-full",
    "vision_encoder_decoder-full",
    "vision_encoder_decoder-lora",
    "florence2-full",
    "florence2-lora",
    "smolvlm-full",
    "smolvlm-lora",
)
EPOCHS = {"smolvlm-full": 8, "smolvlm-lora": 10, "florence2-lora": 40}
"""Epochs of training, where not 24."""
systems = pytest.mark.parametrize("system", [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])

Overfitted = Callable[[str], Path]


@pytest.fixture(scope="module")
def overfitted(tmp_path_factory: pytest.TempPathFactory, folder_of: Folders, sixteen: Path) -> Overfitted:
    """Run folders of systems that were trained until they reproduce their captions; tests must not change them."""
    made: dict[str, Path] = {}

    def build(system: str) -> Path:
        if system not in made:
            family, _, kind = system.partition("-")
            folder = tmp_path_factory.mktemp("overfitted") / system
            epochs = EPOCHS.get(system, 24)
            config = settings(folder_of(family), lora=kind == "lora", epochs=epochs, log_every=50, checkpoint_every=500)
            train(config, sixteen, folder)
            made[system] = folder
        return made[system]

    return build


def own_score() -> float:
    """Return the CIDEr times 100 of the training captions themselves."""
    metrics = CaptionMetrics("ptb", ("CIDEr",))
    metrics.update(CAPTIONS, [[caption] for caption in CAPTIONS], [str(place) for place in range(len(CAPTIONS))])
    return 100 * metrics.compute().corpus["CIDEr"]


def images_of(data: Path) -> list[str]:
    return [item.image for item in load_annotations(data).split("val")]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / "model.safetensors")


@systems
def test_overfits_sixteen_images(overfitted: Overfitted, sixteen: Path, system: str) -> None:
    run = overfitted(system)
    assert read_run(run).info.progress["best"] >= 0.9 * own_score()
    assert "train_loss" in (run / "metrics.csv").read_text()
    found = evaluate(run, sixteen, split="val", metrics=("CIDEr",), draws=10)
    assert 100 * found.scores.corpus["CIDEr"] == pytest.approx(read_run(run).info.progress["best"], abs=1e-3)


@systems
def test_only_the_chosen_weights_change(overfitted: Overfitted, folder_of: Folders, system: str) -> None:
    """Frozen weights have the same bytes; adapters leave the pretrained model as it was."""
    run, base = overfitted(system), folder_of(system.partition("-")[0])
    before, digest = weights(base), read_run(run).info.pretrained
    assert digest is not None
    if system.endswith("lora"):
        assert {path.name for path in (run / "adapter").iterdir()} == {
            "adapter_config.json",
            "adapter_model.safetensors",
        }
        adapter = safetensors.torch.load_file(run / "adapter" / "adapter_model.safetensors")
        assert all("lora_" in name for name in adapter)
        assert not any(
            ".vision" in name or (".encoder.layer" in name and "vision_encoder" in system) for name in adapter
        )
        assert not (run / "model").exists()
        return
    after, encoder = weights(run / "model"), []
    captioner = load_captioner(run, "cpu")
    assert isinstance(captioner, PretrainedCaptioner)
    names = captioner.family.image_encoders()
    assert names
    changed = set()
    for name, tensor in before.items():
        if any(f"{part}." in f"{name}" and _is_inside(name, part) for part in names):
            encoder.append(name)
            assert tensor.numpy().tobytes() == after[name].numpy().tobytes(), name
        elif not torch.equal(tensor, after[name]):
            changed.add(name)
    assert encoder
    assert len(changed) > 0.5 * (len(before) - len(encoder))


def _is_inside(name: str, part: str) -> bool:
    """Whether a tensor of a file is of a module; files may lack or add the prefix `model.`."""
    return name.removeprefix("model.").startswith(f"{part.removeprefix('model.')}.")


@systems
@pytest.mark.filterwarnings("ignore::FutureWarning")  # of attributes of transformers that peft reads
def test_merged_equals_adapters_and_transformers_alone(
    overfitted: Overfitted, folder_of: Folders, sixteen: Path, tmp_path: Path, system: str
) -> None:
    from transformers import AutoModelForImageTextToText

    run, images = overfitted(system), images_of(sixteen)
    captioner = load_captioner(run, "cpu")
    assert isinstance(captioner, PretrainedCaptioner)
    found = [caption.text for caption in captioner.caption(images, guard=False)]
    assert cli.main(["export", str(run), "--out", str(tmp_path / "merged")]) == 0
    merged = load_captioner(tmp_path / "merged", "cpu")
    assert isinstance(merged, PretrainedCaptioner)
    options = captioner.options()
    assert [caption.text for caption in merged.caption(images, options, guard=False)] == found

    # transformers and peft alone
    model: Any = AutoModelForImageTextToText.from_pretrained(folder_of(system.partition("-")[0])).eval()
    if system.endswith("lora"):
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(run / "adapter")).eval()
    else:
        model = AutoModelForImageTextToText.from_pretrained(run / "model").eval()
    batch = captioner.encode([captioner.load_inputs(image) for image in images])
    features = dict(batch.parts[0].features)
    # Florence-2 adds a start token, and forces the end at the maximum length.
    arguments = {
        "num_beams": 1,
        "do_sample": False,
        "no_repeat_ngram_size": 0,
        "max_new_tokens": options.max_length + 2 * ("florence2" in system),
    }
    with torch.no_grad():
        tokens = model.generate(**{name: _copy(value) for name, value in features.items()}, **arguments)
        rows_of = captioner.family.training_inputs(
            [Image.fromarray(captioner.load_inputs(image)[0]) for image in images[:4]],
            [captioner.load_inputs(image)[1] for image in images[:4]],
            [[*captioner.family.caption_ids(text), captioner.family.end] for text in CAPTIONS[:4]],
        )
        labels = rows_of.pop("labels")
        first = model(**rows_of).logits[:, -labels.shape[1] :]
        second = merged.model(**rows_of).logits[:, -labels.shape[1] :]
    torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-4)
    prompt = 0 if "input_ids" not in features or "florence2" in system else features["input_ids"].shape[1]
    texts = captioner.tokenizer.batch_decode(tokens[:, prompt:], skip_special_tokens=True)
    assert [text.strip() for text in texts] == found


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, torch.Tensor) else value


class KillError(Exception):
    """Simulates a kill within the process."""


def outcome(folder: Path) -> dict[str, Any]:
    """Return the parts of a finished run that do not depend on time."""
    progress = dict(read_run(folder).info.progress)
    del progress["seconds"]
    names = ("step", "epoch", "train_loss", "val_loss", "val_cider", "learning_rate", "reward", "baseline")
    saved = [path for part in ("adapter", "model") for path in sorted((folder / part).glob("*.safetensors"))]
    assert saved
    return {
        "metrics": [[row[name] for name in names] for row in rows(folder)],
        "progress": progress,
        "files": sorted(path.name for path in folder.iterdir()),
        "weights": [path.read_bytes() for path in saved],
    }


def killed_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real = FinetuningModule.training_step

    def maybe(module: FinetuningModule, *arguments: Any) -> torch.Tensor:
        if module.global_step == step:
            raise KillError
        return real(module, *arguments)

    monkeypatch.setattr(FinetuningModule, "training_step", maybe)


def train_with_kills(config: Config, data: Path, out: Path, steps: Sequence[int]) -> None:
    """Train a run that is killed at some steps, and resumed each time."""
    for step in steps:
        with pytest.MonkeyPatch.context() as patch:
            killed_at(step, patch)
            with pytest.raises(KillError):
                train(config, data, out)
    train(config, data, out)


@pytest.mark.parametrize(
    ("family", "lora"),
    [("blip", True), pytest.param("vision_encoder_decoder", False, marks=pytest.mark.slow)],
)
def test_resuming_equals_uninterrupted_training(
    folder_of: Folders, sixteen: Path, tmp_path: Path, family: str, lora: bool
) -> None:
    """With dropout, momentum and passes; frozen weights are not in the saved state."""
    overrides: dict[str, Any] = {"lora_dropout": 0.1} if lora else {"ema_decay": 0.9}
    config = settings(folder_of(family), lora=lora, captions_per_pass=6, limit_images=48, epochs=2, **overrides)
    train(config, sixteen, tmp_path / "whole")
    # Before anything is saved, within an epoch, and within the next.
    train_with_kills(config, sixteen, tmp_path / "broken", steps=(0, 2, 4))
    assert outcome(tmp_path / "broken") == outcome(tmp_path / "whole")
    state = torch.load(tmp_path / "broken" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert any("lora_" in name for name in state) is lora
    assert not any(name.startswith("model.vision_model.") and not name.endswith("position_ids") for name in state)


@pytest.mark.parametrize("options", [{"captions_per_pass": 3}, {"gradient_checkpointing": True}])
def test_passes_and_checkpointing_train_the_same(
    folder_of: Folders, sixteen: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    """Without dropout, accumulation and recomputation change rounding only."""
    base = shutil.copytree(folder_of("blip"), tmp_path / "base")
    description = json.loads((base / "config.json").read_text())
    for part in ("text_config", "vision_config"):
        description[part] |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "attention_dropout": 0.0}
    (base / "config.json").write_text(json.dumps(description))
    for name, extra in (("plain", {}), ("other", options)):
        train(settings(base, limit_images=32, epochs=1, **extra), sixteen, tmp_path / name)
    plain, other = ([float(row["train_loss"]) for row in rows(tmp_path / name)] for name in ("plain", "other"))
    assert other == pytest.approx(plain, rel=1e-4)
    assert plain[0] != plain[1]


def test_every_command_takes_a_run(
    overfitted: Overfitted, sixteen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    run, image = overfitted("blip-lora"), images_of(sixteen)[0]
    assert is_pretrained_run(run)
    with pytest.raises(CheckpointError, match=r"is a fine-tuned .*blip, not a network of seesay's own"):
        load_run(run)
    out = tmp_path / "captions.jsonl"
    assert cli.main(["caption", image, "--model", str(run), "--out", str(out), "--no-guard"]) == 0
    assert cli.main(["explain", image, "--model", str(run), "--out", str(tmp_path / "page.html")]) == 0
    assert cli.main(["evaluate", str(run), str(sixteen), "--split", "val", "--metrics", "CIDEr", "--draws", "10"]) == 0
    assert (run / "predictions" / "val" / "scores.json").is_file()
    assert cli.main(["compare", str(run), str(run), "--split", "val", "--metrics", "CIDEr", "--draws", "10"]) == 0
    capsys.readouterr()
    assert cli.main(["export", str(run), "--format", "onnx"]) == 2
    assert "is not exported to ONNX; drop --format onnx" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine").symlink_to(run)
    assert cli.main(["models"]) == 0
    assert "runs/mine" in capsys.readouterr().out


def test_a_caption_of_a_run_has_its_prompt_and_length(overfitted: Overfitted) -> None:
    captioner = load_captioner(overfitted("blip-lora"), "cpu")
    assert captioner.name == "blip-lora"
    assert captioner.options().max_length == 3
    assert captioner.folders == (overfitted("blip-lora"),)
    assert not captioner.punctuates
    (identity,) = captioner.identities()
    assert len(identity.digest) == 16


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"hidden_size": 3}, r"model.hidden_size is 3, which this fine-tuning of a pretrained model does not read"),
        ({"lora_rank": 3}, r"finetuning.lora_rank is 3, .*add --lora"),
        ({"encoder_training": "cached"}, r"fine-tuning stores no features; set it to frozen or full"),
        ({"encoder_learning_rate": 1e-3}, r"the image encoder is frozen; add --encoder-training full"),
        ({"scheduled_sampling": 0.1}, r"training.scheduled_sampling is 0.1, which"),
    ],
)
def test_settings_without_effect_raise(
    folder_of: Folders, sixteen: Path, tmp_path: Path, overrides: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        train(settings(folder_of("blip"), **overrides), sixteen, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_unknown_layers_raise(folder_of: Folders, sixteen: Path, tmp_path: Path) -> None:
    config = settings(folder_of("blip"), lora=True, lora_targets=("q_proj",))
    with pytest.raises(ConfigError, match=r"lora_targets q_proj: .* it has dense, key, query, value"):
        train(config, sixteen, tmp_path / "run")


def test_the_preset_needs_a_model() -> None:
    with pytest.raises(ConfigError, match=r"the preset finetune needs finetuning.model; set it, as with --model NAME"):
        resolve_config("finetune")


def test_a_changed_base_model_raises(overfitted: Overfitted, folder_of: Folders, tmp_path: Path) -> None:
    run = shutil.copytree(overfitted("blip-lora"), tmp_path / "run")
    info = json.loads((run / "captioner.json").read_text())
    info["pretrained"]["revision"] = "0" * 16
    (run / "captioner.json").write_text(json.dumps(info))
    with pytest.raises(CheckpointError, match=r"has changed since it was fine-tuned \(digest 0000"):
        load_captioner(run, "cpu")


def test_augmented_images_are_flipped_and_cropped(folder_of: Folders, sixteen: Path, tmp_path: Path) -> None:
    losses = []
    augmentation: dict[str, Any] = {"hflip_prob": 0.5, "crop_fraction": 0.3}
    for name, changes in (("plain", {}), ("augmented", augmentation)):
        train(settings(folder_of("blip"), limit_images=32, epochs=1, **changes), sixteen, tmp_path / name)
        losses.append([row["train_loss"] for row in rows(tmp_path / name)])
    assert losses[0] != losses[1]
    assert np.isfinite([float(loss) for loss in losses[1]]).all()


@pytest.mark.slow
def test_two_processes_train_the_weights_of_one(folder_of: Folders, sixteen: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "seesay", "train", str(sixteen), "--model", str(folder_of("blip")), "--lora"]
    command += ["--epochs", "2", "--lora-dropout", "0", "--precision", "float32", "--device", "cpu"]
    weights = []
    for devices in (1, 2):
        out = tmp_path / str(devices)
        subprocess.run([*command, "--devices", str(devices), "--out", str(out)], check=True, timeout=300)
        weights.append(safetensors.torch.load_file(out / "adapter" / "adapter_model.safetensors"))
    one, two = weights
    assert one.keys() == two.keys()
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=0, atol=1e-6)
