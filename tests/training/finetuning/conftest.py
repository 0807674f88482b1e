"""A data set of sixteen images whose captions are in the vocabulary of the tiny models."""

from pathlib import Path
from typing import Any

import pytest

from seesay.config import Config, resolve_config
from seesay.data.annotations import Annotation, load_annotations, write_annotations
from tests.captioners.pretrained.conftest import Folders, folder_of

__all__ = ["Folders", "folder_of"]

COLOURS, NOUNS = ("red", "green", "blue", "big"), ("dog", "cat", "man", "bird")
CAPTIONS = [f"a {colour} {noun}" for colour in COLOURS for noun in NOUNS]


COPIES = 8
"""How often a training image occurs per epoch, so that validations are rare."""


@pytest.fixture(scope="session")
def sixteen(tmp_path_factory: pytest.TempPathFactory, colours: Path) -> Path:
    """Sixteen images with one caption each, in `COPIES` copies; the validation images are the same."""
    # One image per pair of colours: encoders of random weights hardly distinguish red beside blue from blue beside red.
    pairs = {frozenset(item.id.split("-")): item.image for item in load_annotations(colours)}
    images = list(pairs.values())[: len(CAPTIONS)]
    splits = [*("train" for _ in range(COPIES)), "val"]
    items = [
        Annotation(f"{copy}-{number}", image, (caption,), split)
        for copy, split in enumerate(splits)
        for number, (image, caption) in enumerate(zip(images, CAPTIONS, strict=True))
    ]
    path = tmp_path_factory.mktemp("sixteen") / "captions.jsonl"
    write_annotations(items, path)
    return path


def settings(model: Path, *, lora: bool = False, **overrides: Any) -> Config:
    """Return settings with which a tiny model learns fast."""
    values = {
        "model": str(model),
        "device": "cpu",
        "precision": "float32",
        "batch_captions": 16,
        "learning_rate": 5e-3,
        "weight_decay": 0.0,
        "warmup_steps": 10,
        "patience": 0,
        "epochs": 2,
        "log_every": 1,
        "checkpoint_every": 3,
    }
    if lora:
        values |= {"lora_targets": ("all-linear",), "lora_dropout": 0.0, "lora_rank": 32, "lora_alpha": 64.0}
    return resolve_config("finetune-lora" if lora else "finetune", overrides={**values, **overrides})
