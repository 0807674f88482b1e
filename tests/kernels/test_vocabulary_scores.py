"""The reductions, native and in plain torch, against NumPy's stable sort and float64."""

import numpy as np
import pytest
import torch

from seesay.kernels.vocabulary_scores import logsumexp, stable_topk

pytestmark = pytest.mark.usefixtures("way", "threads")
NEG_INF = float("-inf")


def with_ties(rows: int, size: int) -> torch.Tensor:
    """Scores of a few values only, some of them -inf."""
    torch.manual_seed(size)
    scores = torch.randint(-6, 6, (rows, size)).float()
    return scores.masked_fill(scores == -6, NEG_INF)


@pytest.mark.parametrize(("rows", "size"), [(1, 1), (3, 7), (5, 64), (4, 65), (2, 200), (40, 1000)])
def test_topk_is_the_beginning_of_a_stable_sort(rows: int, size: int) -> None:
    for scores in (with_ties(rows, size), torch.randn(rows, size)):
        order = np.argsort(-scores.numpy(), -1, kind="stable")
        for count in {1, min(5, size), size}:
            values, indices = stable_topk(scores, count)
            wanted = order[:, :count]
            assert np.array_equal(values.numpy(), np.take_along_axis(scores.numpy(), wanted, -1))
            is_finite = np.isfinite(values.numpy())  # equal -inf are in any order
            assert np.array_equal(indices.numpy()[is_finite], wanted[is_finite])


def test_topk_ranks_nan_last(way: str) -> None:
    if way == "reference":
        pytest.skip("torch.topk ranks NaN first")
    scores = torch.tensor([[float("nan"), 1.0, float("nan"), 3.0, 2.0], [float("nan")] * 5])
    values, indices = stable_topk(scores, 4)
    assert values.tolist() == [[3.0, 2.0, 1.0, NEG_INF], [NEG_INF] * 4]
    assert indices[0, :3].tolist() == [3, 4, 1]


@pytest.mark.parametrize("shape", [(1,), (3, 7), (2, 3, 5001)])
@pytest.mark.parametrize("scale", [1.0, 40.0])
def test_logsumexp_is_that_of_float64(shape: tuple[int, ...], scale: float) -> None:
    torch.manual_seed(1)
    scores = torch.randn(shape) * scale
    scores[..., 1::3] = NEG_INF
    torch.testing.assert_close(logsumexp(scores).double(), scores.double().logsumexp(-1), rtol=1e-6, atol=1e-5)


def test_logsumexp_of_no_finite_score() -> None:
    scores = torch.tensor([[NEG_INF] * 20, [float("nan")] * 20, [1.0] * 19 + [float("nan")]])
    totals = logsumexp(scores)
    assert totals[0] == NEG_INF
    assert torch.isnan(totals[1:]).all()
