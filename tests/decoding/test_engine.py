"""`decode` on what cannot work, and what it says of results that are not as asked for; a test for each past fault."""

import itertools
import json
import logging
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seesay.config import TextConfig
from seesay.decoding import DecodingOptions, TokenConstraints, token_constraints
from seesay.decoding.constraints import check_repeats
from seesay.errors import ConfigError, DataError
from seesay.tokenizer import Tokenizer
from tests.decoding.oracles import ConstantDecoder, TableDecoder, decode, holds, may_be_said, numbered

TOKENIZER = Tokenizer.build(["two dogs and two cats see a brown dog run", "the dog runs"], TextConfig())


# Rules that cannot be kept.


@pytest.mark.parametrize(
    ("force_words", "block", "message"),
    [
        (
            ("two dogs", "two cats"),
            1,
            "decoding.force_words needs 'two' twice, which decoding.no_repeat_ngram_size 1 bars",
        ),
        (("two dogs", "the dogs"), 1, "decoding.force_words needs 'dogs' twice"),
        (("two dogs", "dogs and", "and two"), 1, "decoding.force_words needs 'two' twice"),
        (("dog and dog",), 1, "decoding.force_words needs 'dog' twice"),
        (
            ("two dogs see two dogs",),
            2,
            "decoding.force_words needs 'two dogs' twice, which decoding.no_repeat_ngram_size 2 bars",
        ),
        (("dog dog dog",), 2, "decoding.force_words needs 'dog dog' twice"),
        (("see two dogs", "see two cats"), 2, "decoding.force_words needs 'see two' twice"),
    ],
)
def test_required_phrases_that_repeat_what_may_not_be_repeated_are_refused(
    force_words: tuple[str, ...], block: int, message: str
) -> None:
    # Bug: they were left out without a word.
    options = DecodingOptions(strategy="beam", max_length=9, force_words=force_words, no_repeat_ngram_size=block)
    decoder = TableDecoder(0, words=len(TOKENIZER) - 4)
    with pytest.raises(ConfigError, match=message) as caught:
        decode(decoder, numbered([0]), None, options, constraints=token_constraints(options, TOKENIZER))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("force_words", "block"),
    [
        (("two dogs", "dogs and", "dogs"), 1),
        (("dog and dog",), 2),
        (("two dogs", "two cats"), 2),
        (("dog and dog",), 0),
        (("see two dogs", "two dogs see"), 2),
    ],
)
def test_required_phrases_that_need_no_repetition_are_kept(force_words: tuple[str, ...], block: int) -> None:
    options = DecodingOptions(
        strategy="beam", beam_size=5, max_length=12, force_words=force_words, no_repeat_ngram_size=block
    )
    rules = token_constraints(options, TOKENIZER)
    ((best,),) = decode(TableDecoder(0, words=len(TOKENIZER) - 4), numbered([0]), None, options, constraints=rules)
    assert all(holds(best.tokens, phrase) for phrase in rules.required)
    assert may_be_said(best.tokens, options, rules)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(st.sampled_from((4, 5, 6, 7)), min_size=1, max_size=3).map(tuple), max_size=4))
def test_of_words_that_may_not_be_repeated_just_what_cannot_be_said_is_refused(phrases: list[tuple[int, ...]]) -> None:
    """A caption without a repeated word is a permutation of some words: all of those are tried."""
    orders = [words for count in range(5) for words in itertools.permutations((4, 5, 6, 7), count)]
    possible = any(all(holds(words, phrase) for phrase in phrases) for words in orders)
    if possible:
        check_repeats(TokenConstraints(required=tuple(phrases)), 1)
    else:
        with pytest.raises(ConfigError, match="twice"):
            check_repeats(TokenConstraints(required=tuple(phrases)), 1)


def test_results_that_break_the_rules_are_owned_up_to(caplog: pytest.LogCaptureFixture) -> None:
    # Bug: they came without a warning.
    rules = TokenConstraints(required=((4,), (5,)))
    options = DecodingOptions(
        strategy="beam", beam_size=9, max_length=5, min_length=4, no_repeat_ngram_size=1
    )  # of three words
    with caplog.at_level(logging.WARNING, "seesay"):
        found = decode(
            TableDecoder(0, words=3), numbered([0, 1]), None, options, constraints=rules, keys=["a.jpg", "b.jpg"]
        )
    assert [hypotheses[0].finished for hypotheses in found] == [False, False]
    (message,) = caplog.messages
    assert message.startswith(
        "2 of 2 images have captions that break the constraints (no_repeat_ngram_size, force_words, bad_words"
    )
    assert message.endswith("such as a.jpg")


def test_a_banned_word_outside_the_vocabulary_is_named(caplog: pytest.LogCaptureFixture) -> None:
    # Bug: a word misspelt was passed over without a word, and the one meant was said.
    with caplog.at_level(logging.WARNING, "seesay"):
        rules = token_constraints(DecodingOptions(bad_words=("browm dog", "dog")), TOKENIZER)
    assert rules.banned == (tuple(TOKENIZER.encode("dog")[1:-1]),)
    (message,) = caplog.messages
    assert message.startswith("decoding.bad_words: 'browm' is not in the vocabulary of ")
    assert message.endswith("near are brown; it is never said, with or without the ban")


# Input that cannot work.


@pytest.mark.parametrize("strategy", ["greedy", "sample", "beam"])
def test_a_image_without_regions_is_refused_by_name(strategy: str) -> None:
    # Bug: its caption was empty and its score not a number.
    mask = torch.tensor([[True] * 4, [False] * 4, [False] * 4])
    with pytest.raises(DataError, match=r"2 of 3 images have no region to attend to, such as b\.jpg; ") as caught:
        decode(
            TableDecoder(0),
            numbered([0, 1, 2]),
            mask,
            DecodingOptions(strategy=strategy),  # type: ignore[arg-type]
            keys=["a.jpg", "b.jpg", "c.jpg"],
        )
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="1 of 1 images have no region"):
        decode(TableDecoder(0), numbered([0])[:, :0], None)
    several = torch.stack([mask, mask.flip(0)], -1)  # of an ensemble: the first image has none for its second member
    with pytest.raises(DataError, match="3 of 3 images have no region to attend to, such as 0"):
        decode(TableDecoder(0), numbered([0, 1, 2]), several)


@pytest.mark.parametrize("strategy", ["greedy", "sample", "beam"])
def test_scores_that_are_no_numbers_are_owned_up_to(strategy: str, caplog: pytest.LogCaptureFixture) -> None:
    # Bug: a caption of a network that gives no numbers looked like any other.
    decoder = ConstantDecoder([float("nan")] * 7)
    with caplog.at_level(logging.WARNING, "seesay"):
        found = decode(decoder, numbered([0]), None, DecodingOptions(strategy=strategy), keys=["a.jpg"])  # type: ignore[arg-type]
    assert not math.isfinite(found[0][0].score)
    assert caplog.messages == ["1 of 1 images have captions whose scores are not finite, such as a.jpg"]


@pytest.mark.parametrize("keys", [[], ["a"], ["a", "b", "c"]])
def test_there_must_be_a_key_a_image(keys: list[str]) -> None:
    # Bug: too few were an error of Python, of too many the rest was left out.
    with pytest.raises(ConfigError, match=f"{len(keys)} keys were given for 2 images"):
        decode(TableDecoder(0), numbered([0, 1]), None, DecodingOptions(strategy="sample"), keys=keys)


# The first caption.


def test_the_first_drawn_caption_stays_the_first() -> None:
    # Bug: it was the likeliest of those drawn, so that asking for alternatives changed the caption itself.
    decoder = TableDecoder(2, words=6, end=-0.5)
    memory = numbered(range(40))
    one = decode(decoder, memory, None, DecodingOptions(strategy="sample", max_length=9))
    moved = 0
    for count in (2, 4):
        several = decode(
            decoder, memory, None, DecodingOptions(strategy="sample", max_length=9, num_return_sequences=count)
        )
        assert [found[0].tokens for found in one] == [found[0].tokens for found in several]
        for found in several:
            others = [each.score for each in found[1:]]
            assert others == sorted(others, reverse=True)
            moved += found[0].score < others[0]
    assert moved > 10


def test_the_first_draw_that_can_end_leads_where_the_first_cannot() -> None:
    """Greedy decoding and sampling look for another caption where the rules stop theirs, however many are wanted."""
    decoder = TableDecoder(5, words=3, end=-2.0)
    rules = TokenConstraints(no_end_after=frozenset((4, 5)))
    memory = numbered(range(60))
    counts = [
        DecodingOptions(strategy="sample", max_length=2, num_return_sequences=n, no_repeat_ngram_size=1) for n in (1, 2)
    ]
    one, two = (decode(decoder, memory, None, options, constraints=rules) for options in counts)
    assert sum(found[0].tokens == other[0].tokens for found, other in zip(one, two, strict=True)) == 60


# Options from Python.


@pytest.mark.parametrize(
    ("values", "message"),
    [
        # Bugs: the first gave an OverflowError, the next three scores that are no numbers.
        ({"strategy": "beam", "length_penalty": 500.0}, "decoding.length_penalty is 500.0; it must be at most 10"),
        ({"strategy": "sample", "temperature": math.inf}, "decoding.temperature is inf; it must be finite"),
        (
            {"strategy": "beam", "beam_size": 4, "num_beam_groups": 2, "diversity_penalty": math.inf},
            "decoding.diversity_penalty is inf; it must be at most 1000",
        ),
        ({"repetition_penalty": math.inf}, "decoding.repetition_penalty is inf; it must be at most 100"),
        ({"length_penalty": math.nan}, "decoding.length_penalty is nan; it must be at least 0"),
        # Bugs: the first searched greedily, the second for letters.
        ({"strategy": "foo"}, "decoding.strategy is 'foo'; choose one of greedy, sample, beam"),
        ({"strategy": "beam", "force_words": "dog"}, "decoding.force_words must be a tuple, not 'dog'"),
        ({"bad_words": ["dog"]}, "decoding.bad_words must be a tuple, not ['dog']"),
        ({"bad_words": (3,)}, "decoding.bad_words must be a text, not 3"),
        ({"beam_size": "3"}, "decoding.beam_size must be a whole number, not '3'"),
        ({"max_length": 2.5}, "decoding.max_length must be a whole number, not 2.5"),
        ({"temperature": None}, "decoding.temperature must be a number, not None"),
        # Bugs: these were passed over.
        ({"beam_size": 9}, "decoding.beam_size is 9, which only a beam search reads; add --strategy beam"),
        ({"length_penalty": 3.0}, "decoding.length_penalty is 3.0, which only a beam search reads"),
        ({"sampling_seed": 3}, "decoding.sampling_seed is 3, which only sampling reads; add --strategy sample"),
        ({"strategy": "sample", "diversity_penalty": 9.0}, "decoding.diversity_penalty is 9.0, which only a diverse"),
        (
            {"strategy": "beam", "diversity_penalty": 9.0},
            "decoding.diversity_penalty is 9.0, which only a diverse beam search reads; add --num-beam-groups above 1",
        ),
    ],
)
def test_options_that_cannot_work_are_refused_in_python_too(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        DecodingOptions(**values)  # type: ignore[arg-type]
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_another_strategy_leaves_behind_what_it_does_not_read() -> None:
    beam = DecodingOptions(
        strategy="beam",
        beam_size=6,
        max_length=9,
        length_penalty=1.5,
        num_beam_groups=2,
        diversity_penalty=0.9,
        num_return_sequences=2,
        bad_words=("a",),
    )
    assert beam.with_strategy("greedy") == DecodingOptions(
        strategy="greedy", max_length=9, num_return_sequences=2, bad_words=("a",)
    )
    assert beam.with_strategy("beam") == beam
    drawn = DecodingOptions(strategy="sample", temperature=0.5, sampling_seed=4, num_return_sequences=5)
    assert drawn.with_strategy("greedy") == DecodingOptions(num_return_sequences=5)
    with pytest.raises(ConfigError, match="num_return_sequences is 5, but a beam of 3"):
        drawn.with_strategy("beam")


def test_the_largest_penalties_leave_scores_that_are_numbers() -> None:
    options = DecodingOptions(
        strategy="beam",
        beam_size=4,
        max_length=40,
        length_penalty=10.0,
        num_beam_groups=2,
        diversity_penalty=1000.0,
        repetition_penalty=100.0,
    )
    for found in decode(TableDecoder(0), numbered(range(4)).float(), None, options):
        assert math.isfinite(found[0].score)
        json.dumps(found[0].score, allow_nan=False)
