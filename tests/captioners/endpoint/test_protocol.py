"""Decoding options in requests, and captions in responses."""

import itertools
import math
import random
from typing import Any

import pytest

from seesay.captioners.endpoint.client import RequestError
from seesay.captioners.endpoint.protocol import check_options, image_seed, read_captions, request_body, word_log_probs
from seesay.config import DecodingOptions
from seesay.errors import ConfigError
from tests.captioners.endpoint.scripted_server import completion


def body(options: DecodingOptions, name: str = "a.jpg") -> dict[str, Any]:
    return request_body("m", ("Describe.", b"jpeg"), options, name)


def test_greedy_is_temperature_zero_and_sampling_passes_its_options() -> None:
    greedy = body(DecodingOptions(max_length=40))
    assert (greedy["model"], greedy["max_tokens"], greedy["temperature"]) == ("m", 40, 0)
    assert not {"seed", "top_p", "n"} & greedy.keys()
    image, text = greedy["messages"][0]["content"]
    assert image["image_url"]["url"] == "data:image/jpeg;base64,anBlZw=="
    assert text == {"type": "text", "text": "Describe."}
    options = DecodingOptions(strategy="sample", temperature=0.7, top_p=0.9, sampling_seed=3, num_return_sequences=4)
    sampled = body(options)
    assert (sampled["temperature"], sampled["top_p"], sampled["n"]) == (0.7, 0.9, 4)
    assert sampled["seed"] == image_seed(3, "a.jpg")


def test_the_seed_depends_on_the_image_and_on_the_option_and_fits_every_server() -> None:
    seeds = {image_seed(seed, name) for seed in (0, 1, -5, 2**60) for name in ("a", "b", "\udcff")}
    assert len(seeds) == 12
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert image_seed(1, "a") == image_seed(1, "a")


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"strategy": "beam"}, "strategy"),
        ({"strategy": "sample", "top_k": 5}, "top_k"),
        ({"strategy": "sample", "min_p": 0.1}, "min_p"),
        ({"min_length": 3}, "min_length"),
        ({"no_repeat_ngram_size": 2}, "no_repeat_ngram_size"),
        ({"repetition_penalty": 1.2}, "repetition_penalty"),
        ({"bad_words": ("cat",)}, "bad_words"),
        ({"strategy": "beam", "force_words": ("cat",)}, "strategy"),
        ({"complete_endings": True}, "complete_endings"),
        ({"allow_unk": True}, "allow_unk"),
        ({"num_return_sequences": 2}, "num_return_sequences"),
    ],
)
def test_options_that_the_protocol_lacks_are_refused_by_name(options: dict[str, Any], name: str) -> None:
    with pytest.raises(ConfigError, match=rf"^decoding\.{name} "):
        check_options(DecodingOptions(**options))


def test_options_that_it_has_are_accepted() -> None:
    check_options(DecodingOptions(max_length=7))
    check_options(DecodingOptions(strategy="sample", temperature=2, top_p=0.5, sampling_seed=9, num_return_sequences=3))


def entries(pieces: list[bytes], values: list[float], with_bytes: bool = True) -> list[dict[str, Any]]:
    return [
        {"token": piece.decode(errors="replace"), "logprob": value, **({"bytes": list(piece)} if with_bytes else {})}
        for piece, value in zip(pieces, values, strict=True)
    ]


@pytest.mark.parametrize("seed", range(20))
def test_log_probabilities_of_words_add_up_however_the_text_is_cut_into_tokens(seed: int) -> None:
    draw = random.Random(seed)
    words = ["Ein", "grüner", "Hund,", "日本", "läuft", "x."]
    text = "".join(f"{draw.choice([' ', '  ', chr(10)])}{word}" for word in words).encode()
    cuts = sorted({0, len(text), *draw.sample(range(1, len(text)), 9)})
    pieces = [text[begin:end] for begin, end in itertools.pairwise(cuts)]
    values = [-draw.random() for _ in pieces]
    log_probs, end = word_log_probs(words, entries([*pieces, b"<|end|>"], [*values, -0.25]))
    assert len(log_probs) == len(words)
    assert end == -0.25
    assert math.isclose(sum(log_probs), sum(values))


def test_log_probabilities_of_words_are_those_of_their_tokens() -> None:
    pieces, values = [b" a", b" d", b"og", b" ", b"runs"], [-1.0, -2.0, -4.0, -8.0, -16.0]
    log_probs, end = word_log_probs(["a", "dog", "runs"], entries(pieces, values, False))
    assert log_probs == (-1.0, -6.0, -24.0)
    assert math.isnan(end)


@pytest.mark.parametrize(
    "pieces", [[], [b"a"], [b"a", b" cat"], [b"not a", b" dog"]], ids=["none", "short", "other", "longer"]
)
def test_log_probabilities_of_another_text_are_unknown(pieces: list[bytes]) -> None:
    log_probs, end = word_log_probs(["a", "dog"], entries(pieces, [-1.0] * len(pieces)))
    assert log_probs == ()
    assert math.isnan(end)
    assert word_log_probs(["a"], entries([b"a"], [-math.inf]))[0] == ()


def test_a_caption_has_words_and_a_score() -> None:
    tokens = entries([b"A", b" dog.", b"</s>"], [-0.5, -0.25, -0.125])
    (caption,) = read_captions(completion(" A dog.\n", logprobs={"content": tokens}))
    assert (caption.text, caption.words, caption.log_probs) == ("A dog.", ("A", "dog."), (-0.5, -0.25))
    assert (caption.end_log_prob, caption.score, caption.finished) == (-0.125, -0.875, True)
    assert caption.probability == pytest.approx(math.exp(-0.75))


def test_without_log_probabilities_the_score_is_unknown() -> None:
    (caption,) = read_captions(completion("A dog", finish="length"))
    assert (caption.words, caption.log_probs, caption.finished) == (("A", "dog"), (), False)
    assert math.isnan(caption.score)
    assert math.isnan(caption.end_log_prob)
    assert math.isnan(caption.probability)


def test_content_in_parts_is_joined_and_empty_content_is_an_empty_caption() -> None:
    answer = completion("")
    answer["choices"][0]["message"]["content"] = [{"type": "text", "text": "A "}, {"type": "text", "text": "dog"}]
    assert read_captions(answer)[0].text == "A dog"
    answer["choices"][0]["message"] = {"content": None, "reasoning_content": "Hm, a dog?"}
    assert read_captions(answer)[0].text == ""


@pytest.mark.parametrize(
    "answer", [{}, {"choices": []}, {"choices": None}, {"choices": [{}]}, {"choices": [{"message": "no"}]}]
)
def test_a_response_without_a_caption_may_be_retried(answer: dict[str, Any]) -> None:
    with pytest.raises(RequestError) as caught:
        read_captions(answer)
    assert caught.value.temporary


def test_a_refusal_is_an_error_that_is_not_retried() -> None:
    answer = completion("")
    answer["choices"][0]["message"]["refusal"] = "I can't help with that."
    for each in (answer, completion("A do", finish="content_filter")):
        with pytest.raises(RequestError, match="the model refused") as caught:
            read_captions(each)
        assert not caught.value.temporary
