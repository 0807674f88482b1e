"""The results of a training run in a form that can be compared."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch

from seesay.checkpoint import load_run
from seesay.config import Config
from seesay.training.module import CaptioningModule
from seesay.training.train import train

EXACT = ("step", "epoch", "train_loss", "val_loss", "val_cider", "learning_rate", "reward", "baseline")


def rows(folder: Path) -> list[dict[str, str]]:
    """Return the rows of metrics.csv, complete lines only; empty if the file does not exist."""
    try:
        lines = (folder / "metrics.csv").read_text(encoding="utf-8").split("\n")[:-1]
    except FileNotFoundError:
        return []
    return list(csv.DictReader(lines))


def step(folder: Path) -> int:
    """Return the last step in metrics.csv."""
    found = rows(folder)
    return int(found[-1]["step"]) if found else 0


def epochs(folder: Path, column: str) -> list[float]:
    """Return a column of the rows that end an epoch."""
    return [float(row[column]) for row in rows(folder) if row["val_loss"]]


def outcome(folder: Path) -> dict[str, Any]:
    """Return the parts of a finished run that do not depend on time."""
    progress = dict(load_run(folder).info.progress)
    del progress["seconds"]
    return {
        "metrics": [[row[name] for name in EXACT] for row in rows(folder)],
        "progress": progress,
        "checkpoints": sorted(path.name for path in (folder / "checkpoints").iterdir()),
        "files": sorted(path.name for path in folder.iterdir()),
        "weights": (folder / "model.safetensors").read_bytes(),
    }


def first_loss(config: Config, folder: Path, data: Path, features: Path) -> float:
    """Return the loss of the first training step."""
    found: list[float] = []
    step = CaptioningModule.training_step

    def watched(module: CaptioningModule, *arguments: Any) -> torch.Tensor:
        loss = step(module, *arguments)
        found.append(float(loss.detach()))
        return loss

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CaptioningModule, "training_step", watched)
        train(config, data, folder, features=features)
    return found[0]
