"""What captions must and must not hold: against exhaustive search over all captions that keep the rules."""

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
    decode,
    every_caption,
    holds,
    may_be_all,
    may_be_said,
    numbered,
    same,
    score_of,
)

WORDS = (4, 5, 6)
phrases = st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(tuple)


@st.composite
def rules_and_options(draw: st.DrawFn) -> tuple[TokenConstraints, DecodingOptions]:
    required = draw(st.lists(phrases, max_size=3))
    length = draw(st.integers(1, 4))
    rules = TokenConstraints(
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
    return rules, options


@pytest.mark.usefixtures("library")
@settings(max_examples=150, deadline=None)
@given(rules_and_options(), st.integers(0, 50))
def test_constrained_search_is_exhaustive_search_over_what_keeps_the_rules(
    case: tuple[TokenConstraints, DecodingOptions], seed: int
) -> None:
    rules, options = case
    decoder = TableDecoder(seed, words=len(WORDS))
    expected = every_caption(decoder, seed, options, rules)
    options = options.replace(num_return_sequences=max(1, len(expected)))
    try:
        (found,) = decode(decoder, numbered([seed]), None, options, constraints=rules)
    except ConfigError:
        assert not expected
        return
    if not expected:  # nothing keeps the rules: the best there is, marked
        assert [hypothesis.finished for hypothesis in found] == [False]
        assert may_be_said(found[0].tokens, options, rules)
        return
    assert len(found) == len(expected)
    for hypothesis, whole in zip(found, expected, strict=True):
        assert hypothesis.tokens == whole.words
        assert hypothesis.score == pytest.approx(score_of(whole, options), rel=1e-9)
        assert hypothesis.log_probs == pytest.approx(whole.probs, rel=1e-9)


@pytest.mark.usefixtures("library")
@settings(max_examples=120, deadline=None)
@given(rules_and_options(), st.integers(1, 3), st.integers(4, 9), st.integers(0, 50))
def test_a_narrow_beam_keeps_every_rule(
    case: tuple[TokenConstraints, DecodingOptions], beam: int, length: int, seed: int
) -> None:
    rules, options = case
    options = options.replace(beam_size=beam, max_length=length, no_repeat_ngram_size=0, min_length=0)
    decoder = TableDecoder(seed, words=len(WORDS) + 1)  # one word is never barred, so that there is always a way
    try:
        results = decode(decoder, numbered([seed, seed + 1]), None, options, constraints=rules)
    except ConfigError:
        assert rules.required  # or else nothing can be impossible
        return
    for found in results:
        assert len(found) == 1
        assert may_be_all(found[0].tokens, options, rules)


@pytest.mark.parametrize("strategy", ["greedy", "sample", "beam"])
@settings(max_examples=60, deadline=None)
@given(case=rules_and_options(), seed=st.integers(0, 50))
def test_every_strategy_keeps_what_forbids(
    strategy: Literal["greedy", "sample", "beam"], case: tuple[TokenConstraints, DecodingOptions], seed: int
) -> None:
    rules, options = replace(case[0], required=()), case[1]
    options = options.replace(beam_size=3, max_length=8, num_return_sequences=3).with_strategy(strategy)
    decoder = TableDecoder(seed, words=len(WORDS) + 3)
    for found in decode(decoder, numbered([seed, seed + 1]), None, options, constraints=rules):
        assert found
        for hypothesis in found:
            assert may_be_said(hypothesis.tokens, options, rules)
            assert len(hypothesis.tokens) <= 8
            if options.no_repeat_ngram_size != 1:  # then words may run out before there are enough
                assert may_be_all(hypothesis.tokens, options, rules)


@pytest.mark.usefixtures("library")
def test_a_required_word_is_searched_for_by_beams_that_stay_as_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    # Bug: once captions had ended, the beams that lacked words yet became narrower with those that did not, at the
    # next check and by the widest image of the batch; where the device is not asked, they became empty, and the
    # search broke with an IndexError.
    draw = np.random.default_rng(7)
    longer = 0
    for _ in range(20):
        rules = TokenConstraints(required=((int(draw.integers(4, 9)),),))
        options = DecodingOptions(strategy="beam", beam_size=int(draw.integers(1, 5)), max_length=20)
        decoder = TableDecoder(int(draw.integers(0, 10**6)), 6, end=float(draw.uniform(-2, 2)))
        images = draw.integers(0, 900, 6).tolist()
        batch = decode(decoder, numbered(images), None, options, constraints=rules)
        alone = [decode(decoder, numbered([image]), None, options, constraints=rules)[0] for image in images]
        with monkeypatch.context() as patch:
            patch.setattr(import_module("seesay.decoding.generate"), "_KEPT_SHARE", 0.0)
            unchecked = decode(decoder, numbered(images), None, options, constraints=rules)
        for found, other, last in zip(batch, alone, unchecked, strict=True):
            assert same(found, other)
            assert same(found, last)
            longer += len(found[0].tokens) > 4  # than what is said before the first check
    assert longer > 10


def test_required_words_come_where_they_fit() -> None:
    """Hypotheses compete with those that have said as much; else the words would come only at the very end."""
    decoder = TableDecoder(3, words=8, end=1.0)
    rules = TokenConstraints(required=((5,), (9, 10)))
    options = DecodingOptions(strategy="beam", beam_size=4, max_length=12)
    early = 0
    for image, (best,) in enumerate(decode(decoder, numbered(range(20)), None, options, constraints=rules)):
        assert holds(best.tokens, (5,))
        assert holds(best.tokens, (9, 10))
        early += len(best.tokens) < 12
        # Better than taking the best free caption and saying the rest after it.
        ((free,),) = decode(decoder, numbered([image]), None, options)
        tokens, total = list(free.tokens), 0.0
        tokens += [*([5] if 5 not in tokens else []), *([] if holds(tokens, (9, 10)) else [9, 10])]
        for place, word in enumerate([*tokens, END_ID]):
            total += decoder.log_probs(image, tokens[:place])[word]
        assert best.score >= total / (len(tokens) + 1) ** options.length_penalty - 1e-9
    assert early > 10


def test_the_automaton_knows_how_many_words_are_needed() -> None:
    never = np.zeros(12, bool)
    never[[PAD_ID, START_ID, END_ID, UNK_ID]] = True

    def fewest(
        *required: tuple[int, ...], banned: tuple[tuple[int, ...], ...] = (), no_end: tuple[int, ...] = ()
    ) -> int:
        found = build_automaton(TokenConstraints(banned, required, frozenset(no_end)), never)
        assert found is not None
        return found.fewest

    assert fewest((4,)) == 1
    assert fewest((4, 5), (5, 6)) == 3  # one word is of both
    assert fewest((4, 5), (6, 7)) == 4
    assert fewest((4, 5), (6, 7), no_end=(5, 7)) == 5
    assert fewest((4, 5, 6), (5, 6), (6,)) == 3
    assert fewest((4,), (5,), banned=((4, 5), (5, 4))) == 3
    with pytest.raises(ConfigError, match="cannot all be said"):
        fewest((4, 5), banned=((4, 5),))
    with pytest.raises(ConfigError, match="too many for one search"):
        fewest(*((token, other) for token in range(4, 12) for other in range(4, 12)))
    assert build_automaton(TokenConstraints(banned=((4,),)), never) is None
    assert IMPOSSIBLE > 10**6


def test_words_that_do_not_fit_the_maximum_length_are_refused() -> None:
    rules = TokenConstraints(required=((4, 5), (6, 4, 5)))
    with pytest.raises(ConfigError, match="captions of at least 3 words, above max_length, 2"):
        decode(
            TableDecoder(0),
            numbered([0]),
            None,
            DecodingOptions(strategy="beam", beam_size=3, max_length=2),
            constraints=rules,
        )


@pytest.mark.parametrize(
    "options",
    [
        DecodingOptions(strategy="greedy"),
        DecodingOptions(strategy="sample"),
        DecodingOptions(strategy="beam", beam_size=4, num_beam_groups=2),
    ],
)
def test_required_words_need_a_plain_beam(options: DecodingOptions) -> None:
    with pytest.raises(ConfigError, match="required words need a beam search"):
        decode(TableDecoder(0), numbered([0]), None, options, constraints=TokenConstraints(required=((4,),)))


def test_tokens_outside_the_vocabulary_are_refused() -> None:
    for token in (99, END_ID, PAD_ID):
        with pytest.raises(ConfigError, match=f"token {token} of a banned or required phrase"):
            decode(
                TableDecoder(0),
                numbered([0]),
                None,
                DecodingOptions(),
                constraints=TokenConstraints(banned=((4, token),)),
            )


# Words to tokens.

CAPTIONS = ["a man throws a frisbee", "two dogs run on the grass", "a dog on a red frisbee"]
TOKENIZER = Tokenizer.build(CAPTIONS, TextConfig())


def ids(text: str) -> tuple[int, ...]:
    return tuple(TOKENIZER.encode(text)[1:-1])


def test_words_and_phrases_become_ids_as_captions_do() -> None:
    options = DecodingOptions(
        strategy="beam",
        bad_words=("Red!", "on a", "zebra", "a zebra"),
        force_words=("FRISBEE", "two dogs", "frisbee"),
        complete_endings=True,
    )
    rules = token_constraints(options, TOKENIZER)
    assert rules.banned == (ids("red"), ids("on a"))  # what cannot be said need not be banned
    assert rules.required == (ids("frisbee"), ids("two dogs"))
    assert {TOKENIZER.vocabulary[token] for token in rules.no_end_after} == {"a", "on", "the"} <= FUNCTION_WORDS
    assert rules.text is not None
    assert rules.text(ids("a dog")) == "a dog"
    assert token_constraints(DecodingOptions(), TOKENIZER).no_end_after == frozenset()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"force_words": ("frizbee",)},
            "decoding.force_words: 'frizbee' is not in the vocabulary of .* words; near are frisbee",
        ),
        ({"force_words": ("a dog qqqq",)}, "'qqqq' is not in the vocabulary of .* words; no word of it is like that"),
        (
            {"force_words": ("on a",), "bad_words": ("a",)},
            "decoding.force_words 'on a' holds 'a', which decoding.bad_words bars",
        ),
        ({"force_words": ("!",)}, "decoding.force_words: nothing is left of '!' after cleaning"),
        ({"bad_words": ("  ",)}, "decoding.bad_words: nothing is left of '  ' after cleaning"),
    ],
)
def test_words_that_cannot_work_are_named(options: dict[str, tuple[str, ...]], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        token_constraints(DecodingOptions(strategy="beam").replace(**options), TOKENIZER)
    assert "\n" not in str(caught.value)


def test_characters_have_no_function_words() -> None:
    letters = Tokenizer.build(CAPTIONS, TextConfig(level="character"))
    with pytest.raises(ConfigError, match="complete_endings needs a vocabulary of words"):
        token_constraints(DecodingOptions(complete_endings=True), letters)
    rules = token_constraints(DecodingOptions(strategy="beam", force_words=("dog",)), letters)
    assert rules.required == (tuple(letters.encode("dog")[1:-1]),)
    with pytest.raises(ConfigError, match="'z' is not in the vocabulary"):
        token_constraints(DecodingOptions(strategy="beam", force_words=("zoo",)), letters)


def test_words_without_a_tokenizer_are_refused() -> None:
    for options in (
        DecodingOptions(strategy="beam", force_words=("a",)),
        DecodingOptions(bad_words=("a",)),
        DecodingOptions(complete_endings=True),
    ):
        with pytest.raises(ConfigError, match="constraints=token_constraints"):
            decode(TableDecoder(0), numbered([0]), None, options)
