"""Errors and warnings of `generate`; each test names the past bug it guards against."""

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
from tests.decoding.oracles import ConstantDecoder, TableDecoder, contains, decode, numbered, satisfies_bans

TOKENIZER = Tokenizer.build(["two dogs and two cats see a brown dog run", "the dog runs"], TextConfig())


# Unsatisfiable constraints.


@pytest.mark.parametrize(
    ("force_words", "block", "message"),
    [
        (
            ("two dogs", "two cats"),
            1,
            "decoding.force_words needs 'two' twice, which decoding.no_repeat_ngram_size 1 forbids",
        ),
        (("two dogs", "the dogs"), 1, "decoding.force_words needs 'dogs' twice"),
        (("two dogs", "dogs and", "and two"), 1, "decoding.force_words needs 'two' twice"),
        (("dog and dog",), 1, "decoding.force_words needs 'dog' twice"),
        (
            ("two dogs see two dogs",),
            2,
            "decoding.force_words needs 'two dogs' twice, which decoding.no_repeat_ngram_size 2 forbids",
        ),
        (("dog dog dog",), 2, "decoding.force_words needs 'dog dog' twice"),
        (("see two dogs", "see two cats"), 2, "decoding.force_words needs 'see two' twice"),
    ],
)
def test_required_phrases_that_need_a_forbidden_repeat_raise(
    force_words: tuple[str, ...], block: int, message: str
) -> None:
    # Bug: they were dropped silently.
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
def test_required_phrases_without_repeats_are_satisfied(force_words: tuple[str, ...], block: int) -> None:
    options = DecodingOptions(
        strategy="beam", beam_size=5, max_length=12, force_words=force_words, no_repeat_ngram_size=block
    )
    constraints = token_constraints(options, TOKENIZER)
    ((best,),) = decode(
        TableDecoder(0, words=len(TOKENIZER) - 4), numbered([0]), None, options, constraints=constraints
    )
    assert all(contains(best.tokens, phrase) for phrase in constraints.required)
    assert satisfies_bans(best.tokens, options, constraints)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(st.sampled_from((4, 5, 6, 7)), min_size=1, max_size=3).map(tuple), max_size=4))
def test_check_repeats_is_exact_for_single_words(phrases: list[tuple[int, ...]]) -> None:
    """A caption without a repeated word is a permutation of some words; the test tries all."""
    orders = [words for count in range(5) for words in itertools.permutations((4, 5, 6, 7), count)]
    possible = any(all(contains(words, phrase) for phrase in phrases) for words in orders)
    if possible:
        check_repeats(TokenConstraints(required=tuple(phrases)), 1)
    else:
        with pytest.raises(ConfigError, match="twice"):
            check_repeats(TokenConstraints(required=tuple(phrases)), 1)


def test_results_that_violate_the_constraints_log_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    # Bug: there was no warning.
    constraints = TokenConstraints(required=((4,), (5,)))
    options = DecodingOptions(
        strategy="beam", beam_size=9, max_length=5, min_length=4, no_repeat_ngram_size=1
    )  # the vocabulary has three words
    with caplog.at_level(logging.WARNING, "seesay"):
        found = decode(
            TableDecoder(0, words=3), numbered([0, 1]), None, options, constraints=constraints, keys=["a.jpg", "b.jpg"]
        )
    assert [hypotheses[0].finished for hypotheses in found] == [False, False]
    (message,) = caplog.messages
    assert message.startswith(
        "2 of 2 images have captions that violate the constraints (no_repeat_ngram_size, force_words, bad_words"
    )
    assert message.endswith("such as a.jpg")


def test_a_banned_word_outside_the_vocabulary_is_named(caplog: pytest.LogCaptureFixture) -> None:
    # Bug: a misspelt word was ignored silently, so that the intended one was generated.
    with caplog.at_level(logging.WARNING, "seesay"):
        constraints = token_constraints(DecodingOptions(bad_words=("browm dog", "dog")), TOKENIZER)
    assert constraints.banned == (tuple(TOKENIZER.encode("dog")[1:-1]),)
    (message,) = caplog.messages
    assert message.startswith("decoding.bad_words: 'browm' is not in the vocabulary of ")
    assert message.endswith("similar words: brown; it is never generated anyway")


# Invalid input.


@pytest.mark.parametrize("strategy", ["greedy", "sample", "beam"])
def test_an_image_without_regions_is_named(strategy: str) -> None:
    # Bug: its caption was empty and its score NaN.
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
    several = torch.stack([mask, mask.flip(0)], -1)  # an ensemble: the first image has none for its second member
    with pytest.raises(DataError, match="3 of 3 images have no region to attend to, such as 0"):
        decode(TableDecoder(0), numbered([0, 1, 2]), several)


@pytest.mark.parametrize("strategy", ["greedy", "sample", "beam"])
def test_scores_that_are_not_finite_log_a_warning(strategy: str, caplog: pytest.LogCaptureFixture) -> None:
    # Bug: a caption of a network that outputs NaN looked like any other.
    decoder = ConstantDecoder([float("nan")] * 7)
    with caplog.at_level(logging.WARNING, "seesay"):
        found = decode(decoder, numbered([0]), None, DecodingOptions(strategy=strategy), keys=["a.jpg"])  # type: ignore[arg-type]
    assert not math.isfinite(found[0][0].score)
    assert caplog.messages == ["1 of 1 images have captions whose scores are not finite, such as a.jpg"]


@pytest.mark.parametrize("keys", [[], ["a"], ["a", "b", "c"]])
def test_the_number_of_keys_must_match_the_images(keys: list[str]) -> None:
    # Bug: too few raised a Python error, the excess of too many was ignored.
    with pytest.raises(ConfigError, match=f"{len(keys)} keys for 2 images"):
        decode(TableDecoder(0), numbered([0, 1]), None, DecodingOptions(strategy="sample"), keys=keys)


# The first caption.


def test_the_first_sample_stays_first() -> None:
    # Bug: the most probable sample came first, so that requesting alternatives changed the caption.
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


def test_the_first_sample_that_can_end_comes_first() -> None:
    """The result does not depend on the number of samples where constraints stop the first one."""
    decoder = TableDecoder(5, words=3, end=-2.0)
    constraints = TokenConstraints(no_end_after=frozenset((4, 5)))
    memory = numbered(range(60))
    counts = [
        DecodingOptions(strategy="sample", max_length=2, num_return_sequences=n, no_repeat_ngram_size=1) for n in (1, 2)
    ]
    one, two = (decode(decoder, memory, None, options, constraints=constraints) for options in counts)
    assert sum(found[0].tokens == other[0].tokens for found, other in zip(one, two, strict=True)) == 60


# Options passed in Python.


@pytest.mark.parametrize(
    ("values", "message"),
    [
        # Bugs: the first raised OverflowError, the next three gave NaN scores.
        ({"strategy": "beam", "length_penalty": 500.0}, "decoding.length_penalty is 500.0; it must be at most 10"),
        ({"strategy": "sample", "temperature": math.inf}, "decoding.temperature is inf; it must be finite"),
        (
            {"strategy": "beam", "beam_size": 4, "num_beam_groups": 2, "diversity_penalty": math.inf},
            "decoding.diversity_penalty is inf; it must be finite",
        ),
        ({"repetition_penalty": math.inf}, "decoding.repetition_penalty is inf; it must be finite"),
        ({"length_penalty": math.nan}, "decoding.length_penalty is nan; it must be finite"),
        # Bug: the first searched greedily.
        ({"strategy": "foo"}, "decoding.strategy is 'foo'; choose one of greedy, sample, beam"),
        ({"bad_words": (3,)}, "decoding.bad_words must be a text, not 3"),
        ({"beam_size": "3"}, "decoding.beam_size must be a whole number, not '3'"),
        ({"max_length": 2.5}, "decoding.max_length must be a whole number, not 2.5"),
        ({"temperature": None}, "decoding.temperature must be a number, not None"),
        # Bugs: these were ignored.
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
def test_invalid_options_raise(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        DecodingOptions(**values)  # type: ignore[arg-type]
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_single_phrase_and_a_list_are_accepted() -> None:
    # Bug: a single phrase required its letters.
    assert DecodingOptions(strategy="beam", force_words="dog").force_words == ("dog",)  # type: ignore[arg-type]
    assert DecodingOptions(bad_words=["a dog"]).bad_words == ("a dog",)  # type: ignore[arg-type]


def test_with_strategy_drops_options_of_other_strategies() -> None:
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


def test_the_largest_penalties_give_finite_scores() -> None:
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
