from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from seesay.training.ema import EmaWeights
from seesay.training.train import train
from tests import tiny
from tests.training.outcomes import epochs


def test_the_average_follows_its_recursion_and_is_validated_and_saved(
    colours: Path, features: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test records the weights of every step and averages them."""
    recorded: list[dict[str, Tensor]] = []
    real_start, real_end = EmaWeights.on_train_start, EmaWeights.on_train_batch_end

    def note(module: Any) -> None:
        recorded.append({name: weight.detach().clone() for name, weight in module.model.named_parameters()})

    def on_start(self: EmaWeights, trainer: Any, module: Any) -> None:
        note(module)
        real_start(self, trainer, module)

    def on_end(self: EmaWeights, trainer: Any, module: Any, *rest: Any) -> None:
        note(module)
        real_end(self, trainer, module, *rest)

    monkeypatch.setattr(EmaWeights, "on_train_start", on_start)
    monkeypatch.setattr(EmaWeights, "on_train_batch_end", on_end)
    config = tiny.cached(weights, ema_decay=0.5, epochs=2, monitor="val_loss")
    result = train(config, colours, tmp_path / "run", features=features)
    assert len(recorded) == 1 + 12
    average = recorded[0]
    kept: list[dict[str, Tensor]] = []
    for step, now in enumerate(recorded[1:], start=1):
        decay = min(0.5, (1 + step) / (10 + step))
        average = {name: decay * average[name] + (1 - decay) * now[name] for name in now}
        if step % 6 == 0:
            kept.append(average)
    model = safetensors.torch.load_file(tmp_path / "run" / "model.safetensors")
    for name, tensor in kept[result.best_epoch - 1].items():
        torch.testing.assert_close(model[name], tensor)
    for epoch, path in enumerate(sorted((tmp_path / "run" / "checkpoints").glob("epoch*"))):
        state = torch.load(path, weights_only=True)["state_dict"]
        for name, tensor in kept[epoch].items():
            torch.testing.assert_close(state[f"model.{name}"], tensor)
    assert not torch.allclose(kept[1]["projection.0.weight"], recorded[-1]["projection.0.weight"])


def test_the_average_does_not_change_training(colours: Path, features: Path, weights: Path, tmp_path: Path) -> None:
    for name, decay in (("plain", 0.0), ("averaged", 0.9)):
        train(tiny.cached(weights, ema_decay=decay, epochs=3), colours, tmp_path / name, features=features)
    assert epochs(tmp_path / "plain", "train_loss") == epochs(tmp_path / "averaged", "train_loss")
    assert epochs(tmp_path / "plain", "val_loss") != epochs(tmp_path / "averaged", "val_loss")
