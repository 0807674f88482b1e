"""`sample_captions`: sampling for training by reward, against the enumerated distribution."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor

from seesay.decoding import DecodingOptions, Hypothesis, sample_captions
from seesay.models.protocol import DecoderState, StepOutput
from seesay.tokenizer import END_ID, PAD_ID, START_ID, UNK_ID


def sample(decoder: "Unchecked", images: int, options: DecodingOptions, draws: Tensor) -> list[list[Hypothesis]]:
    return sample_captions(decoder, decoder.init_state(torch.zeros(images, 1, 1), None), options, draws)


class Unchecked:
    """A decoder whose next word depends on the image and the last word alone."""

    def __init__(self, table: Tensor) -> None:
        self.table = table  # (B, V, V) logits

    def init_state(self, memory: Tensor, memory_mask: Tensor | None) -> DecoderState:
        images = torch.arange(len(memory))[:, None]
        return DecoderState({"image": images}, {"nothing": torch.zeros(len(memory), 1, 1)})

    def step(self, tokens: Tensor, state: DecoderState) -> StepOutput:
        logits = self.table[state.per_image["image"], tokens]
        return StepOutput(logits, state, None)


def said(
    decoder: Unchecked, images: int, samples: int, longest: int, allow_unk: bool = False
) -> list[list[tuple[int, ...]]]:
    """Draws captions of at most `longest` words; those that ended with their end token."""
    options = DecodingOptions(strategy="sample", num_return_sequences=samples, max_length=longest, allow_unk=allow_unk)
    draws = torch.rand(images, samples, longest + 1, dtype=torch.float64)
    found = sample(decoder, images, options, draws)
    return [[(*one.tokens, END_ID) if one.finished else one.tokens for one in of_image] for of_image in found]


def probabilities(table: Tensor, longest: int, allow_unk: bool) -> dict[tuple[int, ...], float]:
    """Every caption of at most `longest` words with its probability, by walking the tree."""
    banned = [PAD_ID, START_ID] + ([] if allow_unk else [UNK_ID])
    weights = table.double().exp()
    weights[:, banned] = 0
    chance = weights / weights.sum(1, keepdim=True)
    found: dict[tuple[int, ...], float] = {}
    open_: dict[tuple[int, ...], float] = {(START_ID,): 1.0}
    for length in range(longest + 1):
        found |= {(*row[1:], END_ID): p * float(chance[row[-1], END_ID]) for row, p in open_.items()}
        if length == longest:  # whatever else was drawn, the caption is cut before it
            return found | {row[1:]: p * (1 - float(chance[row[-1], END_ID])) for row, p in open_.items()}
        open_ = {
            (*row, word): p * float(chance[row[-1], word])
            for row, p in open_.items()
            for word in range(len(table))
            if word != END_ID and float(chance[row[-1], word]) > 0
        }
    raise AssertionError


@pytest.mark.parametrize("allow_unk", [False, True])
def test_captions_come_as_often_as_they_are_likely(allow_unk: bool) -> None:
    torch.manual_seed(3)
    table, samples = torch.randn(2, 6, 6), 20_000
    found = said(Unchecked(table), 2, samples, 2, allow_unk)
    for image in range(2):
        counts, wanted = Counter(found[image]), probabilities(table[image], 2, allow_unk)
        assert sum(wanted.values()) == pytest.approx(1)
        assert set(counts) <= {row for row, p in wanted.items() if p > 0}
        for row, p in wanted.items():  # within 4.5 deviations of a binomial count
            assert abs(counts[row] - samples * p) <= 4.5 * np.sqrt(samples * p * (1 - p)) + 1e-9, row


def test_samples_of_a_image_do_not_depend_on_each_other() -> None:
    torch.manual_seed(4)
    found = said(Unchecked(torch.zeros(3000, 6, 6)), 3000, 2, 1)
    pairs = Counter((first[0], second[0]) for first, second in found)
    words = (END_ID, 4, 5)
    assert set(pairs) == set(itertools.product(words, words))
    assert all(abs(count - 3000 / 9) < 4.5 * np.sqrt(3000 / 9) for count in pairs.values())


def test_rows_keep_their_past_and_their_order() -> None:
    table = torch.full((2, 7, 7), -50.0)
    table[0, :, END_ID] = 50.0  # the first image ends at once
    table[1, START_ID, 4:7] = 0.0
    table[1, 4, 5], table[1, 5, 6], table[1, 6, END_ID] = 0.0, 0.0, 0.0
    options = DecodingOptions(strategy="sample", num_return_sequences=6, max_length=9)
    draws = torch.full((2, 6, 10), 0.5, dtype=torch.float64)
    draws[:, :, 0] = torch.tensor(
        [0.1, 0.5, 0.9, 0.9, 0.1, 0.5], dtype=torch.float64
    )  # the first word of three equally likely ones
    first, second = sample(Unchecked(table), 2, options, draws)
    assert [one.tokens for one in first] == [()] * 6
    ways = {0.1: (4, 5, 6), 0.5: (5, 6), 0.9: (6,)}
    assert [one.tokens for one in second] == [ways[float(draw)] for draw in draws[1, :, 0]]
    assert all(one.finished for one in [*first, *second])


def test_caption_that_does_not_end_is_cut() -> None:
    table = torch.full((1, 6, 6), -50.0)
    table[:, :, 4] = 50.0
    assert said(Unchecked(table), 1, 2, 5) == [[(4,) * 5] * 2]


def test_scores_that_are_no_numbers_lose_no_row() -> None:
    found = said(Unchecked(torch.full((1, 6, 6), float("nan"))), 1, 3, 4)
    assert found == [[()] * 3]


def test_draws_that_have_ended_are_computed_no_further() -> None:
    table = torch.full((1, 6, 6), -50.0)
    table[0, START_ID, [END_ID, 4]] = 0.0
    table[0, 4, 4] = 0.0
    fed: list[int] = []

    class Counted(Unchecked):
        def step(self, tokens: Tensor, state: DecoderState) -> StepOutput:
            fed.append(tokens.numel())
            return super().step(tokens, state)

    options = DecodingOptions(strategy="sample", num_return_sequences=40, max_length=12)
    draws = torch.full((1, 40, 13), 0.1, dtype=torch.float64)
    draws[0, 17, 0] = 0.9  # the only one that says a word; the end comes first in the vocabulary
    (found,) = sample(Counted(table), 1, options, draws)
    assert [len(one.tokens) for one in found] == [0] * 17 + [12] + [0] * 22
    assert fed[0] == 40
    assert fed[-1] == 1
    assert sum(fed) < 40 * 5 + 12
