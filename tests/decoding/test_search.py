"""The search against exhaustive search and a reference beam search, with hand-made decoders."""

import math
from typing import Literal

import numpy as np
import pytest
import torch

from seesay.decoding import DEFAULT_MAX_LENGTH, DecodingOptions
from seesay.decoding.arrays import stable_topk
from seesay.tokenizer import END_ID, UNK_ID
from tests.decoding import oracles
from tests.decoding.oracles import (
    ConstantDecoder,
    TableDecoder,
    check_same,
    decode,
    every_caption,
    numbered,
    reference_beam,
    same,
)

STRATEGIES: tuple[Literal["greedy", "sample", "beam"], ...] = ("greedy", "sample", "beam")


@pytest.mark.parametrize("penalty", [0.0, 0.7, 1.0, 2.0])
@pytest.mark.parametrize(("words", "length"), [(5, 1), (5, 2), (5, 3), (3, 4), (2, 4)])
def test_a_beam_that_holds_every_prefix_equals_exhaustive_search(words: int, length: int, penalty: float) -> None:
    total = sum(words**t for t in range(length + 1))
    options = DecodingOptions(
        strategy="beam", beam_size=total, max_length=length, length_penalty=penalty, num_return_sequences=total
    )
    for seed in range(3):
        decoder = TableDecoder(seed, words)
        (found,) = decode(decoder, numbered([seed]), None, options)
        expected = every_caption(decoder, seed, options)
        assert len(found) == len(expected) == total
        for hypothesis, reference in zip(found, expected, strict=True):
            check_same(decoder, seed, hypothesis, reference, options)


def test_five_words_and_four_steps_are_searched_exhaustively() -> None:
    options = DecodingOptions(strategy="beam", beam_size=781, max_length=4, num_return_sequences=781)
    decoder = TableDecoder(11, words=5)
    (found,) = decode(decoder, numbered([3]), None, options)
    for hypothesis, reference in zip(found, every_caption(decoder, 3, options), strict=True):
        check_same(decoder, 3, hypothesis, reference, options)


def test_exhaustive_search_over_captions_with_unk() -> None:
    options = DecodingOptions(strategy="beam", beam_size=85, max_length=3, allow_unk=True, num_return_sequences=85)
    decoder = TableDecoder(0, words=3)
    (found,) = decode(decoder, numbered([0]), None, options)
    for hypothesis, reference in zip(found, every_caption(decoder, 0, options), strict=True):
        check_same(decoder, 0, hypothesis, reference, options)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("groups", [1, 2, 3])
@pytest.mark.parametrize("beam", [1, 2, 3, 6])
@pytest.mark.parametrize("penalty", [0.0, 0.7, 1.5])
def test_beam_search_equals_the_reference(beam: int, penalty: float, groups: int) -> None:
    # Images of a batch finish at different steps, so that they are removed, and some stop early.
    if beam % groups:
        return
    fewer = stopped = 0
    for seed in range(40):
        random = np.random.default_rng([seed, beam])
        length = int(random.integers(1, 14))
        options = DecodingOptions(
            strategy="beam",
            beam_size=beam,
            max_length=length,
            length_penalty=penalty,
            allow_unk=bool(seed % 2),
            num_beam_groups=groups,
            diversity_penalty=(0.5, float(random.uniform(0, 2)))[groups > 1],
            num_return_sequences=1 if groups > 1 else int(random.integers(1, beam + 1)),
            min_length=int(random.integers(0, length + 1)) if seed % 3 == 0 else 0,
            no_repeat_ngram_size=3 if seed % 4 == 1 else 0,
            repetition_penalty=1.3 if seed % 5 == 2 else 1.0,
        )
        decoder = TableDecoder(seed, int(random.integers(3, 7)), end=float(random.uniform(-3, 2)))
        images = random.integers(0, 1000, int(random.integers(1, 9))).tolist()
        results = decode(decoder, numbered(images), None, options)
        fewer += max(decoder.rows_seen) > decoder.rows_seen[-1]
        stopped += len(decoder.rows_seen) <= length
        for image, found in zip(images, results, strict=True):
            expected = reference_beam(decoder, image, options)
            if len(expected) < options.num_return_sequences:  # the search is repeated with a wider beam
                continue
            assert len(found) == options.num_return_sequences
            for hypothesis, reference in zip(found, expected, strict=False):
                check_same(decoder, image, hypothesis, reference, options)
    assert fewer > 1
    assert fewer + stopped > 3


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_a_beam_of_one_is_greedy(penalty: float) -> None:
    for seed in range(20):
        decoder = TableDecoder(seed, end=-1.0)
        images = numbered(range(5))
        greedy = decode(decoder, images, None, DecodingOptions(strategy="greedy", max_length=9), keep_attention=True)
        beam = decode(
            decoder,
            images,
            None,
            DecodingOptions(strategy="beam", beam_size=1, max_length=9, length_penalty=penalty),
            keep_attention=True,
        )
        for image, (one, other) in enumerate(zip(greedy, beam, strict=True)):
            assert same(one, other)
            check_same(
                decoder,
                image,
                one[0],
                reference_beam(
                    decoder, image, DecodingOptions(strategy="beam", beam_size=1, max_length=9, length_penalty=0.0)
                )[0],
                DecodingOptions(strategy="beam", beam_size=1, max_length=9, length_penalty=0.0),
            )
            # Bug: the score of a beam of one was not divided by the length, unlike that of wider beams.
            assert other[0].score == pytest.approx(sum(other[0].log_probs) / len(other[0].log_probs) ** penalty)


def test_captions_with_equal_scores_keep_their_order() -> None:
    # Bug: captions with equal scores had an arbitrary order.
    decoder = TableDecoder(0, words=4, scale=0.0)
    for found in decode(decoder, numbered(range(3)), None, DecodingOptions(num_return_sequences=4, max_length=3)):
        assert [each.tokens for each in found] == [(), (4,), (5,), (6,)]


@pytest.mark.usefixtures("library")
def test_every_strategy_selects_the_first_of_equal_words() -> None:
    # Bug: greedy decoding selected the first, topk any: a beam of one returned another caption, and with
    # num_return_sequences above 1 the greedy caption was not the first.
    for logits in ([0.0] * 12, [0.0, 0.0, -1.0, 0.0, *[0.0] * 8], [0.0, 0.0, -1.0, 0.0, 0.0, *[1.0] * 7]):
        decoder = ConstantDecoder(logits)
        ((greedy,),) = decode(decoder, numbered([0]), None, DecodingOptions(max_length=5))
        first = min(range(2, 12), key=lambda word: (-logits[word] if word != UNK_ID else 9.0, word))
        assert greedy.tokens == (() if first == END_ID else (first,) * 5)
        for options in (
            DecodingOptions(max_length=5, num_return_sequences=2),
            DecodingOptions(max_length=5, num_return_sequences=9),
            DecodingOptions(strategy="beam", beam_size=1, max_length=5),
            DecodingOptions(strategy="sample", max_length=5, top_k=1),
            DecodingOptions(strategy="beam", beam_size=2, max_length=5, num_beam_groups=2, diversity_penalty=0.0),
        ):
            ((found, *_),) = decode(decoder, numbered([0]), None, options)
            assert found.tokens == greedy.tokens, options


@pytest.mark.usefixtures("library")
def test_topk_equals_a_stable_sort() -> None:
    random = torch.Generator().manual_seed(0)
    for size in (1, 2, 7, 300):
        for count in (1, 2, 5, 299, 400):
            values = torch.randint(0, 6, (20, size), generator=random).double()
            values[values == 0] = float("-inf")
            found, indices = stable_topk(values, count)
            ordered = sorted_first(values, count)
            assert torch.equal(found, values.gather(1, ordered))
            real = torch.isfinite(found)  # -inf marks no hypothesis: any index will do
            assert torch.equal(indices[real], ordered[real])
            assert all(len(set(row)) == len(row) for row in indices.tolist())


def sorted_first(values: torch.Tensor, count: int) -> torch.Tensor:
    rows = [sorted(range(len(row)), key=lambda place: (-row[place], place))[:count] for row in values.tolist()]
    return torch.tensor(rows)


@pytest.mark.usefixtures("library")
def test_a_group_that_cannot_win_still_penalises_later_groups() -> None:
    # Bug: its hypotheses were pruned once they could not win, so that later groups were not penalised.
    decoder = TableDecoder(215458, 3, end=0.14101752809198853, scale=2)
    options = DecodingOptions(
        strategy="beam", beam_size=6, max_length=7, length_penalty=0.0, num_beam_groups=2, diversity_penalty=6.0
    )
    ((best,),) = decode(decoder, numbered([383]), None, options)
    assert best.score == pytest.approx(-2.2157, abs=5e-5)
    check_same(decoder, 383, best, reference_beam(decoder, 383, options)[0], options)


def test_a_beam_finds_a_better_caption_than_greedy() -> None:
    decoder = TableDecoder(0, words=2)
    decoder.table[:] = 0.0
    a, b = UNK_ID + 1, UNK_ID + 2
    decoder.table[decoder.place(0, ())] = torch.tensor([0, 0, -9.0, 0, 0.1, 0.0])  # a is slightly more probable
    decoder.table[decoder.place(0, (b,))] = torch.tensor([0, 0, 9.0, 0, 0.0, 0.0])  # but only b almost surely ends
    greedy = decode(decoder, numbered([0]), None, DecodingOptions(max_length=3))[0][0]
    beam = decode(decoder, numbered([0]), None, DecodingOptions(strategy="beam", beam_size=2, max_length=3))[0][0]
    assert greedy.tokens[0] == a
    assert beam.tokens == (b,)
    assert beam.score > greedy.score


def test_a_poor_finished_caption_does_not_beat_a_better_truncated_one() -> None:
    # Bug: any finished caption, however improbable, ranked above all that were open at the maximum length.
    decoder = TableDecoder(0, words=2)
    a, b = UNK_ID + 1, UNK_ID + 2
    decoder.table[:] = torch.tensor([0, 0, -12.0, 0, -12.0, -12.0])
    decoder.table[decoder.place(0, ())] = torch.tensor([0, 0, -8.0, 0, 8.0, -20.0])
    decoder.table[decoder.place(0, (a,))] = torch.tensor([0, 0, -20.0, 0, -20.0, 8.0])
    decoder.table[decoder.place(0, (a, b))] = torch.tensor([0, 0, 8.0, 0, -8.0, 8.0])
    (best,) = decode(decoder, numbered([0]), None, DecodingOptions(strategy="beam", beam_size=2, max_length=2))[0]
    assert best.tokens == (a, b)
    assert len(best.log_probs) == 3


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_caption_of_the_maximum_length_may_be_finished(strategy: Literal["greedy", "sample", "beam"]) -> None:
    # Bug: the end token counted as a word, so that every such caption was marked as truncated.
    decoder = TableDecoder(0, words=2)
    a = UNK_ID + 1
    decoder.table[:] = torch.tensor([0, 0, -50.0, 0, 50.0, -50.0])
    decoder.table[decoder.place(0, (a, a))] = torch.tensor([0, 0, 50.0, 0, -50.0, -50.0])
    for length, finished in ((1, False), (2, True), (3, True)):
        ((found,),) = decode(
            decoder,
            numbered([0]),
            None,
            DecodingOptions(strategy="beam", beam_size=1, max_length=length).with_strategy(strategy),
        )
        assert (found.tokens, found.finished) == ((a,) * min(length, 2), finished)


# Allowed tokens and lengths.


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_padding_and_start_are_never_generated_and_unk_only_if_allowed(
    strategy: Literal["greedy", "sample", "beam"],
) -> None:
    decoder = ConstantDecoder([90.0, 80.0, 2.0, 2.5, 1.0, 1.5])
    for allow in (True, False):
        options = DecodingOptions(
            strategy="beam", beam_size=4, max_length=6, allow_unk=allow, num_return_sequences=2
        ).with_strategy(strategy)
        results = decode(decoder, numbered(range(40)), None, options)
        generated = {word for found in results for h in found for word in h.tokens}
        assert generated <= {UNK_ID, 4, 5}
        assert (UNK_ID in generated) is allow
        assert all(math.isfinite(h.score) for found in results for h in found)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("length", [0, 1, 3, 4, 5, 8])
def test_captions_stop_at_the_maximum_length(strategy: Literal["greedy", "sample", "beam"], length: int) -> None:
    decoder = TableDecoder(0, end=-50.0)
    options = DecodingOptions(strategy="beam", beam_size=3, max_length=length).with_strategy(strategy)
    for image, found in enumerate(decode(decoder, numbered(range(4)), None, options)):
        (hypothesis,) = found
        assert len(hypothesis.tokens) == len(hypothesis.log_probs) - 1 == (length or DEFAULT_MAX_LENGTH)
        assert not hypothesis.finished
        if strategy == "beam" and length:
            check_same(decoder, image, hypothesis, reference_beam(decoder, image, options)[0], options)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_caption_may_be_empty(strategy: Literal["greedy", "sample", "beam"]) -> None:
    decoder = ConstantDecoder([0.0, 0.0, 50.0, 0.0, 0.0, 0.0])
    for found, *_ in decode(
        decoder,
        numbered([0, 1]),
        None,
        DecodingOptions(strategy="beam", beam_size=2, max_length=5).with_strategy(strategy),
    ):
        assert found.tokens == ()
        assert found.finished
        assert len(found.log_probs) == 1


def test_a_search_stops_when_the_best_is_finished() -> None:
    decoder = TableDecoder(0, end=-50.0)
    decoder.table[decoder.place(0, ()), END_ID] = 20.0
    ((best, *_),) = decode(decoder, numbered([0]), None, DecodingOptions(strategy="beam", beam_size=4, max_length=40))
    assert (best.tokens, best.finished) == ((), True)
    assert decoder.rows_seen == [1]


def test_finished_images_are_removed_from_the_batch() -> None:
    for options in (
        DecodingOptions(strategy="greedy", max_length=40),
        DecodingOptions(strategy="beam", beam_size=2, max_length=40),
    ):
        decoder = TableDecoder(0)
        decode(decoder, numbered(range(50)), None, options)
        assert min(decoder.rows_seen) < 25
        assert sum(decoder.rows_seen) < 50 * 12


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_scores_are_summed_in_float32(strategy: Literal["greedy", "sample", "beam"], dtype: torch.dtype) -> None:
    if oracles.LIBRARY == "numpy" and dtype == torch.bfloat16:
        pytest.skip("NumPy has no bfloat16")
    decoder = ConstantDecoder([0.0, 0.0, 1.0, 0.0, 1.0, 2.0], dtype)
    memory = numbered([0]).to(dtype)
    (found, *_) = decode(
        decoder, memory, None, DecodingOptions(strategy="beam", beam_size=3, max_length=20).with_strategy(strategy)
    )[0]
    exact = {END_ID: 1.0, 4: 1.0, 5: 2.0}
    total = math.log(sum(math.exp(x) for x in exact.values()))
    words = [*found.tokens, END_ID][: len(found.log_probs)]
    assert found.log_probs == pytest.approx([exact[word] - total for word in words], rel=1e-6)
