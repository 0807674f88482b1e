"""Several distinct captions per image."""

import logging
from collections.abc import Sequence
from typing import Any

import pytest

from seesay.decoding import DecodingOptions, TokenConstraints
from seesay.tokenizer import UNK_ID
from tests.decoding.oracles import TableDecoder, decode, every_caption, numbered, reference_beam

FIRST = UNK_ID + 1


@pytest.mark.parametrize(
    "options",
    [
        DecodingOptions(strategy="greedy", max_length=8, num_return_sequences=4),
        DecodingOptions(strategy="sample", max_length=8, num_return_sequences=4),
        DecodingOptions(strategy="beam", beam_size=4, max_length=8, num_return_sequences=4),
        DecodingOptions(
            strategy="beam", beam_size=6, max_length=8, num_return_sequences=4, num_beam_groups=3, diversity_penalty=0.0
        ),
        DecodingOptions(
            strategy="beam", beam_size=4, max_length=8, num_return_sequences=4, num_beam_groups=4, diversity_penalty=1.0
        ),
    ],
)
def test_the_requested_number_of_distinct_captions_is_returned(options: DecodingOptions) -> None:
    decoder = TableDecoder(0, words=6, end=-0.5)
    for found in decode(decoder, numbered(range(30)), None, options):
        assert len({hypothesis.tokens for hypothesis in found}) == 4


def normalised(tokens: Sequence[int]) -> str:
    """Return the text of tokens of a vocabulary in which 4 is a space and 6 the upper case of 5."""
    return (
        "".join({FIRST: " ", FIRST + 1: "a", FIRST + 2: "A"}.get(token, chr(ord("a") + token)) for token in tokens)
        .strip()
        .lower()
    )


@pytest.mark.parametrize("strategy", ["greedy", "sample", "beam"])
def test_captions_with_equal_text_count_once(strategy: Any) -> None:
    decoder = TableDecoder(1, words=9, end=-1.0)
    options = DecodingOptions(strategy="beam", beam_size=5, max_length=6, num_return_sequences=5)
    options = options.with_strategy(strategy)
    constraints = TokenConstraints(text=normalised)
    doubled = 0
    for image, found in enumerate(decode(decoder, numbered(range(20)), None, options, constraints=constraints)):
        assert len({normalised(hypothesis.tokens) for hypothesis in found}) == 5
        doubled += len({normalised(each.words) for each in reference_beam(decoder, image, options)[:5]}) < 5
    assert doubled > 0  # a beam of 5 would not have found five


def test_fewer_captions_than_requested_log_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    decoder = TableDecoder(0, words=2)
    options = DecodingOptions(
        strategy="beam", beam_size=9, max_length=1, num_return_sequences=9
    )  # only three exist: empty, or either word
    with caplog.at_level(logging.WARNING, "seesay"):
        (found,) = decode(decoder, numbered([0]), None, options, keys=["photo.jpg"])
    assert [h.tokens for h in found] == [each.words for each in every_caption(decoder, 0, options)]
    assert caplog.messages == [
        "1 of 1 images have fewer than the 9 distinct captions requested, such as photo.jpg with 3"
    ]
    caplog.clear()
    decode(
        decoder,
        numbered([0]),
        None,
        DecodingOptions(strategy="beam", beam_size=9, max_length=1, num_return_sequences=3),
    )
    assert caplog.messages == []


def test_the_first_caption_does_not_depend_on_the_number_requested() -> None:
    decoder = TableDecoder(2, words=6, end=-0.5)
    memory = numbered(range(30))
    for strategy in ("greedy", "beam"):
        one = decode(
            decoder, memory, None, DecodingOptions(strategy="beam", beam_size=4, max_length=9).with_strategy(strategy)
        )
        four = decode(
            decoder,
            memory,
            None,
            DecodingOptions(strategy="beam", beam_size=4, max_length=9, num_return_sequences=4).with_strategy(strategy),
        )
        assert [found[0].tokens for found in one] == [found[0].tokens for found in four]


def test_greedy_alternatives_continue_from_the_next_most_probable_first_words() -> None:
    decoder = TableDecoder(3, words=6, end=-2.0)
    for image, found in enumerate(
        decode(decoder, numbered(range(10)), None, DecodingOptions(max_length=6, num_return_sequences=3))
    ):
        firsts = decoder.log_probs(image, ())
        expected = []
        for word in sorted(firsts, key=lambda each: -firsts[each])[:3]:
            words: tuple[int, ...] = (word,)
            while word != 2 and len(words) < 6:
                probs = decoder.log_probs(image, words)
                word = max(probs, key=lambda each: probs[each])
                words = (*words, word)
            expected.append(tuple(word for word in words if word != 2))
        assert found[0].tokens == expected[0]
        assert {hypothesis.tokens for hypothesis in found} == set(expected)


def test_samples_do_not_depend_on_the_number_of_samples() -> None:
    decoder = TableDecoder(4, words=6, end=-1.0)
    options = [DecodingOptions(strategy="sample", max_length=7, num_return_sequences=n) for n in (2, 5)]
    two, five = (decode(decoder, numbered([0] * 8), None, each, keys=list("abcdefgh")) for each in options)
    for fewer, more in zip(two, five, strict=True):
        assert {h.tokens for h in fewer} <= {h.tokens for h in more}
