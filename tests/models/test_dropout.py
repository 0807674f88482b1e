from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from seesay.models.dropout import Dropout


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("p", [0.125, 0.5, 0.9375])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_a_share_is_dropped_and_the_mean_stays(p: float, kind: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.full((1001, 999), 2.0, dtype=kind)  # a size that is no multiple of four
    found = Dropout(p)(x)
    dropped = found == 0
    deviation = (p * (1 - p) / x.numel()) ** 0.5
    assert abs(float(dropped.float().mean()) - p) < 5 * deviation
    kept = found[~dropped]
    assert torch.equal(kept, torch.full_like(kept, 2 / (1 - p)))


def test_a_share_that_no_chance_can_have_is_the_nearest() -> None:
    torch.manual_seed(0)
    kept = Dropout(0.93)(torch.ones(999)).max()
    assert float(kept) * (1 - round(0.93 * 2**16) / 2**16) == pytest.approx(1.0, rel=1e-6)


def test_neighbours_are_drawn_apart() -> None:
    """None of four chances that may come of one number may tell of another, nor one place be dropped more often."""
    torch.manual_seed(1)
    dropped = (Dropout(0.5)(torch.ones(200_000, 4)) == 0).double()
    assert torch.allclose(dropped.mean(0), torch.full((4,), 0.5).double(), atol=5 * 0.5 / 200_000**0.5)
    correlation = torch.corrcoef(dropped.T) - torch.eye(4)
    assert float(correlation.abs().max()) < 5 / 200_000**0.5


@pytest.mark.parametrize("lag", [1, 2, 7, 16, 64, 1280])
def test_a_place_does_not_tell_of_a_later_one(lag: int) -> None:
    torch.manual_seed(3)
    count = 1 << 20
    signs = 1.0 - Dropout(0.5)(torch.ones(count))
    assert abs(float((signs[:-lag] * signs[lag:]).mean())) < 4.5 / count**0.5


def test_draws_do_not_tell_of_one_another() -> None:
    """Each place, in many draws, is dropped as often as it should be, and any two draws agree by chance alone."""
    torch.manual_seed(4)
    draws = torch.stack([Dropout(0.3)(torch.ones(1000)) == 0 for _ in range(400)]).double()
    assert float((draws.mean(0) - 0.3).abs().max()) < 5 * (0.21 / 400) ** 0.5
    correlation = torch.corrcoef(draws) - torch.eye(400)
    assert float(correlation.abs().max()) < 6 / 1000**0.5


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float64])
def test_gradients_pass_where_the_input_did(kind: torch.dtype) -> None:
    torch.manual_seed(2)
    x = torch.randn(50, 7, dtype=torch.float64).to(kind).requires_grad_()
    found = Dropout(0.25)(x)
    (gradient,) = torch.autograd.grad(found.sum(), x)
    assert torch.equal(gradient == 0, found == 0)
    torch.testing.assert_close(gradient * x, found)


@pytest.mark.usefixtures("threads")
def test_the_draws_do_not_hang_on_threads_or_on_how_a_tensor_lies() -> None:
    x = torch.rand(300, 400) + 1
    found: list[Tensor] = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        for given in (x, x.T.contiguous().T):
            torch.manual_seed(6)
            found.append(Dropout(0.4)(given))
    assert all(torch.equal(found[0], other) for other in found)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float64])
def test_the_type_stays_and_draws_follow_torchs_seed(kind: torch.dtype) -> None:
    x = torch.randn(33, dtype=kind)
    found = [Dropout(0.4)(x) for _ in range(2) if torch.manual_seed(3)]
    assert found[0].dtype == kind
    assert torch.equal(*found)


def test_nothing_is_dropped_outside_training_or_at_0_and_all_at_1() -> None:
    x = torch.randn(20)
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)
    assert torch.equal(Dropout(1.0)(x), torch.zeros(20))
    assert Dropout(0.5)(torch.empty(0, 3)).shape == (0, 3)
