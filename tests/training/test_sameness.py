from pathlib import Path

import pytest
import torch

from seesay.config import Config, resolve_config
from seesay.training.sameness import MIN_IMAGES, SamenessCheck
from seesay.training.train import train
from tests import tiny

SAME = ["a dog"] * 10
DIFFERENT = [f"a dog and {number} cats" for number in range(10)]


def config(rate: float, **overrides: object) -> Config:
    return resolve_config(overrides={"learning_rate": rate, **overrides})


@pytest.mark.parametrize(
    ("rate", "losses", "cause"),
    [
        (1e-3, [3.0, 3.5], "the learning rate, 0.001, is too high (the validation loss rose from 3.000 to 3.500)"),
        (0.1, [3.0, 2.9], "the learning rate, 0.1, is too high (usual rates are at most 0.01)"),
        (1e-3, [3.0, 2.9], "too little training"),
    ],
)
def test_names_the_likely_cause_once(rate: float, losses: list[float], cause: str) -> None:
    check = SamenessCheck(config(rate))
    lines = [check.find(SAME, loss, epoch) for epoch, loss in enumerate(losses)]
    (line,) = filter(None, lines)
    assert line.startswith('10 of 10 validation images have the caption "a dog". Likely cause: ')
    assert cause in line
    assert check.find(SAME, losses[-1], 2) == ""
    assert check.find(DIFFERENT, losses[-1], 3) == ""
    assert check.find(SAME, 9.0, 4), "reported again after captions differed"


def test_equal_inputs_point_to_the_preprocessing() -> None:
    check, noise = SamenessCheck(config(1e-3)), torch.randn(1, 3, 8, 8)
    check.watch(noise.expand(6, 3, 8, 8) + 1e-4 * torch.randn(6, 3, 8, 8))
    assert "preprocessing: the inputs of the model are nearly equal" in check.find(SAME, 3.0, 0)
    check = SamenessCheck(config(1e-3))
    check.watch(torch.randn(6, 3, 8, 8))
    assert check.find(SAME, 3.0, 0) == "", "the first epoch of a sound training"


def test_usual_rates_depend_on_what_is_trained() -> None:
    for overrides, usual in (({"model": "x"}, "0.0001"), ({"model": "x", "lora": True}, "0.001"), ({}, "0.01")):
        line = SamenessCheck(config(0.05, **overrides)).find(SAME, 3.0, 0)
        assert f"usual rates are at most {usual})" in line


def test_a_few_images_may_be_alike() -> None:
    check = SamenessCheck(config(0.1))
    assert check.find(SAME[: MIN_IMAGES - 1], 3.0, 1) == ""
    assert check.find([*SAME[:-2], *DIFFERENT[:2]], 3.0, 2) == ""


def test_training_logs_it(
    colours: Path, features: Path, weights: Path, tmp_path: Path, log_capture: pytest.LogCaptureFixture
) -> None:
    """A network of seesay's own with a learning rate far too high generates one caption."""
    values = {"learning_rate": 50.0, "max_grad_norm": 0.0, "optimizer": "rmsprop", "epochs": 3, "resplit": True}
    settings = tiny.cached(weights, split_fractions="50/50", **values)
    train(settings, colours, tmp_path / "run", features=tmp_path / "features")
    assert any("Likely cause: the learning rate, 50, is too high" in line for line in log_capture.messages)
