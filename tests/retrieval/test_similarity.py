"""The similarity against the CIDEr of whole training sets and against plain loops over the definition."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from seesay.metrics.cider import Cider
from seesay.metrics.ngrams import EQUAL_WEIGHTS, ReferenceNgrams
from seesay.retrieval.similarity import CaptionSet, expected_similarity
from seesay.retrieval.token_lists import TokenLists

Captions = list[list[int]]


def random_captions(seed: int, count: int, words: int = 12, longest: int = 9) -> Captions:
    random = np.random.default_rng(seed)
    return [random.integers(4, 4 + words, random.integers(0, longest)).tolist() for _ in range(count)]


def grouped(groups: Sequence[Captions], weights: Sequence[Sequence[float]] | None = None) -> CaptionSet:
    image = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    packed = TokenLists.pack([caption for group in groups for caption in group])
    return CaptionSet(packed, image, np.ones(len(image)) if weights is None else np.concatenate(weights))


def plain_similarity(
    candidate: list[int], reference: list[int], idf: dict[tuple[int, ...], float], most: float
) -> float:
    """CIDEr-D of one pair by equations 1 to 3 of the paper."""
    total = 0.0
    for order in range(1, 5):
        vectors = [
            {
                gram: count * idf.get(gram, most)
                for gram, count in Counter(zip(*(c[i:] for i in range(order)), strict=False)).items()
            }
            for c in (candidate, reference)
        ]
        norms = [math.sqrt(sum(value**2 for value in vector.values())) for vector in vectors]
        if min(norms) > 0:
            product = sum(
                min(value, vectors[1].get(gram, 0)) * vectors[1].get(gram, 0) for gram, value in vectors[0].items()
            )
            total += product / (norms[0] * norms[1])
    delta = max(0, len(candidate) - 1) - max(0, len(reference) - 1)
    return 10 / 4 * total * math.exp(-(delta**2) / (2 * 6.0**2))


@pytest.fixture(scope="module")
def training() -> list[Captions]:
    return [random_captions(seed, 1 + seed % 4) for seed in range(30)]


def test_mean_similarity_is_the_cider_against_each_neighbour(training: list[Captions]) -> None:
    cider = Cider(training)
    frequencies = ReferenceNgrams(training).frequencies
    candidates = [random_captions(100 + image, image, words=16) for image in range(7)]  # some words are unknown
    neighbours = [np.random.default_rng(image).permutation(30)[: 1 + image] for image in range(7)]
    references = [[caption for place in places for caption in training[place]] for places in neighbours]
    found = expected_similarity(grouped(candidates), grouped(references), frequencies)
    wanted = []
    for image, captions in enumerate(candidates):
        weights = [len(training[place]) for place in neighbours[image]]
        for caption in captions:
            scores = [cider.score([caption], [int(place)])[0] for place in neighbours[image]]
            wanted.append(np.average(scores, weights=weights))
    assert max(wanted) > 0.3, "similarities of 0 would prove nothing"
    np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("with_frequencies", [True, False])
def test_weighted_similarity_follows_the_definition(training: list[Captions], with_frequencies: bool) -> None:
    frequencies = ReferenceNgrams(training).frequencies if with_frequencies else EQUAL_WEIGHTS
    idf: dict[tuple[int, ...], float] = {}
    most = 1.0
    if with_frequencies:
        documents = Counter(
            gram
            for captions in training
            for gram in {tuple(c[i : i + n]) for c in captions for n in range(1, 5) for i in range(len(c) - n + 1)}
        )
        most = math.log(len(training))
        idf = {gram: most - math.log(count) for gram, count in documents.items()}
    groups = [random_captions(200 + image, 5, words=20) for image in range(4)]
    weights = [np.random.default_rng(image).random(5).tolist() for image in range(4)]
    found = expected_similarity(grouped(groups), grouped(groups, weights), frequencies)
    wanted = [
        sum(w * plain_similarity(c, r, idf, most) for r, w in zip(group, weight, strict=True)) / sum(weight)
        for group, weight in zip(groups, weights, strict=True)
        for c in group
    ]
    np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-12)


def test_a_caption_equals_itself_and_nothing_is_similar_to_nothing() -> None:
    def similarity(candidates: list[Captions], references: list[Captions]) -> list[float]:
        return list(map(float, expected_similarity(grouped(candidates), grouped(references), EQUAL_WEIGHTS)))

    assert similarity([[[4, 5, 6, 7]]], [[[4, 5, 6, 7]]]) == pytest.approx([10.0])
    assert similarity([[[4, 5]], [[]]], [[], [[4]]]) == [0.0, 0.0]
    assert similarity([[[4, 5]], [[]]], [[], []]) == [0.0, 0.0]
    assert similarity([], []) == []


def test_an_image_does_not_depend_on_its_batch(training: list[Captions]) -> None:
    frequencies = ReferenceNgrams(training).frequencies
    candidates = [random_captions(300 + image, 4) for image in range(5)]
    together = expected_similarity(grouped(candidates), grouped(training[:5]), frequencies)
    alone = [
        expected_similarity(grouped([captions]), grouped([references]), frequencies)
        for captions, references in zip(candidates, training[:5], strict=True)
    ]
    np.testing.assert_allclose(together, np.concatenate(alone), rtol=1e-12)


def test_token_lists_survive_packing_and_selection() -> None:
    captions = [[5, 6], [], [7], [8, 9, 4]]
    packed = TokenLists.pack(captions)
    assert packed.unpack() == captions
    assert packed.take(np.array([3, 0, 1, 3])).unpack() == [[8, 9, 4], [5, 6], [], [8, 9, 4]]
    assert TokenLists.pack([]).unpack() == []
