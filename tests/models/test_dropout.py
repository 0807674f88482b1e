import pytest
import torch

from seesay.models.dropout import Dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.93])
def test_a_share_is_dropped_and_the_mean_stays(p: float) -> None:
    torch.manual_seed(0)
    x = torch.full((1001, 999), 2.0)  # a size that is no multiple of four
    found = Dropout(p)(x)
    dropped = found == 0
    deviation = (p * (1 - p) / x.numel()) ** 0.5
    assert abs(float(dropped.float().mean()) - p) < 5 * deviation + 2**-17
    kept = found[~dropped]
    assert torch.equal(kept, kept[0].expand_as(kept))
    assert float(kept[0]) * (1 - round(p * 65536) / 65536) == pytest.approx(2.0, rel=1e-6)


def test_neighbours_are_drawn_apart() -> None:
    """Four chances come of one number; none of them may tell of another, nor one place be dropped more often."""
    torch.manual_seed(1)
    dropped = (Dropout(0.5)(torch.ones(200_000, 4)) == 0).double()
    assert torch.allclose(dropped.mean(0), torch.full((4,), 0.5).double(), atol=5 * 0.5 / 200_000**0.5)
    correlation = torch.corrcoef(dropped.T) - torch.eye(4)
    assert float(correlation.abs().max()) < 5 / 200_000**0.5


def test_gradients_pass_where_the_input_did() -> None:
    torch.manual_seed(2)
    x = torch.randn(50, 7, dtype=torch.float64, requires_grad=True)
    found = Dropout(0.3)(x)
    (gradient,) = torch.autograd.grad(found.sum(), x)
    assert torch.equal(gradient == 0, found == 0)
    torch.testing.assert_close(gradient * x, found)


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
