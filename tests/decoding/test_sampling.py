"""Sampling against its definition."""

import math
from collections import Counter
from collections.abc import Sequence

import pytest
import torch

from seesay.decoding import DecodingOptions
from seesay.decoding.sampling import sample
from seesay.tokenizer import END_ID
from tests.decoding.oracles import ConstantDecoder, TableDecoder, decode, numbered, same


def chi_square(counts: Counter[tuple[int, ...]], expected: dict[tuple[int, ...], float]) -> float:
    """Return Pearson's chi-squared statistic of counts against probabilities."""
    total = sum(counts.values())
    assert set(counts) <= set(expected)
    assert sum(expected.values()) == pytest.approx(1.0)
    return sum((counts[key] - total * share) ** 2 / (total * share) for key, share in expected.items())


def kept_words(log_probs: dict[int, float], options: DecodingOptions) -> dict[int, float]:
    """Return the distribution of the next word by the definition of sampling."""
    weights = {word: math.exp(value / options.temperature) for word, value in log_probs.items()}
    ordered = sorted(weights, key=lambda word: -weights[word])[: options.top_k or None]
    total = sum(weights[word] for word in ordered)
    nucleus: list[int] = []
    for word in ordered:
        if sum(weights[each] for each in nucleus) / total < options.top_p:
            nucleus.append(word)
    top_tokens = [word for word in nucleus if weights[word] >= options.min_p * weights[ordered[0]]]
    total = sum(weights[word] for word in top_tokens)
    return {word: weights[word] / total for word in top_tokens}


@pytest.mark.parametrize(
    ("options", "outcomes"),
    [
        (DecodingOptions(strategy="sample", max_length=1), 7),
        (DecodingOptions(strategy="sample", max_length=2), 22),
        (DecodingOptions(strategy="sample", max_length=2, temperature=0.6), 22),
        (DecodingOptions(strategy="sample", max_length=2, temperature=1.7, top_k=3), 11),
        (DecodingOptions(strategy="sample", max_length=2, top_k=2), 3),
        (DecodingOptions(strategy="sample", max_length=2, top_p=0.8), 11),
        (DecodingOptions(strategy="sample", max_length=2, top_p=0.6), 4),
        (DecodingOptions(strategy="sample", max_length=2, min_p=0.4), 4),
        (DecodingOptions(strategy="sample", max_length=2, temperature=1.3, top_k=3, top_p=0.9, min_p=0.3), 11),
    ],
)
def test_sampled_captions_follow_the_distribution(options: DecodingOptions, outcomes: int) -> None:
    decoder = TableDecoder(7, words=3, scale=0.6)
    results = decode(decoder, numbered([0] * 6000), None, options)
    counts = Counter((*h.tokens, END_ID) if h.finished else h.tokens for (h,) in results)
    expected: dict[tuple[int, ...], float] = {}

    def grow(words: tuple[int, ...], share: float) -> None:
        for word, part in kept_words(decoder.log_probs(0, words), options).items():
            if word == END_ID:
                expected[(*words, END_ID)] = share * part
            elif len(words) < options.max_length:
                grow((*words, word), share * part)
            else:  # beyond the maximum length: the caption is truncated
                expected[words] = expected.get(words, 0.0) + share * part

    grow((), 1.0)
    assert len(expected) == outcomes
    # The 99.9 % quantile of the statistic by Wilson and Hilferty's approximation.
    spread = 2 / (9 * (outcomes - 1))
    assert chi_square(counts, expected) < (outcomes - 1) * (1 - spread + 3.09 * spread**0.5) ** 3


def test_sampling_depends_only_on_seed_and_key() -> None:
    decoder = TableDecoder(2, end=-1.0)

    def captions(images: int, seed: int, keys: Sequence[str] | None, length: int = 8) -> list[tuple[int, ...]]:
        options = DecodingOptions(strategy="sample", max_length=length, sampling_seed=seed)
        return [found.tokens for (found,) in decode(decoder, numbered([0] * images), None, options, keys=keys)]

    same_image = captions(20, 0, [f"photo {n}" for n in range(20)])
    assert len(set(same_image)) > 10
    assert captions(1, 0, ["photo 13"]) == [same_image[13]]
    assert captions(1, 0, ["photo 13"], length=4) == [same_image[13][:4]]
    assert captions(20, 1, [f"photo {n}" for n in range(20)]) != same_image
    assert captions(3, 0, None) == captions(5, 0, None)[:3]


@pytest.mark.parametrize(
    "options",
    [
        DecodingOptions(strategy="sample", max_length=9, top_k=1),
        DecodingOptions(strategy="sample", max_length=9, temperature=1e-6),
        # Bug: division by a subnormal temperature overflowed and made every probability NaN.
        DecodingOptions(strategy="sample", max_length=9, temperature=5e-324),
    ],
)
def test_sampling_with_one_choice_is_greedy(options: DecodingOptions) -> None:
    decoder = TableDecoder(4, end=-1.0)
    greedy = decode(decoder, numbered(range(30)), None, DecodingOptions(max_length=9), keep_attention=True)
    sampled = decode(decoder, numbered(range(30)), None, options, keep_attention=True)
    assert all(same(one, other) for one, other in zip(greedy, sampled, strict=True))


def test_top_k_keeps_at_most_k_words_when_scores_tie() -> None:
    # Bug: every word as probable as the k-th was kept.
    options = DecodingOptions(strategy="sample", max_length=1, top_k=2)
    found = decode(ConstantDecoder([0.0] * 12), numbered([0] * 200), None, options)
    assert len({h.tokens for (h,) in found}) == 2


def test_the_least_and_the_greatest_draw_give_tokens_that_may_be_generated() -> None:
    logits = torch.full((2, 600), float("-inf"))
    logits[:, 7], logits[:, 530] = 1.0, 2.0
    draws = torch.tensor([0.0, 1.0], dtype=torch.float64)
    assert sample(logits, draws, DecodingOptions(strategy="sample")).tolist() == [7, 530]


@pytest.mark.parametrize("temperature", [1e-6, 1e-40])
def test_no_temperature_is_too_low(temperature: float) -> None:
    torch.manual_seed(2)
    logits = 3 * torch.randn(20, 300)
    options = DecodingOptions(strategy="sample", temperature=temperature)
    assert torch.equal(sample(logits, torch.rand(20, dtype=torch.float64), options), logits.argmax(-1))
