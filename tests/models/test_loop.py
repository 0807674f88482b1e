import gc
import weakref

import pytest
import torch
from torch import Tensor, nn

from seesay.models.loop import StepLinear, shared_gradients

SIZES = [5, 5, 3, 1]


class Loop(nn.Module):
    """A recurrence over rows that become fewer."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.gate = StepLinear(6, 6), StepLinear(6, 1, bias=False)

    def forward(self, state: Tensor, shared: bool = True) -> Tensor:
        out = []
        with shared_gradients(self if shared else nn.Identity()):
            for size in SIZES:
                before = state[:size]
                state = torch.tanh(self.mix(before)) * torch.sigmoid(self.gate(before))
                out.append(state)
        return torch.cat(out)


def a_loop() -> tuple[Loop, Tensor]:
    torch.manual_seed(5)
    return Loop().double(), torch.randn(5, 6, dtype=torch.float64, requires_grad=True)


def gradients(out: Tensor, loop: Loop, state: Tensor, again: bool = False) -> tuple[Tensor, ...]:
    chosen = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    return torch.autograd.grad((out * chosen).sum(), [state, *loop.parameters()], retain_graph=again)


def test_results_and_gradients_are_those_of_autograd() -> None:
    loop, state = a_loop()
    found, wanted = loop(state), loop(state, shared=False)
    assert torch.equal(found, wanted)
    for left, right in zip(gradients(found, loop, state), gradients(wanted, loop, state), strict=True):
        torch.testing.assert_close(left, right)


def test_a_second_backward_pass_gives_the_same_and_not_the_sum() -> None:
    loop, state = a_loop()
    out = loop(state)
    first = gradients(out, loop, state, again=True)
    # Of the state alone, so that what it leaves behind must not count in the next.
    torch.autograd.grad(out.sum(), state, retain_graph=True)
    for left, right in zip(gradients(out, loop, state), first, strict=True):
        torch.testing.assert_close(left, right)


def test_frozen_weights_get_no_gradient_and_the_others_theirs() -> None:
    loop, state = a_loop()
    wanted = gradients(loop(state), loop, state)
    loop.mix.weight.requires_grad_(False)
    out = loop(state)
    (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)).sum().backward()
    assert loop.mix.weight.grad is None
    torch.testing.assert_close(loop.mix.bias.grad, wanted[2])
    torch.testing.assert_close(loop.gate.weight.grad, wanted[3])


def test_bfloat16_is_near_and_its_gradients_have_the_type_of_the_weights() -> None:
    loop, state = a_loop()
    loop, state = loop.float(), state.detach().float().requires_grad_()
    wanted = gradients(loop(state), loop, state)
    with torch.autocast("cpu", torch.bfloat16):
        out = loop(state)
    for left, right in zip(gradients(out, loop, state), wanted, strict=True):
        assert left.dtype == torch.float32
        assert float((left - right).norm()) < 0.03 * float(right.norm())


def test_no_layer_stays_in_a_loop_that_has_ended_or_failed() -> None:
    loop, state = a_loop()
    loop(state)
    assert loop.mix.steps is None
    with pytest.raises(RuntimeError, match="stop"), shared_gradients(loop):
        raise RuntimeError("stop")
    assert loop.mix.steps is None


def test_a_batch_goes_without_pythons_search_for_circles() -> None:
    # Bug: the loop and its terms knew each other: training up-down grew to 7 GB, until Python happened to look.
    loop, state = a_loop()
    gc.collect()
    gc.disable()
    try:
        with shared_gradients(loop):
            steps = weakref.ref(loop.mix.steps)
            out = loop.mix(torch.tanh(loop.mix(state)))
        torch.autograd.grad(out.sum(), state, retain_graph=True)  # which leaves factors behind
        del out
        assert steps() is None
    finally:
        gc.enable()
