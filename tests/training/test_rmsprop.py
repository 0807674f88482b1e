"""Our RMSprop against torch's, on gradients that are given."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seesay.models.kernels import kernels_for
from seesay.training.rmsprop import RMSprop

SETTINGS: dict[str, Any] = {"lr": 0.02, "alpha": 0.9, "eps": 1e-7}
SHAPES = [(300, 201), (7,), (1,)]


def weights() -> list[nn.Parameter]:
    torch.manual_seed(5)
    return [nn.Parameter(torch.randn(shape)) for shape in SHAPES]


def train(made: torch.optim.Optimizer, on: list[nn.Parameter], steps: int, seed: int = 1) -> None:
    dropout_masks = torch.Generator().manual_seed(seed)
    for _ in range(steps):

        def closure() -> float:
            for each in on:
                each.grad = (
                    torch.randn(each.shape, generator=dropout_masks).to(each.dtype) if each.requires_grad else None
                )
            return 3.5

        assert made.step(closure) == 3.5


def same(ours: list[nn.Parameter], theirs: list[nn.Parameter]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("more", [{}, {"weight_decay": 0.1}, {"momentum": 0.5}, {"centered": True}, {"maximize": True}])
def test_it_is_torchs(more: dict[str, Any]) -> None:
    ours, theirs = weights(), weights()
    one, other = RMSprop(ours, **SETTINGS, **more), torch.optim.RMSprop(theirs, **SETTINGS, **more)
    train(one, ours, 20)
    train(other, theirs, 20)
    same(ours, theirs)
    torch.testing.assert_close(one.state_dict()["state"], other.state_dict()["state"], rtol=1e-5, atol=1e-6)


def test_rates_of_groups_and_weights_without_gradient_are_minded() -> None:
    ours, theirs = weights(), weights()
    for kind, on in ((RMSprop, ours), (torch.optim.RMSprop, theirs)):
        on[1].requires_grad_(False)
        groups: list[dict[str, Any]] = [{"params": on[:2], "lr": 0.1}, {"params": on[2:]}]
        train(kind(groups, **SETTINGS), on, 5)
    same(ours, theirs)
    assert torch.equal(ours[1], weights()[1])
    assert not torch.equal(ours[0], weights()[0])


def test_a_loaded_state_goes_on() -> None:
    first = weights()
    made = RMSprop(first, **SETTINGS)
    train(made, first, 2)
    second = copy.deepcopy(first)
    again = RMSprop(second, **SETTINGS)
    again.load_state_dict(copy.deepcopy(made.state_dict()))
    train(made, first, 3, seed=2)
    train(again, second, 3, seed=2)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.skipif(kernels_for(torch.zeros(1)) is None, reason="needs a C compiler (cc)")
def test_after_the_first_step_it_is_c_that_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    on = weights()
    made = RMSprop(on, **SETTINGS)
    train(made, on, 1)
    monkeypatch.setattr(torch.optim.RMSprop, "step", lambda _: pytest.fail("torch's step"))
    train(made, on, 2)


@pytest.mark.parametrize("other", [torch.ones(4, 3, dtype=torch.float64), torch.ones(3, 4).T, torch.ones(0, 3)])
def test_what_c_cannot_read_is_left_to_torch(other: Tensor) -> None:
    on = [*weights(), nn.Parameter(other)]
    theirs = copy.deepcopy(on)
    train(RMSprop(on, **SETTINGS), on, 4)
    train(torch.optim.RMSprop(theirs, **SETTINGS), theirs, 4)
    same(on, theirs)


@pytest.mark.skipif(kernels_for(torch.zeros(1)) is None, reason="needs a C compiler (cc)")
def test_an_encoders_weights_may_lie_channels_last(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(2)
    shapes = [(6, 5, 3, 3), (7, 1, 3, 3), (4, 6, 1, 1)]
    on = [nn.Parameter(torch.randn(shape).to(memory_format=torch.channels_last)) for shape in shapes]
    theirs = copy.deepcopy(on)

    def run(made: torch.optim.Optimizer, on: list[nn.Parameter], steps: int, seed: int) -> None:
        dropout_masks = torch.Generator().manual_seed(seed)
        for _ in range(steps):
            for each in on:
                each.grad = torch.randn(each.shape, generator=dropout_masks).to(memory_format=torch.channels_last)
            made.step()

    ours, wanted = RMSprop(on, **SETTINGS), torch.optim.RMSprop(theirs, **SETTINGS)
    run(wanted, theirs, 1, seed=1)
    run(wanted, theirs, 4, seed=2)
    run(ours, on, 1, seed=1)
    monkeypatch.setattr(torch.optim.RMSprop, "step", lambda _: pytest.fail("torch's step"))
    run(ours, on, 4, seed=2)
    same(on, theirs)


def test_weights_that_thaw_later_join_in() -> None:
    ours, theirs = weights(), weights()
    for kind, on in ((RMSprop, ours), (torch.optim.RMSprop, theirs)):
        on[1].requires_grad_(False)
        made = kind(on, **SETTINGS)
        train(made, on, 3)
        on[1].requires_grad_(True)
        train(made, on, 3, seed=2)
    same(ours, theirs)


def test_autograd_is_told_that_weights_have_changed() -> None:
    on = weights()
    made = RMSprop(on, **SETTINGS)
    train(made, on, 2)
    squares = on[0].square().sum()
    train(made, on, 1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        squares.backward()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("more", [{}, {"momentum": 0.5}])
def test_hooks_of_a_step_are_called_once(more: dict[str, Any]) -> None:
    on, called = weights(), []
    torch.optim.RMSprop(weights(), **SETTINGS)  # which has torch wrap its class's own step
    made = RMSprop(on, **SETTINGS, **more)
    made.register_step_post_hook(lambda *_: called.append(1))
    train(made, on, 3)
    assert len(called) == 3
