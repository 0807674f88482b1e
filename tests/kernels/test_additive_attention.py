"""The operation, native and in plain torch, against tanh and autograd in float64."""

from collections.abc import Callable, Sequence
from typing import cast

import pytest
import torch
from torch import Tensor

from seesay.kernels import additive_attention as module
from seesay.kernels.additive_attention import additive_attention, exp_twice

pytestmark = pytest.mark.usefixtures("way")
Inputs = tuple[Tensor, Tensor, Tensor, Tensor]
Attend = Callable[[Inputs, Tensor, Tensor | None], tuple[Tensor, Tensor]]


def inputs(images: int, regions: int, units: int, size: int, rows: int) -> tuple[Inputs, Tensor]:
    """Keys, queries, score and memory in float64, and the image of each query."""
    torch.manual_seed(3)
    shapes = ((images, regions, units), (rows, units), (units,), (images, regions, size))
    keys, queries, score, memory = (torch.randn(shape, dtype=torch.float64) for shape in shapes)
    return (keys, queries, score, memory), torch.randint(0, images, (rows,))


def by_tanh(given: Inputs, image_of_row: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    keys, queries, score, memory = given
    energies = torch.tanh(keys[image_of_row] + queries[:, None]) @ score
    if mask is not None:
        energies = energies.masked_fill(~mask[image_of_row], float("-inf"))
    weights = energies.softmax(-1)
    return (weights[:, None] @ memory[image_of_row])[:, 0], weights


def by_operation(given: Inputs, image_of_row: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    keys, queries, score, memory = given
    return additive_attention(exp_twice(keys), exp_twice(queries), score, memory, image_of_row, mask)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("used", [(0,), (1,), (0, 1)], ids=["context", "weights", "both"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("sizes", [(3, 7, 5, 4, 11), (1, 1, 1, 1, 1), (2, 9, 130, 70, 100), (4, 33, 64, 65, 2)])
def test_results_and_gradients_are_those_of_tanh(sizes: tuple[int, ...], masked: bool, used: tuple[int, ...]) -> None:
    given, image_of_row = inputs(*sizes)
    mask = torch.rand(sizes[:2]) > 0.3 if masked else None
    if mask is not None:
        mask[:, 0] = True
    wanted, grads = results(by_tanh, given, image_of_row, mask, used)
    for dtype, near in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        narrow = cast("Inputs", tuple(each.to(dtype) for each in given))
        found, found_grads = results(by_operation, narrow, image_of_row, mask, used)
        for left, right in zip((*found, *found_grads), (*wanted, *grads), strict=True):
            assert left.dtype == dtype
            assert float((left.double() - right).norm()) <= near * (float(right.norm()) + 1)


def results(
    attend: Attend, given: Inputs, image_of_row: Tensor, mask: Tensor | None, used: tuple[int, ...]
) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """What an attention returns, and the gradients of its inputs where a loss uses some of that."""
    leaves = tuple(each.clone().requires_grad_() for each in given)
    out = attend(cast("Inputs", leaves), image_of_row, mask)
    chosen = [torch.linspace(-1, 1, each.numel(), dtype=each.dtype).view_as(each) for each in out]
    loss = sum((out[place] * chosen[place]).sum() for place in used)
    grads = torch.autograd.grad(cast("Tensor", loss), leaves, allow_unused=True, materialize_grads=True)
    return [each.detach() for each in out], grads


def test_saturated_sides_keep_results_and_gradients_finite() -> None:
    given, image_of_row = inputs(2, 5, 6, 4, 9)
    for scale in (30, 200):
        keys, queries, score, memory = (each.float() for each in given)
        far = scale * keys, scale * queries, score, memory
        found = results(by_operation, far, image_of_row, None, (0, 1))
        assert all(bool(torch.isfinite(each).all()) for each in (*found[0], *found[1]))


def test_it_is_exact_up_to_its_bound_and_beyond_it_where_tanh_is_flat() -> None:
    # Bug: a comment said that it was exact everywhere; near opposite bounds it is not.
    one = torch.ones(1)
    for keys, query in (([-43.0, -40.0, 0.0], 42.0), ([-9.0, 43.0, 8.5], 0.5), ([-80.0, 90.0, -9.5], 10.0)):
        regions = torch.tensor(keys)[None, :, None]
        given = exp_twice(regions), exp_twice(torch.tensor([[query]])), one, regions
        weights = additive_attention(*given, torch.zeros(1, dtype=torch.int64))[1]
        exact = torch.tanh(torch.tensor(keys, dtype=torch.float64) + query).softmax(0)
        torch.testing.assert_close(weights[0].double(), exact, rtol=1e-5, atol=1e-6)


def test_nothing_as_large_as_the_regions_of_all_queries_is_kept() -> None:
    given, image_of_row = inputs(2, 9, 6, 4, 50)
    sizes: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        results(by_operation, given, image_of_row, None, (0,))
        assert max(sizes) < 50 * 9 * 6
        results(by_tanh, given, image_of_row, None, (0,))
    assert max(sizes) >= 50 * 9 * 6  # so that the measure would see it


def test_autocast_does_not_round_it() -> None:
    given, image_of_row = inputs(2, 5, 6, 4, 9)
    cast_down = cast("Inputs", tuple(each.float() for each in given))
    with torch.autocast("cpu", torch.bfloat16):
        found = by_operation(cast_down, image_of_row, None)
    wanted = by_tanh(given, image_of_row, None)
    for left, right in zip(found, wanted, strict=True):
        torch.testing.assert_close(left.double(), right, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's own
def test_it_is_a_proper_operator() -> None:
    given, image_of_row = inputs(2, 3, 4, 5, 6)
    mask = torch.ones(2, 3, dtype=torch.bool)
    for dtype in (torch.float32, torch.float64):
        leaves = [each.detach().to(dtype).clone().requires_grad_() for each in given]
        torch.library.opcheck(module._attend, (*leaves, image_of_row, mask))
