"""A trained LoRA adapter is pushed, and generates the same captions from the hub."""

import shutil
from pathlib import Path

import pytest

from seesay import load_captioner
from seesay.captioners.caption import Caption
from seesay.hub.push import PushOptions, push
from seesay.training.train import train
from tests.captioners.pretrained.conftest import Folders, folder_of
from tests.captioners.pretrained.hub import Hub
from tests.training.finetuning.conftest import settings, sixteen

__all__ = ["folder_of", "sixteen"]  # fixtures

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")

BASE, NAME = "ada/blip", "ada/adapter"


def test_a_pushed_adapter_generates_the_same_captions(
    hub: Hub,
    folder_of: Folders,
    sixteen: Path,
    images: list[str],
    tmp_path: Path,
) -> None:
    hub.repositories[BASE] = folder_of("blip")
    config = settings(Path(BASE), lora=True, epochs=1, limit_images=16, warmup_steps=0, learning_rate=5e-2)
    run = tmp_path / "mine"
    train(config, sixteen, run)  # one step

    def captions(model: str | Path) -> list[tuple[str, list[float]]]:
        with load_captioner(model, "cpu") as captioner:
            found = captioner.caption(images[:4], guard=False)
        assert all(isinstance(each, Caption) for each in found)
        return [(each.text, [round(value, 4) for value in each.log_probs]) for each in found]

    expected = captions(run)
    assert expected != captions(BASE), "an adapter without effect would prove nothing"
    push(run, NAME, PushOptions())
    pushed = {path.relative_to(hub.repositories[NAME]).as_posix() for path in hub.repositories[NAME].rglob("*.*")}
    assert {"adapter/adapter_model.safetensors", "captioner.json"} <= pushed
    assert not any(name.startswith("model") for name in pushed), "the base model is not pushed"
    shutil.rmtree(run)
    assert captions(NAME) == expected
