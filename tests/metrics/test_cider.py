import math
from collections import Counter

import numpy as np
import pytest

from seesay.errors import ConfigError, DataError
from seesay.metrics.cider import Cider
from seesay.metrics.ngrams import number_tokens
from seesay.metrics.rouge import common_subsequence
from tests.metrics.reference import random_captions, reference_scores


def _numbered(images: int, seed: int) -> tuple[list[list[int]], list[list[list[int]]]]:
    hypotheses, references = random_captions(images, seed)
    return number_tokens([h.split() for h in hypotheses], [[r.split() for r in image] for image in references])


def _paper_cider(hypothesis: list[int], references: list[list[int]], corpus: list[list[list[int]]]) -> float:
    """Direct implementation of equations 1 to 3 of Vedantam et al. 2015 for one image."""

    def grams(words: list[int], n: int) -> Counter[tuple[int, ...]]:
        return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))

    def vector(words: list[int], n: int) -> dict[tuple[int, ...], float]:
        counts = grams(words, n)
        documents = {g: sum(any(g in grams(r, n) for r in image) for image in corpus) for g in counts}
        return {g: count / counts.total() * math.log(len(corpus) / max(1, documents[g])) for g, count in counts.items()}

    total = 0.0
    for n in range(1, 5):
        own = vector(hypothesis, n)
        for reference in references:
            other = vector(reference, n)
            norms = math.hypot(*own.values()) * math.hypot(*other.values())
            if norms:
                total += sum(value * other.get(g, 0.0) for g, value in own.items()) / norms / len(references)
    return total / 4


def test_plain_cider_equals_the_formula_of_the_paper() -> None:
    hypotheses, references = _numbered(12, seed=1)
    scores = Cider(references, variant="plain").score(hypotheses)
    expected = [_paper_cider(h, r, references) for h, r in zip(hypotheses, references, strict=True)]
    assert max(expected) > 0.1
    np.testing.assert_allclose(scores, expected, atol=1e-12)


def test_several_hypotheses_per_image_are_scored_independently() -> None:
    """As in self-critical training: images in any order and repeated, document frequencies cached."""
    hypotheses, references = random_captions(60, seed=2)
    numbered, numbered_references = number_tokens(
        [h.split() for h in hypotheses], [[r.split() for r in image] for image in references]
    )
    images = np.random.default_rng(0).permutation(np.repeat(np.arange(60), 3))
    scorer = Cider(numbered_references)
    scores = scorer.score([numbered[image] for image in images], images)
    _, per_image = reference_scores(hypotheses, references)
    np.testing.assert_allclose(scores, per_image["CIDEr"][images], atol=1e-9, rtol=0)


def test_words_that_no_reference_has_reduce_the_score() -> None:
    references = [[[1, 2, 3, 4]], [[5, 6, 7]], [[8, 9]]]
    known, unknown, longer = Cider(references).score([[1, 2, 3, 4], [1, 2, 3, 99], [1, 2, 3, 4, 99, 99]], [0, 0, 0])
    assert known == pytest.approx(10)
    assert 0 < unknown < known
    assert 0 < longer < known
    # The reference implementation on the same captions.
    _, per_image = reference_scores(["1 2 3 4 99 99", "", ""], [["1 2 3 4"], ["5 6 7"], ["8 9"]])
    assert longer == pytest.approx(per_image["CIDEr"][0], abs=1e-9)


def test_a_single_image_scores_0() -> None:
    assert Cider([[[1, 2]]]).score([[1, 2]]) == pytest.approx([0])


def test_empty_references_and_hypotheses_score_0() -> None:
    assert Cider([[[]], [[]]]).score([[], [3]]).tolist() == [0.0, 0.0]
    assert Cider([[[1]], [[2, 3]]]).score([], []).tolist() == []


@pytest.mark.parametrize("seed", range(5))
def test_common_subsequence_equals_dynamic_programming(seed: int) -> None:
    draw = np.random.default_rng(seed)
    first, second = draw.integers(0, 4, draw.integers(0, 90)).tolist(), draw.integers(0, 4, 70).tolist()
    table = np.zeros((len(first) + 1, len(second) + 1), int)
    for i, one in enumerate(first):
        for j, other in enumerate(second):
            table[i + 1, j + 1] = table[i, j] + 1 if one == other else max(table[i, j + 1], table[i + 1, j])
    assert common_subsequence(first, second) == table[-1, -1]


def test_invalid_arguments_are_refused() -> None:
    """Bug: an image without references gave NaN, an unknown variant gave plain CIDEr, image -1 was the last image."""
    with pytest.raises(DataError, match="image 1 has no references"):
        Cider([[[1, 2]], []])
    with pytest.raises(ConfigError, match="unknown variant of CIDEr 'X'"):
        Cider([[[1, 2]]], variant="X")  # type: ignore[arg-type]
    scorer = Cider([[[1, 2]], [[3]]])
    for hypotheses, images in (([[1]], None), ([[1]], [-1]), ([[1]], [2]), ([[1], [2]], [0])):
        with pytest.raises(DataError, match="for each"):
            scorer.score(hypotheses, images)
