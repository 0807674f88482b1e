"""Words drawn in C against torch's operations and against their distribution."""

import pytest
import torch
from torch import Tensor

from seesay.config import DecodingOptions
from seesay.decoding import sampling
from seesay.decoding.sampling import sample, sample_natively

NEG_INF = float("-inf")


def drawn(logits: Tensor, draws: Tensor, temperature: float = 1.0) -> Tensor:
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
def test_they_are_those_of_torchs_operations(words: int, temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    logits, draws = scores(40, 5, words), torch.rand(40, 5, dtype=torch.float64)
    found = drawn(logits, draws, temperature)
    monkeypatch.setattr(sampling, "sample_natively", lambda *_: None)
    wanted = sample(logits, draws, DecodingOptions(strategy="sample", temperature=temperature))
    # A number on the seam of two words may fall either way: one in a million.
    assert int((found != wanted).sum()) <= 1
    assert torch.isfinite(logits.gather(-1, found[..., None])).all()


def test_each_word_comes_as_often_as_it_is_likely() -> None:
    torch.manual_seed(1)
    logits = scores(1, 30).expand(200_000, 30).contiguous()
    counts = torch.bincount(drawn(logits, torch.rand(200_000, dtype=torch.float64), 1.5), minlength=30).double()
    wanted = 200_000 * torch.softmax(logits[0].double() / 1.5, -1)
    said = wanted > 5
    squares = (counts - wanted)[said].square() / wanted[said]
    assert float(squares.sum()) < 2.2 * int(said.sum())
    assert not counts[[0, 1, 3]].any()


def test_the_least_and_the_greatest_number_give_words_that_may_be_said() -> None:
    logits = torch.full((2, 600), NEG_INF)
    logits[:, 7], logits[:, 530] = 1.0, 2.0
    assert drawn(logits, torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist() == [7, 530]


@pytest.mark.parametrize("temperature", [1e-6, 1e-40, 1e-320])
def test_no_temperature_is_too_low(temperature: float) -> None:
    torch.manual_seed(2)
    logits = scores(20, 300)
    found = drawn(logits, torch.rand(20, dtype=torch.float64), temperature)
    assert torch.equal(found, logits.argmax(-1))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), NEG_INF])
def test_scores_that_are_no_numbers_stop_nothing(value: float) -> None:
    logits = torch.full((3, 300), value)
    logits[1] = scores(300)
    found = drawn(logits, torch.full((3,), 0.5, dtype=torch.float64))
    assert found[[0, 2]].tolist() == [299, 299]
    assert torch.isfinite(logits[1, found[1]])


def test_a_draw_does_not_hang_on_its_company() -> None:
    torch.manual_seed(3)
    logits, draws = scores(50, 700), torch.rand(50, dtype=torch.float64)
    whole = drawn(logits, draws)
    for row in range(50):
        assert drawn(logits[row : row + 1], draws[row : row + 1]).item() == whole[row]
    assert torch.equal(drawn(logits.T.contiguous().T, draws), whole)


def test_other_kinds_of_numbers_are_left_to_torch() -> None:
    logits, draws = torch.zeros(2, 4), torch.zeros(2, dtype=torch.float64)
    assert sample_natively(logits.double(), draws, 1.0) is None
    assert sample_natively(logits, draws.float(), 1.0) is None
    assert sample_natively(logits.to("meta"), draws.to("meta"), 1.0) is None
    assert sample_natively(logits[:0], draws[:0], 1.0) is None
