"""The search over NumPy arrays against the search over torch tensors, and the operations of both libraries."""

from typing import Any

import numpy as np
import pytest
import torch

from seesay.decoding import DecodingOptions, Hypothesis, TokenConstraints
from seesay.decoding.arrays import logsumexp, stable_topk, to_host
from seesay.decoding.sampling import sample
from tests.decoding import oracles
from tests.decoding.oracles import TableDecoder, decode, numbered

IMAGES = 12


def search(
    decoder: Any, memory: torch.Tensor, options: DecodingOptions, constraints: TokenConstraints, attention: bool = True
) -> list[list[Hypothesis]]:
    """Run the search over NumPy arrays."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(oracles, "LIBRARY", "numpy")
        return decode(decoder, memory, None, options, constraints=constraints, keep_attention=attention)


def assert_same(found: list[list[Hypothesis]], wanted: list[list[Hypothesis]]) -> None:
    assert [[each.tokens for each in one] for one in found] == [[each.tokens for each in one] for one in wanted]
    for one, other in zip(found, wanted, strict=True):
        for left, right in zip(one, other, strict=True):
            assert left.finished == right.finished
            np.testing.assert_allclose(left.score, right.score, rtol=1e-9)
            np.testing.assert_allclose(left.log_probs, right.log_probs, rtol=1e-9)
            assert (left.attention is None) == (right.attention is None)
            if left.attention is not None and right.attention is not None:
                assert left.attention.dtype == np.float32
                np.testing.assert_allclose(left.attention, right.attention, rtol=1e-6)


OPTIONS = {
    "greedy": DecodingOptions(strategy="greedy", max_length=9),
    "greedy, cut": DecodingOptions(strategy="greedy", max_length=2),
    "greedy, several": DecodingOptions(strategy="greedy", max_length=9, num_return_sequences=4),
    "greedy, all constraints": DecodingOptions(
        strategy="greedy",
        max_length=9,
        min_length=4,
        no_repeat_ngram_size=2,
        repetition_penalty=1.5,
        num_return_sequences=2,
    ),
    "beam of 1": DecodingOptions(strategy="beam", beam_size=1, max_length=9),
    "beam": DecodingOptions(strategy="beam", beam_size=3, max_length=9),
    "wide beam": DecodingOptions(strategy="beam", beam_size=7, max_length=6),
    "beam, several": DecodingOptions(strategy="beam", beam_size=5, max_length=9, num_return_sequences=4),
    "sum of scores": DecodingOptions(strategy="beam", beam_size=4, max_length=9, length_penalty=0.0),
    "long": DecodingOptions(strategy="beam", beam_size=4, max_length=9, length_penalty=2.0, min_length=5),
    "no repeats": DecodingOptions(
        strategy="beam", beam_size=4, max_length=9, no_repeat_ngram_size=1, num_return_sequences=3
    ),
    "no repeated bigrams": DecodingOptions(
        strategy="beam", beam_size=4, max_length=9, no_repeat_ngram_size=2, min_length=6
    ),
    "repetition penalty": DecodingOptions(
        strategy="beam", beam_size=4, max_length=9, repetition_penalty=1.7, allow_unk=True
    ),
    "groups": DecodingOptions(
        strategy="beam", beam_size=4, max_length=9, num_return_sequences=2, num_beam_groups=2, diversity_penalty=1.0
    ),
    "sample": DecodingOptions(strategy="sample", max_length=9),
    "sample, several": DecodingOptions(strategy="sample", max_length=9, num_return_sequences=3, temperature=1.5),
    "sample, truncated": DecodingOptions(strategy="sample", max_length=9, top_k=4, top_p=0.9, min_p=0.05),
}


@pytest.mark.parametrize("end", [-1.5, 1.0])
@pytest.mark.parametrize("name", OPTIONS)
def test_numpy_search_equals_torch_search(name: str, end: float) -> None:
    options, memory = OPTIONS[name], numbered(range(IMAGES))
    for seed, words in enumerate((2, 5, 30)):
        decoder = TableDecoder(seed, words, end=end)
        wanted = decode(decoder, memory, None, options, keep_attention=True)
        assert_same(search(decoder, memory, options, TokenConstraints()), wanted)
        assert len({found[0].tokens for found in wanted}) > 1


@pytest.mark.parametrize("strategy", ["greedy", "beam"])
def test_banned_words_and_phrases_are_never_generated(strategy: Any) -> None:
    options = DecodingOptions(strategy="beam", beam_size=4, max_length=8, num_return_sequences=2).with_strategy(
        strategy
    )
    constraints = TokenConstraints(banned=((5,), (6, 7), (7, 6, 8), (4, 4, 4)))
    decoder, memory = TableDecoder(0, 6, end=-1.0), numbered(range(IMAGES))
    wanted = decode(decoder, memory, None, options, constraints=constraints)
    assert_same(search(decoder, memory, options, constraints, attention=False), wanted)
    assert any(5 in found[0].tokens for found in decode(decoder, memory, None, options))


@pytest.mark.parametrize("strategy", ["greedy", "beam"])
def test_unsatisfiable_constraints_are_reported_as_failed(strategy: Any, caplog: pytest.LogCaptureFixture) -> None:
    options = DecodingOptions(
        strategy="beam", beam_size=2, max_length=8, min_length=6, no_repeat_ngram_size=1
    ).with_strategy(strategy)
    decoder, memory = TableDecoder(0, words=3), numbered(range(4))  # three words, none of which may repeat
    wanted = decode(decoder, memory, None, options)
    caplog.clear()
    found = search(decoder, memory, options, TokenConstraints(), attention=False)
    assert_same(found, wanted)
    assert not any(one[0].finished for one in found)
    assert "violate the constraints" in caplog.text


def test_ties_select_the_first_word_and_the_first_hypothesis() -> None:
    class Uniform(TableDecoder):
        """All words and the end token are equally probable."""

        def __init__(self) -> None:
            super().__init__(0, words=4, end=0.0, scale=0.0)

    for options in OPTIONS.values():
        wanted = decode(Uniform(), numbered(range(2)), None, options)
        assert_same(search(Uniform(), numbered(range(2)), options, TokenConstraints(), attention=False), wanted)


@pytest.mark.parametrize("strategy", ["greedy", "beam"])
def test_nan_scores_still_give_a_caption(strategy: Any, caplog: pytest.LogCaptureFixture) -> None:
    options = DecodingOptions(strategy="beam", beam_size=3, max_length=5).with_strategy(strategy)
    decoder, memory = TableDecoder(0), numbered(range(3))
    decoder.table[:] = float("nan")
    found = search(decoder, memory, options, TokenConstraints(), attention=False)
    assert [len(one) for one in found] == [1, 1, 1]
    assert "not finite" in caplog.text


def test_captions_do_not_depend_on_the_batch() -> None:
    decoder, options = TableDecoder(3, 8, end=-0.5), OPTIONS["beam, several"].replace(max_length=12)
    together = search(decoder, numbered(range(IMAGES)), options, TokenConstraints())
    for image in range(IMAGES):
        assert_same(search(decoder, numbered([image]), options, TokenConstraints()), together[image : image + 1])
    assert len(set(decoder.rows_seen)) > 3  # finished images and hypotheses are removed


@pytest.mark.parametrize("library", [np.asarray, torch.from_numpy])
def test_topk_equals_a_stable_sort(library: Any) -> None:
    random = np.random.default_rng(0)
    for size, count in ((1, 1), (5, 2), (5, 9), (40, 7)):
        values = random.integers(0, 4, (3, 6, size)).astype(np.float32)
        values[random.random(values.shape) < 0.2] = -np.inf
        found, indices = map(to_host, stable_topk(library(values), count))
        wanted = np.argsort(-values, axis=-1, kind="stable")[..., :count]
        np.testing.assert_array_equal(indices, wanted)
        np.testing.assert_array_equal(found, np.take_along_axis(values, wanted, -1))


def test_operations_of_both_libraries_agree() -> None:
    scores = np.random.default_rng(1).normal(size=(4, 3, 50)).astype(np.float32)
    scores[..., 7] = -np.inf
    np.testing.assert_allclose(logsumexp(scores), logsumexp(torch.from_numpy(scores)), rtol=1e-6)
    draws = np.random.default_rng(2).random((4, 3))
    for options in (
        DecodingOptions(strategy="sample"),
        DecodingOptions(strategy="sample", top_k=5, top_p=0.8, min_p=0.1),
    ):
        found = sample(scores, draws, options)
        np.testing.assert_array_equal(found, sample(torch.from_numpy(scores), torch.from_numpy(draws), options))
