"""Combinations of options: ten thousand random sets, and one-line errors for contradictions."""

import itertools
import math
import random
import re
from collections.abc import Iterator

import pytest
import torch
from pydantic import ValidationError

from seesay.config import resolve_config
from seesay.decoding import DecodingOptions, Hypothesis, TokenConstraints
from seesay.errors import ConfigError
from seesay.tokenizer import UNK_ID
from tests.decoding.oracles import TableDecoder, decode, numbered, satisfies_bans, satisfies_constraints

WORDS = range(4, 10)


def any_options(draw: random.Random) -> tuple[DecodingOptions, TokenConstraints]:
    """Return random valid options and constraints."""
    strategy = draw.choice(("greedy", "sample", "beam"))
    length, groups = draw.choice((1, 1, 2, 3)), draw.choice((1, 1, 2, 3))
    values: dict[str, object] = {
        "strategy": strategy,
        "max_length": length,
        "min_length": draw.choice((0, draw.randint(0, length))),
        "allow_unk": draw.random() < 0.3,
        "num_return_sequences": draw.choice((1, 1, 1, 1, 2, 3)),
        "no_repeat_ngram_size": draw.choice((0, 0, 0, 0, 1, 2, 3)),
        "repetition_penalty": draw.choice((1.0, 1.0, 2.0)),
    }
    required: tuple[tuple[int, ...], ...] = ()
    if strategy == "beam":
        beam = groups * draw.randint(1, 3)
        values |= {"beam_size": beam, "num_beam_groups": groups, "length_penalty": draw.choice((0.0, 0.7, 3.0))}
        if groups > 1:
            values["diversity_penalty"] = draw.choice((0.0, 0.5, 9.0))
        values["num_return_sequences"] = min(beam, int(str(values["num_return_sequences"])))
        if groups == 1 and draw.random() < 0.25:
            required = tuple(any_phrase(draw) for _ in range(draw.randint(1, 2)))
    if strategy == "sample":
        values |= {
            "temperature": draw.choice((1e-9, 0.5, 1.0, 50.0)),
            "top_k": draw.choice((0, 1, 3, 99)),
            "top_p": draw.choice((1.0, 0.9, 1e-6)),
            "min_p": draw.choice((0.0, 0.2, 1.0)),
            "sampling_seed": draw.randint(-5, 5),
        }
    banned = tuple(any_phrase(draw) for _ in range(draw.choice((0, 0, 0, 0, 1, 3))))
    ends = frozenset(draw.sample(WORDS, 3)) if draw.random() < 0.3 else frozenset()
    return DecodingOptions(**values), TokenConstraints(banned, required, ends)  # type: ignore[arg-type]


def any_phrase(draw: random.Random) -> tuple[int, ...]:
    return tuple(draw.choice(WORDS) for _ in range(draw.randint(1, 2)))


def check(found: list[Hypothesis], options: DecodingOptions, constraints: TokenConstraints) -> None:
    """Assert the properties of every result."""
    assert 1 <= len(found) <= options.num_return_sequences
    assert len({hypothesis.tokens for hypothesis in found}) == len(found)
    scores = [hypothesis.score for hypothesis in found][options.strategy != "beam" :]
    assert scores == sorted(scores, reverse=True)
    for hypothesis in found:
        tokens = hypothesis.tokens
        assert len(tokens) <= options.max_length
        assert len(hypothesis.log_probs) == len(tokens) + 1
        assert all(-math.inf < value < 1e-9 for value in hypothesis.log_probs)
        assert all(token in WORDS or (token == 3 and options.allow_unk) for token in tokens)
        assert satisfies_bans(tokens, options, constraints)
        if options.repetition_penalty == 1:
            penalty = options.length_penalty if options.strategy == "beam" else 0.0
            assert hypothesis.score == pytest.approx(sum(hypothesis.log_probs) / (len(tokens) + 1) ** penalty)
        # Truncated captions satisfy every constraint too; only one that could neither continue nor end may not.
        if not satisfies_constraints(tokens, options, constraints):
            assert len(found) == 1
            assert not hypothesis.finished
            assert not any(
                satisfies_constraints((*tokens, *more), options, constraints) for more in continuations(tokens, options)
            )


def continuations(tokens: tuple[int, ...], options: DecodingOptions) -> Iterator[tuple[int, ...]]:
    """Yield every continuation of `tokens` up to the maximum length."""
    allowed = [*WORDS, *([UNK_ID] if options.allow_unk else [])]
    for length in range(1, options.max_length - len(tokens) + 1):
        yield from itertools.product(allowed, repeat=length)


@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.slow) for part in range(1, 5))])
def test_a_thousand_random_sets_of_options_give_valid_results(library: str, part: int) -> None:
    """Ten thousand sets in total over the parts and libraries."""
    draw = random.Random(f"{library}, part {part}")
    decoders = [TableDecoder(seed, words=len(WORDS), end=float(seed % 3 + 1)) for seed in range(5)]
    memory = numbered([0, 1])
    finished = cut = refused = several = 0
    for turn in range(1000):
        options, constraints = any_options(draw)
        try:
            results = decode(decoders[turn % 5], memory[: 1 + (turn % 9 == 0)], None, options, constraints=constraints)
        except ConfigError:
            assert constraints.required  # too many or banned words
            refused += 1
            continue
        assert len(results) == 1 + (turn % 9 == 0)
        for found in results:
            check(found, options, constraints)
            finished += found[0].finished
            cut += not found[0].finished and satisfies_constraints(found[0].tokens, options, constraints)
            several += len(found) > 1
    assert finished > 400
    assert cut > 60
    assert several > 200
    assert 10 < refused < 200


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"beam_size": 0}, "decoding.beam_size is 0; it must be at least 1"),
        ({"top_p": 1.5, "strategy": "sample"}, "decoding.top_p is 1.5; it must be at most 1"),
        ({"top_p": 0.0, "strategy": "sample"}, "decoding.top_p is 0.0; it must be above 0"),
        ({"min_p": 1.1, "strategy": "sample"}, "decoding.min_p is 1.1; it must be at most 1"),
        ({"min_length": 9, "max_length": 8}, "decoding.min_length is 9, above max_length, which is 8"),
        ({"temperature": 0.7, "strategy": "beam"}, "decoding.temperature is 0.7, which only sampling reads"),
        ({"top_k": 5}, "decoding.top_k is 5, which only sampling reads; add --strategy sample"),
        ({"top_p": 0.9}, "decoding.top_p is 0.9, which only sampling reads"),
        (
            {"beam_size": 4, "num_beam_groups": 3, "strategy": "beam"},
            "decoding.num_beam_groups is 3, which does not divide beam_size, 4",
        ),
        ({"beam_size": 4, "num_beam_groups": 2}, "decoding.num_beam_groups is 2, which only a beam search reads"),
        (
            {"force_words": ("dog",)},
            "decoding.force_words is ('dog',), which only a beam search reads; add --strategy beam",
        ),
        (
            {"force_words": ("dog",), "strategy": "beam", "beam_size": 4, "num_beam_groups": 2},
            "decoding.force_words is ('dog',), which needs num_beam_groups 1, not 2",
        ),
        (
            {"num_return_sequences": 4, "strategy": "beam"},
            "decoding.num_return_sequences is 4, but a beam of 3 ends in as many at most",
        ),
        ({"num_return_sequences": 0}, "decoding.num_return_sequences is 0; it must be at least 1"),
        ({"repetition_penalty": 0.5}, "decoding.repetition_penalty is 0.5; it must be at least 1"),
    ],
)
def test_contradictions_raise_one_line_errors(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        DecodingOptions(**values)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match=re.escape(message)):
        resolve_config(overrides=values)


def test_options_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        DecodingOptions().beam_size = 5


def test_the_default_maximum_length_is_at_least_the_minimum() -> None:
    ((found,),) = decode(TableDecoder(0, end=5.0), numbered([0]), None, DecodingOptions(min_length=40))
    assert len(found.tokens) >= 40
    assert torch.isfinite(torch.tensor(found.score))
