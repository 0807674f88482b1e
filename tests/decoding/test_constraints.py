"""Constrained decoding against exhaustive search over all captions that satisfy the constraints."""

from dataclasses import replace
from importlib import import_module
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seesay.config import TextConfig
from seesay.decoding import DecodingOptions, TokenConstraints, token_constraints
from seesay.decoding.automaton import IMPOSSIBLE, build_automaton
from seesay.errors import ConfigError
from seesay.metrics.diversity import FUNCTION_WORDS
from seesay.tokenizer import END_ID, PAD_ID, START_ID, UNK_ID, Tokenizer
from tests.decoding.oracles import (
    TableDecoder,
    contains,
    decode,
    every_caption,
    numbered,
    same,
    satisfies_bans,
    satisfies_constraints,
    score_of,
)

WORDS = (4, 5, 6)
phrases = st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(tuple)


@st.composite
def constraints_and_options(draw: st.DrawFn) -> tuple[TokenConstraints, DecodingOptions]:
    required = draw(st.lists(phrases, max_size=3))
    length = draw(st.integers(1, 4))
    constraints = TokenConstraints(
        banned=tuple(draw(st.lists(phrases, max_size=3))),
        required=tuple(required),
        no_end_after=frozenset(draw(st.sets(st.sampled_from(WORDS), max_size=2))),
    )
    options = DecodingOptions(
        strategy="beam",
        beam_size=200,
        max_length=length,
        length_penalty=draw(st.sampled_from([0.0, 0.7, 1.5])),
        min_length=draw(st.integers(0, length)),
        no_repeat_ngram_size=draw(st.sampled_from([0, 0, 0, 1, 2, 3])),
        repetition_penalty=draw(st.sampled_from([1.0, 1.0, 1.5])),
    )
    return constraints, options


@pytest.mark.usefixtures("library")
@settings(max_examples=150, deadline=None)
@given(constraints_and_options(), st.integers(0, 50))
def test_a_wide_constrained_beam_equals_exhaustive_search(
    case: tuple[TokenConstraints, DecodingOptions], seed: int
) -> None:
    constraints, options = case
    decoder = TableDecoder(seed, words=len(WORDS))
    expected = every_caption(decoder, seed, options, constraints)
    options = options.replace(num_return_sequences=max(1, len(expected)))
    try:
        (found,) = decode(decoder, numbered([seed]), None, options, constraints=constraints)
    except ConfigError:
        assert not expected
        return
    if not expected:  # no caption satisfies the constraints: the best hypothesis, marked as unfinished
        assert [hypothesis.finished for hypothesis in found] == [False]
        assert satisfies_bans(found[0].tokens, options, constraints)
        return
    assert len(found) == len(expected)
    for hypothesis, reference in zip(found, expected, strict=True):
        assert hypothesis.tokens == reference.words
        assert hypothesis.score == pytest.approx(score_of(reference, options), rel=1e-9)
        assert hypothesis.log_probs == pytest.approx(reference.probs, rel=1e-9)


@pytest.mark.usefixtures("library")
@settings(max_examples=120, deadline=None)
@given(constraints_and_options(), st.integers(1, 3), st.integers(4, 9), st.integers(0, 50))
def test_a_narrow_beam_satisfies_every_constraint(
    case: tuple[TokenConstraints, DecodingOptions], beam: int, length: int, seed: int
) -> None:
    constraints, options = case
    options = options.replace(beam_size=beam, max_length=length, no_repeat_ngram_size=0, min_length=0)
    decoder = TableDecoder(seed, words=len(WORDS) + 1)  # one word is never banned, so that a caption exists
    try:
        results = decode(decoder, numbered([seed, seed + 1]), None, options, constraints=constraints)
    except ConfigError:
        assert constraints.required  # only required words can be impossible
        return
    for found in results:
        assert len(found) == 1
        assert satisfies_constraints(found[0].tokens, options, constraints)


@pytest.mark.parametrize("strategy", ["greedy", "sample", "beam"])
@settings(max_examples=60, deadline=None)
@given(case=constraints_and_options(), seed=st.integers(0, 50))
def test_every_strategy_satisfies_bans(
    strategy: Literal["greedy", "sample", "beam"], case: tuple[TokenConstraints, DecodingOptions], seed: int
) -> None:
    constraints, options = replace(case[0], required=()), case[1]
    options = options.replace(beam_size=3, max_length=8, num_return_sequences=3).with_strategy(strategy)
    decoder = TableDecoder(seed, words=len(WORDS) + 3)
    for found in decode(decoder, numbered([seed, seed + 1]), None, options, constraints=constraints):
        assert found
        for hypothesis in found:
            assert satisfies_bans(hypothesis.tokens, options, constraints)
            assert len(hypothesis.tokens) <= 8
            if options.no_repeat_ngram_size != 1:  # otherwise the words may run out before min_length
                assert satisfies_constraints(hypothesis.tokens, options, constraints)


@pytest.mark.usefixtures("library")
def test_banks_stay_as_wide_when_captions_of_other_banks_finish(monkeypatch: pytest.MonkeyPatch) -> None:
    # Bug: once captions had finished, banks that still lacked words became narrower, by the widest image of the
    # batch; without the removal of finished images they became empty and the search raised IndexError.
    draw = np.random.default_rng(7)
    longer = 0
    for _ in range(20):
        constraints = TokenConstraints(required=((int(draw.integers(4, 9)),),))
        options = DecodingOptions(strategy="beam", beam_size=int(draw.integers(1, 5)), max_length=20)
        decoder = TableDecoder(int(draw.integers(0, 10**6)), 6, end=float(draw.uniform(-2, 2)))
        images = draw.integers(0, 900, 6).tolist()
        batch = decode(decoder, numbered(images), None, options, constraints=constraints)
        alone = [decode(decoder, numbered([image]), None, options, constraints=constraints)[0] for image in images]
        with monkeypatch.context() as patch:
            patch.setattr(import_module("seesay.decoding.generate"), "_KEPT_SHARE", 0.0)
            unchecked = decode(decoder, numbered(images), None, options, constraints=constraints)
        for found, other, last in zip(batch, alone, unchecked, strict=True):
            assert same(found, other)
            assert same(found, last)
            longer += len(found[0].tokens) > 4  # than the captions that finish before the first removal
    assert longer > 10


def test_required_words_appear_where_they_fit() -> None:
    """Hypotheses compete within their bank; otherwise required words would appear only at the end."""
    decoder = TableDecoder(3, words=8, end=1.0)
    constraints = TokenConstraints(required=((5,), (9, 10)))
    options = DecodingOptions(strategy="beam", beam_size=4, max_length=12)
    early = 0
    for image, (best,) in enumerate(decode(decoder, numbered(range(20)), None, options, constraints=constraints)):
        assert contains(best.tokens, (5,))
        assert contains(best.tokens, (9, 10))
        early += len(best.tokens) < 12
        # Better than the best unconstrained caption followed by the missing words.
        ((free,),) = decode(decoder, numbered([image]), None, options)
        tokens, total = list(free.tokens), 0.0
        tokens += [*([5] if 5 not in tokens else []), *([] if contains(tokens, (9, 10)) else [9, 10])]
        for place, word in enumerate([*tokens, END_ID]):
            total += decoder.log_probs(image, tokens[:place])[word]
        assert best.score >= total / (len(tokens) + 1) ** options.length_penalty - 1e-9
    assert early > 10


def test_the_automaton_computes_the_minimum_length() -> None:
    never = np.zeros(12, bool)
    never[[PAD_ID, START_ID, END_ID, UNK_ID]] = True

    def min_length(
        *required: tuple[int, ...], banned: tuple[tuple[int, ...], ...] = (), no_end: tuple[int, ...] = ()
    ) -> int:
        found = build_automaton(TokenConstraints(banned, required, frozenset(no_end)), never)
        assert found is not None
        return found.min_length

    assert min_length((4,)) == 1
    assert min_length((4, 5), (5, 6)) == 3  # the phrases share a word
    assert min_length((4, 5), (6, 7)) == 4
    assert min_length((4, 5), (6, 7), no_end=(5, 7)) == 5
    assert min_length((4, 5, 6), (5, 6), (6,)) == 3
    assert min_length((4,), (5,), banned=((4, 5), (5, 4))) == 3
    with pytest.raises(ConfigError, match="cannot all be generated"):
        min_length((4, 5), banned=((4, 5),))
    with pytest.raises(ConfigError, match="too many for one search"):
        min_length(*((token, other) for token in range(4, 12) for other in range(4, 12)))
    assert build_automaton(TokenConstraints(banned=((4,),)), never) is None
    assert IMPOSSIBLE > 10**6


def test_required_words_beyond_the_maximum_length_raise() -> None:
    constraints = TokenConstraints(required=((4, 5), (6, 4, 5)))
    with pytest.raises(ConfigError, match="captions of at least 3 words, above max_length, 2"):
        decode(
            TableDecoder(0),
            numbered([0]),
            None,
            DecodingOptions(strategy="beam", beam_size=3, max_length=2),
            constraints=constraints,
        )


@pytest.mark.parametrize(
    "options",
    [
        DecodingOptions(strategy="greedy"),
        DecodingOptions(strategy="sample"),
        DecodingOptions(strategy="beam", beam_size=4, num_beam_groups=2),
    ],
)
def test_required_words_need_beam_search_without_groups(options: DecodingOptions) -> None:
    with pytest.raises(ConfigError, match="force_words needs beam search"):
        decode(TableDecoder(0), numbered([0]), None, options, constraints=TokenConstraints(required=((4,),)))


def test_tokens_outside_the_vocabulary_raise() -> None:
    for token in (99, END_ID, PAD_ID):
        with pytest.raises(ConfigError, match=f"token {token} of a banned or required phrase"):
            decode(
                TableDecoder(0),
                numbered([0]),
                None,
                DecodingOptions(),
                constraints=TokenConstraints(banned=((4, token),)),
            )


# From words to tokens.

CAPTIONS = ["a man throws a frisbee", "two dogs run on the grass", "a dog on a red frisbee"]
TOKENIZER = Tokenizer.build(CAPTIONS, TextConfig())


def ids(text: str) -> tuple[int, ...]:
    return tuple(TOKENIZER.encode(text)[1:-1])


def test_words_and_phrases_are_encoded_like_captions() -> None:
    options = DecodingOptions(
        strategy="beam",
        bad_words=("Red!", "on a", "zebra", "a zebra"),
        force_words=("FRISBEE", "two dogs", "frisbee"),
        complete_endings=True,
    )
    constraints = token_constraints(options, TOKENIZER)
    assert constraints.banned == (ids("red"), ids("on a"))  # words outside the vocabulary are ignored
    assert constraints.required == (ids("frisbee"), ids("two dogs"))
    assert {TOKENIZER.vocabulary[token] for token in constraints.no_end_after} == {"a", "on", "the"} <= FUNCTION_WORDS
    assert constraints.text is not None
    assert constraints.text(ids("a dog")) == "a dog"
    assert token_constraints(DecodingOptions(), TOKENIZER).no_end_after == frozenset()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"force_words": ("frizbee",)},
            "decoding.force_words: 'frizbee' is not in the vocabulary of .* words; similar words: frisbee",
        ),
        ({"force_words": ("a dog qqqq",)}, "'qqqq' is not in the vocabulary of .* words; it has no similar word"),
        (
            {"force_words": ("on a",), "bad_words": ("a",)},
            "decoding.force_words 'on a' contains 'a', which decoding.bad_words bans",
        ),
        ({"force_words": ("!",)}, "decoding.force_words: '!' is empty after cleaning"),
        ({"bad_words": ("  ",)}, "decoding.bad_words: '  ' is empty after cleaning"),
    ],
)
def test_invalid_words_are_named(options: dict[str, tuple[str, ...]], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        token_constraints(DecodingOptions(strategy="beam").replace(**options), TOKENIZER)
    assert "\n" not in str(caught.value)


def test_characters_have_no_function_words() -> None:
    letters = Tokenizer.build(CAPTIONS, TextConfig(level="character"))
    with pytest.raises(ConfigError, match="complete_endings needs a word vocabulary"):
        token_constraints(DecodingOptions(complete_endings=True), letters)
    constraints = token_constraints(DecodingOptions(strategy="beam", force_words=("dog",)), letters)
    assert constraints.required == (tuple(letters.encode("dog")[1:-1]),)
    with pytest.raises(ConfigError, match="'z' is not in the vocabulary"):
        token_constraints(DecodingOptions(strategy="beam", force_words=("zoo",)), letters)


def test_words_without_constraints_raise() -> None:
    for options in (
        DecodingOptions(strategy="beam", force_words=("a",)),
        DecodingOptions(bad_words=("a",)),
        DecodingOptions(complete_endings=True),
    ):
        with pytest.raises(ConfigError, match="constraints=token_constraints"):
            decode(TableDecoder(0), numbered([0]), None, options)
