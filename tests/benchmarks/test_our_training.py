"""What the training benchmark times is what `seesay train` does."""

from pathlib import Path

import pytest
import torch
from torch import nn

from bench.contestants import Contestant, Entry
from bench.material import KeptFeatures, TrainingData, made_up_examples, made_up_tokenizer, random_features
from bench.our_training import OurSteps, our_module, train_in_loop
from bench.tutorial import tutorial
from seesay.training.module import CaptioningModule


@pytest.fixture(scope="module")
def material() -> TrainingData:
    examples = made_up_examples(16)
    features = KeptFeatures([example.id for example in examples], random_features(16, 4, 8))
    return TrainingData(examples, features, made_up_tokenizer())


def entry(**changes: object) -> Entry:
    given: dict[str, object] = {"system": "ours", "preset": "attention-gru", "precision": "float32", "threads": 1}
    given |= {"padding": 20, "steps": 2, "data": None, "store": None, "images": 16}
    return Entry(**{**given, **changes})  # type: ignore[arg-type]


def module_without_chances(material: TrainingData) -> CaptioningModule:
    module = our_module(entry(), material)
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    return module


def test_bare_steps_are_those_of_the_training_loop(material: TrainingData) -> None:
    alone, looped = module_without_chances(material), module_without_chances(material)
    first = alone.model.decoder.get_parameter("word_gates.weight").clone()
    steps = OurSteps(alone, bfloat16=False)
    steps.epoch()
    assert train_in_loop(looped) > 0
    assert len(steps.works) == len(alone.batches) == 1
    for (name, weight), (_, other) in zip(alone.named_parameters(), looped.named_parameters(), strict=True):
        torch.testing.assert_close(weight, other, rtol=1e-5, atol=1e-7, msg=name)
    assert not torch.equal(first, alone.model.decoder.get_parameter("word_gates.weight"))


def test_a_round_of_the_tutorial_says_how_many_captions_it_took(material: TrainingData) -> None:
    work = tutorial(entry(system="torch", steps=1), material)
    found = work()
    assert found["captions"] == 64
    assert found["seconds"] > 0


def test_what_a_contestant_cannot_do_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"^.*absent does not exist; [^\n]*$"):
        Contestant(entry(data=tmp_path / "absent"))
