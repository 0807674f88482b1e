"""The training benchmark runs the training step of `seesay train`."""

from pathlib import Path

import pytest
import torch
from torch import nn

from bench.contestants import Contestant
from bench.entry import Entry
from bench.our_training import OurSteps, our_module, train_in_loop
from bench.training_data import InMemoryFeatures, TrainingData, random_features, synthetic_examples, synthetic_tokenizer
from bench.tutorial import tutorial
from seesay.training.module import CaptioningModule


@pytest.fixture(scope="module")
def data() -> TrainingData:
    examples = synthetic_examples(16)
    features = InMemoryFeatures([example.id for example in examples], random_features(16, 4, 8))
    return TrainingData(examples, features, synthetic_tokenizer())


def entry(**changes: object) -> Entry:
    settings: dict[str, object] = {"system": "ours", "preset": "attention-gru", "precision": "float32", "threads": 1}
    settings |= {"padding": 20, "steps": 2, "data": None, "store": None, "images": 16}
    return Entry(**{**settings, **changes})  # type: ignore[arg-type]


def module_without_dropout(data: TrainingData) -> CaptioningModule:
    module = our_module(entry(), data)
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    return module


def test_bare_steps_equal_those_of_the_training_loop(data: TrainingData) -> None:
    bare, looped = module_without_dropout(data), module_without_dropout(data)
    first = bare.model.decoder.get_parameter("word_gates.weight").clone()
    steps = OurSteps(bare, bfloat16=False)
    steps.epoch()
    assert train_in_loop(looped) > 0
    assert len(steps.works) == len(bare.batches) == 1
    for (name, weight), (_, other) in zip(bare.named_parameters(), looped.named_parameters(), strict=True):
        torch.testing.assert_close(weight, other, rtol=1e-5, atol=1e-7, msg=name)
    assert not torch.equal(first, bare.model.decoder.get_parameter("word_gates.weight"))


def test_a_round_of_the_tutorial_returns_captions_and_seconds(data: TrainingData) -> None:
    work = tutorial(entry(system="torch", steps=1), data)
    result = work()
    assert result["captions"] == 64
    assert result["seconds"] > 0


def test_an_error_of_a_contestant_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"^.*absent does not exist; [^\n]*$"):
        Contestant(entry(data=tmp_path / "absent"))
