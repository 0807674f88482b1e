"""Tokens sampled in C against torch's operations and against their distribution."""

import pytest
import torch
from torch import Tensor

from seesay.config import DecodingOptions
from seesay.decoding import sampling
from seesay.decoding.sampling import sample, sample_natively

NEG_INF = float("-inf")


def sample_or_skip(logits: Tensor, draws: Tensor, temperature: float = 1.0) -> Tensor:
    found: Tensor | None = sample_natively(logits, draws, temperature)
    if found is None:
        pytest.skip("needs a C compiler (cc)")
    return found


def scores(*shape: int) -> Tensor:
    made = 3 * torch.randn(*shape)
    made[..., [0, 1, 3]] = NEG_INF
    return made


@pytest.mark.parametrize("temperature", [0.05, 0.7, 1.0, 3.0])
@pytest.mark.parametrize("words", [5, 256, 257, 5001])
def test_tokens_equal_those_of_torch(words: int, temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    logits, draws = scores(40, 5, words), torch.rand(40, 5, dtype=torch.float64)
    found = sample_or_skip(logits, draws, temperature)
    monkeypatch.setattr(sampling, "sample_natively", lambda *_: None)
    wanted = sample(logits, draws, DecodingOptions(strategy="sample", temperature=temperature))
    # A draw on the boundary of two tokens may select either: one in a million.
    assert int((found != wanted).sum()) <= 1
    assert torch.isfinite(logits.gather(-1, found[..., None])).all()


def test_token_frequencies_follow_the_distribution() -> None:
    torch.manual_seed(1)
    logits = scores(1, 30).expand(200_000, 30).contiguous()
    counts = torch.bincount(
        sample_or_skip(logits, torch.rand(200_000, dtype=torch.float64), 1.5), minlength=30
    ).double()
    wanted = 200_000 * torch.softmax(logits[0].double() / 1.5, -1)
    expected_often = wanted > 5
    squares = (counts - wanted)[expected_often].square() / wanted[expected_often]
    assert float(squares.sum()) < 2.2 * int(expected_often.sum())
    assert not counts[[0, 1, 3]].any()


def test_draws_of_zero_and_one_give_allowed_tokens() -> None:
    logits = torch.full((2, 600), NEG_INF)
    logits[:, 7], logits[:, 530] = 1.0, 2.0
    assert sample_or_skip(logits, torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist() == [7, 530]


@pytest.mark.parametrize("temperature", [1e-6, 1e-40, 1e-320])
def test_low_temperatures_select_the_most_probable_token(temperature: float) -> None:
    torch.manual_seed(2)
    logits = scores(20, 300)
    found = sample_or_skip(logits, torch.rand(20, dtype=torch.float64), temperature)
    assert torch.equal(found, logits.argmax(-1))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), NEG_INF])
def test_scores_that_are_not_finite_do_not_raise(value: float) -> None:
    logits = torch.full((3, 300), value)
    logits[1] = scores(300)
    found = sample_or_skip(logits, torch.full((3,), 0.5, dtype=torch.float64))
    assert found[[0, 2]].tolist() == [299, 299]
    assert torch.isfinite(logits[1, found[1]])


def test_a_sample_does_not_depend_on_the_batch() -> None:
    torch.manual_seed(3)
    logits, draws = scores(50, 700), torch.rand(50, dtype=torch.float64)
    batch = sample_or_skip(logits, draws)
    for row in range(50):
        assert sample_or_skip(logits[row : row + 1], draws[row : row + 1]).item() == batch[row]
    assert torch.equal(sample_or_skip(logits.T.contiguous().T, draws), batch)


def test_unsupported_dtypes_and_devices_return_none() -> None:
    logits, draws = torch.zeros(2, 4), torch.zeros(2, dtype=torch.float64)
    assert sample_natively(logits.double(), draws, 1.0) is None
    assert sample_natively(logits, draws.float(), 1.0) is None
    assert sample_natively(logits.to("meta"), draws.to("meta"), 1.0) is None
    assert sample_natively(logits[:0], draws[:0], 1.0) is None
