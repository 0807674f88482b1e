"""`sample_captions`, the sampling of self-critical training, against the enumerated distribution."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor

from seesay.decoding import DecodingOptions, Hypothesis, sample_captions
from seesay.models.protocol import DecoderState, StepOutput
from seesay.tokenizer import END_ID, PAD_ID, START_ID, UNK_ID


def sample(decoder: "MarkovDecoder", images: int, options: DecodingOptions, draws: Tensor) -> list[list[Hypothesis]]:
    return sample_captions(decoder, decoder.init_state(torch.zeros(images, 1, 1), None), options, draws)


class MarkovDecoder:
    """A decoder whose next word depends only on the image and the last word."""

    def __init__(self, table: Tensor) -> None:
        self.table = table  # (B, V, V) logits

    def init_state(self, memory: Tensor, memory_mask: Tensor | None) -> DecoderState:
        images = torch.arange(len(memory))[:, None]
        return DecoderState({"image": images}, {"nothing": torch.zeros(len(memory), 1, 1)})

    def step(self, tokens: Tensor, state: DecoderState) -> StepOutput:
        logits = self.table[state.per_image["image"], tokens]
        return StepOutput(logits, state, None)


def sample_words(
    decoder: MarkovDecoder, images: int, samples: int, max_length: int, allow_unk: bool = False
) -> list[list[tuple[int, ...]]]:
    """Sample captions of at most `max_length` words; finished ones include their end token."""
    options = DecodingOptions(
        strategy="sample", num_return_sequences=samples, max_length=max_length, allow_unk=allow_unk
    )
    draws = torch.rand(images, samples, max_length + 1, dtype=torch.float64)
    found = sample(decoder, images, options, draws)
    return [[(*one.tokens, END_ID) if one.finished else one.tokens for one in of_image] for of_image in found]


def probabilities(table: Tensor, max_length: int, allow_unk: bool) -> dict[tuple[int, ...], float]:
    """Return the probability of every caption of at most `max_length` words."""
    banned = [PAD_ID, START_ID] + ([] if allow_unk else [UNK_ID])
    weights = table.double().exp()
    weights[:, banned] = 0
    step_probs = weights / weights.sum(1, keepdim=True)
    found: dict[tuple[int, ...], float] = {}
    open_: dict[tuple[int, ...], float] = {(START_ID,): 1.0}
    for length in range(max_length + 1):
        found |= {(*row[1:], END_ID): p * float(step_probs[row[-1], END_ID]) for row, p in open_.items()}
        if length == max_length:  # any other token is beyond the limit: the caption is truncated
            return found | {row[1:]: p * (1 - float(step_probs[row[-1], END_ID])) for row, p in open_.items()}
        open_ = {
            (*row, word): p * float(step_probs[row[-1], word])
            for row, p in open_.items()
            for word in range(len(table))
            if word != END_ID and float(step_probs[row[-1], word]) > 0
        }
    raise AssertionError


@pytest.mark.parametrize("allow_unk", [False, True])
def test_caption_frequencies_follow_the_distribution(allow_unk: bool) -> None:
    torch.manual_seed(3)
    table, samples = torch.randn(2, 6, 6), 20_000
    found = sample_words(MarkovDecoder(table), 2, samples, 2, allow_unk)
    for image in range(2):
        counts, wanted = Counter(found[image]), probabilities(table[image], 2, allow_unk)
        assert sum(wanted.values()) == pytest.approx(1)
        assert set(counts) <= {row for row, p in wanted.items() if p > 0}
        for row, p in wanted.items():  # within 4.5 deviations of a binomial count
            assert abs(counts[row] - samples * p) <= 4.5 * np.sqrt(samples * p * (1 - p)) + 1e-9, row


def test_samples_of_an_image_are_independent() -> None:
    torch.manual_seed(4)
    found = sample_words(MarkovDecoder(torch.zeros(3000, 6, 6)), 3000, 2, 1)
    pairs = Counter((first[0], second[0]) for first, second in found)
    words = (END_ID, 4, 5)
    assert set(pairs) == set(itertools.product(words, words))
    assert all(abs(count - 3000 / 9) < 4.5 * np.sqrt(3000 / 9) for count in pairs.values())


def test_rows_keep_their_history_and_order() -> None:
    table = torch.full((2, 7, 7), -50.0)
    table[0, :, END_ID] = 50.0  # the first image's captions are empty
    table[1, START_ID, 4:7] = 0.0
    table[1, 4, 5], table[1, 5, 6], table[1, 6, END_ID] = 0.0, 0.0, 0.0
    options = DecodingOptions(strategy="sample", num_return_sequences=6, max_length=9)
    draws = torch.full((2, 6, 10), 0.5, dtype=torch.float64)
    draws[:, :, 0] = torch.tensor(
        [0.1, 0.5, 0.9, 0.9, 0.1, 0.5], dtype=torch.float64
    )  # the first word of three equally likely ones
    first, second = sample(MarkovDecoder(table), 2, options, draws)
    assert [one.tokens for one in first] == [()] * 6
    captions = {0.1: (4, 5, 6), 0.5: (5, 6), 0.9: (6,)}
    assert [one.tokens for one in second] == [captions[float(draw)] for draw in draws[1, :, 0]]
    assert all(one.finished for one in [*first, *second])


def test_a_caption_without_an_end_is_truncated() -> None:
    table = torch.full((1, 6, 6), -50.0)
    table[:, :, 4] = 50.0
    assert sample_words(MarkovDecoder(table), 1, 2, 5) == [[(4,) * 5] * 2]


def test_nan_scores_keep_every_row() -> None:
    found = sample_words(MarkovDecoder(torch.full((1, 6, 6), float("nan"))), 1, 3, 4)
    assert found == [[()] * 3]


def test_finished_samples_are_not_computed_further() -> None:
    table = torch.full((1, 6, 6), -50.0)
    table[0, START_ID, [END_ID, 4]] = 0.0
    table[0, 4, 4] = 0.0
    fed: list[int] = []

    class Counted(MarkovDecoder):
        def step(self, tokens: Tensor, state: DecoderState) -> StepOutput:
            fed.append(tokens.numel())
            return super().step(tokens, state)

    options = DecodingOptions(strategy="sample", num_return_sequences=40, max_length=12)
    draws = torch.full((1, 40, 13), 0.1, dtype=torch.float64)
    draws[0, 17, 0] = 0.9  # the only one with a word; the end comes first in the vocabulary
    (found,) = sample(Counted(table), 1, options, draws)
    assert [len(one.tokens) for one in found] == [0] * 17 + [12] + [0] * 22
    assert fed[0] == 40
    assert fed[-1] == 1
    assert sum(fed) < 40 * 5 + 12
