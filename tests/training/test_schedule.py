import math
from pathlib import Path

import pytest
import torch
from torch import nn

from seesay.config import TrainingConfig
from seesay.training.schedule import build_optimizer, rate_factor
from seesay.training.train import train
from tests import tiny
from tests.training.outcomes import rows


def schedule_factors(steps_per_epoch: int = 10, **settings: object) -> list[float]:
    training = TrainingConfig(**settings)  # type: ignore[arg-type]
    factor = rate_factor(training, steps_per_epoch)
    return [factor(step) for step in range(training.epochs * steps_per_epoch + 1)]


def test_lr_drops_equal_those_of_torch() -> None:
    factors = schedule_factors(epochs=6, lr_drop_epochs=(2, 4), lr_drop=0.5)
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 4], 0.5)
    for epoch in range(6):
        assert factors[10 * epoch : 10 * epoch + 10] == [pytest.approx(optimizer.param_groups[0]["lr"])] * 10
        optimizer.step()
        schedule.step()


def test_cosine_equals_that_of_torch_and_replaces_drops() -> None:
    factors = schedule_factors(epochs=4, lr_schedule="cosine", lr_drop_epochs=(1,))
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40)
    for factor in factors:
        assert factor == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
        optimizer.step()
        schedule.step()
    assert factors[0] == 1
    assert factors[-1] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_warm_up_is_linear(schedule: str) -> None:
    factors = schedule_factors(epochs=3, warmup_steps=8, lr_schedule=schedule)
    assert factors[:8] == pytest.approx([(step + 1) / 8 for step in range(8)])
    assert factors[8] == 1
    assert max(factors) == 1
    middle = 8 + (30 - 8) // 2
    assert factors[middle] == pytest.approx(1 if schedule == "constant" else math.cos(math.pi / 4) ** 2)


def test_a_warm_up_that_training_would_not_finish_is_shortened() -> None:
    # Bug: with a small data set the learning rate did not reach its value, and the model learned nothing.
    factors = schedule_factors(epochs=3, warmup_steps=30)
    assert factors[:4] == pytest.approx([1 / 3, 2 / 3, 1, 1])
    assert schedule_factors(epochs=3, warmup_steps=29)[28] == 1


def test_the_logged_learning_rate_is_that_of_the_step(
    colours: Path, features: Path, weights: Path, tmp_path: Path
) -> None:
    config = tiny.cached(weights, warmup_steps=4, lr_schedule="cosine", log_every=1, epochs=2)
    train(config, colours, tmp_path / "run", features=features)
    factor = rate_factor(config.training, 6)
    steps = [row for row in rows(tmp_path / "run") if not row["val_loss"]]
    wanted = [config.training.learning_rate * factor(step) for step in range(12)]
    assert [float(row["learning_rate"]) for row in steps] == pytest.approx(wanted)


def test_a_trained_encoder_has_its_own_learning_rate_with_the_same_schedule() -> None:
    model = nn.ModuleDict({"encoder": nn.Linear(2, 2), "decoder": nn.Linear(2, 2)})
    training = TrainingConfig(learning_rate=1e-2, encoder_learning_rate=1e-4, warmup_steps=2)
    optimizer = build_optimizer(training, model)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate_factor(training, 5))
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.5e-2, 0.5e-4])
    model["encoder"](model["decoder"](torch.ones(1, 2))).sum().backward()
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    optimizer.step()
    schedule.step()
    moved = {name: float((weight.detach() - before[name]).abs().max()) for name, weight in model.named_parameters()}
    assert moved["encoder.bias"] == pytest.approx(0.5e-4, rel=1e-3)  # Adam's first step equals its learning rate
    assert moved["decoder.bias"] == pytest.approx(0.5e-2, rel=1e-3)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([1e-2, 1e-4])


def test_the_encoder_uses_the_common_learning_rate_by_default_and_none_if_frozen() -> None:
    model = nn.ModuleDict({"encoder": nn.Linear(2, 2), "decoder": nn.Linear(2, 2)})
    optimizer = build_optimizer(TrainingConfig(learning_rate=3e-3), model)
    assert [group["lr"] for group in optimizer.param_groups] == [3e-3, 3e-3]
    model["encoder"].requires_grad_(False)
    (group,) = build_optimizer(TrainingConfig(encoder_learning_rate=1e-5), model).param_groups
    assert len(group["params"]) == 2
