"""The search in C against `Search`, whose own results other tests hold against plain Python."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

import seesay.decoding.engine
from seesay.compiled import SWITCH, compiled
from seesay.config import DecodingOptions
from seesay.decoding import Hypothesis, TokenConstraints, decode
from seesay.decoding import beam as module
from seesay.decoding.beam import compiled_beam
from seesay.errors import ConfigError
from seesay.models.protocol import DecoderState, StepOutput
from seesay.tokenizer import END_ID, UNK_ID
from tests.c_source import struct_fields
from tests.decoding.oracles import NO_RULES, ConstantDecoder, TableDecoder, numbered

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler (cc)")

WORDS = 5


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(SWITCH, raising=False)
    compiled.cache_clear()
    yield
    compiled.cache_clear()


class Precise(TableDecoder):
    """The table in float32, in which C reads."""

    def step(self, tokens: Tensor, state: DecoderState) -> StepOutput:
        found = super().step(tokens, state)
        return found._replace(logits=found.logits.float())


def both(
    decoder: TableDecoder | ConstantDecoder,
    memory: Tensor,
    options: DecodingOptions,
    rules: TokenConstraints = NO_RULES,
) -> tuple[list[list[Hypothesis]], list[list[Hypothesis]]]:
    """What the search in C finds, and what `Search` does."""
    assert compiled_beam(options, rules, memory, keep_attention=False, traced=False) is not None
    found = decode(decoder, memory, None, options, rules=rules)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seesay.decoding.engine, "compiled_beam", lambda *_, **__: None)
        return found, decode(decoder, memory, None, options, rules=rules)


def check_equal(found: list[list[Hypothesis]], expected: list[list[Hypothesis]]) -> None:
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert [(h.tokens, h.finished) for h in ours] == [(h.tokens, h.finished) for h in theirs]
        for one, other in zip(ours, theirs, strict=True):
            assert one.score == pytest.approx(other.score, rel=1e-5, abs=1e-5)
            assert one.log_probs == pytest.approx(other.log_probs, rel=1e-5, abs=1e-5)


def some_options(random: np.random.Generator) -> DecodingOptions:
    beam = random.random() < 0.8
    width = int(random.integers(1, 9))
    limit = int(random.integers(1, 13))
    options = DecodingOptions(
        "beam",
        beam_size=width,
        max_length=limit,
        min_length=int(random.integers(0, limit + 1)) if random.random() < 0.4 else 0,
        length_penalty=float(random.choice([0.0, 0.5, 0.7, 1.0, 2.0])),
        no_repeat_ngram_size=int(random.choice([0, 0, 1, 2, 3])),
        num_return_sequences=int(random.integers(1, width + 1)) if beam and random.random() < 0.4 else 1,
        allow_unk=bool(random.random() < 0.3),
    )
    return options if beam else options.with_strategy("greedy")


@pytest.mark.parametrize("seed", range(300))
def test_it_finds_what_search_does(seed: int) -> None:
    random = np.random.default_rng(seed)
    end, scale = float(random.choice([-3.0, 0.0, 2.0])), float(random.choice([0.5, 2.0]))
    decoder = Precise(seed, WORDS, end=end, scale=scale)
    bans = random.permutation(np.arange(UNK_ID + 1, UNK_ID + 1 + WORDS))[: int(random.choice([0, 0, 1, 2]))]
    rules = TokenConstraints(banned=tuple((int(token),) for token in bans))
    images = numbered(range(int(random.choice([1, 2, 7])))).float()
    check_equal(*both(decoder, images, some_options(random), rules))


def test_many_images_and_words_are_shared_by_threads() -> None:
    decoder = Precise(1, 3000)
    check_equal(*both(decoder, numbered(range(40)).float(), DecodingOptions("beam", 5, 12)))


@pytest.mark.parametrize("strategy", ["greedy", "beam"])
def test_of_equal_words_the_first_is_said(strategy: Literal["greedy", "beam"]) -> None:
    decoder = ConstantDecoder([0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 1.0], torch.float32)
    options = DecodingOptions("beam", beam_size=3, max_length=6).with_strategy(strategy)
    check_equal(*both(decoder, numbered([0, 1]).float(), options))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_read_in_float32(dtype: torch.dtype) -> None:
    decoder = ConstantDecoder([0.0, 0.0, 1.0, 0.0, 1.0, 2.0], dtype)
    check_equal(*both(decoder, numbered([0]).to(dtype), DecodingOptions("beam", 3, 9)))


@pytest.mark.parametrize(
    "logits",
    [
        [0.0, 0.0, 1.0, 0.0, float("nan"), 2.0],
        [0.0, 0.0, 1.0, 0.0, float("inf"), 2.0],
        [float("-inf")] * 6,
        [0.0, 0.0, 0.0, 0.0, float("-inf"), float("-inf")],
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_scores_that_are_no_numbers_are_left_to_search(logits: list[float]) -> None:
    options = DecodingOptions("beam", 3, 5, min_length=2)
    found, expected = both(ConstantDecoder(logits, torch.float32), numbered([0, 1]).float(), options)
    assert [[h.tokens for h in each] for each in found] == [[h.tokens for h in each] for each in expected]


def test_rules_that_leave_nothing_are_left_to_search() -> None:
    rules = TokenConstraints(banned=((4,), (5,)))
    decoder = ConstantDecoder([0.0, 0.0, 1.0, 0.0, 1.0, 2.0], torch.float32)
    check_equal(*both(decoder, numbered([0]).float(), DecodingOptions("beam", 2, 5, min_length=3), rules))


@pytest.mark.parametrize("token", [99, -1, END_ID])
def test_a_ban_of_no_word_is_told(token: int) -> None:
    decoder = ConstantDecoder([0.0] * 6, torch.float32)
    with pytest.raises(ConfigError, match=f"token {token} "):
        decode(
            decoder, numbered([0]).float(), None, DecodingOptions("beam", 2), rules=TokenConstraints(banned=((token,),))
        )


@pytest.mark.parametrize(
    "options",
    [
        DecodingOptions("sample"),
        DecodingOptions("greedy", num_return_sequences=2),
        DecodingOptions("beam", 4, num_beam_groups=2),
        DecodingOptions("beam", 4, repetition_penalty=1.5),
    ],
)
def test_what_it_does_not_know_is_left_to_search(options: DecodingOptions) -> None:
    memory = numbered([0]).float()
    assert compiled_beam(options, NO_RULES, memory, keep_attention=False, traced=False) is None


def test_attention_traces_phrases_and_float64_are_left_to_search() -> None:
    options, memory = DecodingOptions("beam", 3), numbered([0]).float()
    assert compiled_beam(options, NO_RULES, memory, keep_attention=True, traced=False) is None
    assert compiled_beam(options, NO_RULES, memory, keep_attention=False, traced=True) is None
    assert compiled_beam(options, NO_RULES, memory.double(), keep_attention=False, traced=False) is None
    for rules in (
        TokenConstraints(banned=((4, 5),)),
        TokenConstraints(required=((4,),)),
        TokenConstraints(no_end_after=frozenset({4})),
    ):
        assert compiled_beam(options, rules, memory, keep_attention=False, traced=False) is None


def test_without_compiled_code_search_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "0")
    compiled.cache_clear()
    options, memory = DecodingOptions("beam", 3, 8), numbered([0, 3]).float()
    assert compiled_beam(options, NO_RULES, memory, keep_attention=False, traced=False) is None
    expected = decode(Precise(0), memory, None, options)
    monkeypatch.delenv(SWITCH)
    compiled.cache_clear()
    check_equal(decode(Precise(0), memory, None, options), expected)


def test_images_and_hypotheses_that_are_done_leave() -> None:
    for options in (DecodingOptions("greedy", max_length=40), DecodingOptions("beam", 2, 40)):
        decoder = Precise(0)
        decode(decoder, numbered(range(50)).float(), None, options)
        assert min(decoder.rows_seen) < 25
        assert sum(decoder.rows_seen) < 50 * 12
    decoder = Precise(0, end=-50.0)
    decoder.table[decoder.place(0, ()), END_ID] = 20.0
    decode(decoder, numbered([0]).float(), None, DecodingOptions("beam", 4, 40))
    assert decoder.rows_seen == [1]  # the best has ended, and nothing can come before it


def test_the_struct_is_that_of_the_source() -> None:
    """A field more in one of them would shift all that follow."""
    assert struct_fields(Path(module.__file__).with_suffix(".c"), "search") == [*module._SIZES, *module._ARRAYS]
