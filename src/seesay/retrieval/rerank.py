"""Reranking of the best captions of a beam search, by consensus or by minimum Bayes risk."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from seesay.config import DecodingOptions
from seesay.decoding.hypothesis import Hypothesis
from seesay.metrics.ngrams import EQUAL_WEIGHTS
from seesay.retrieval.index import DEFAULT_RERANK, Query, RetrievalIndex, TunedRerank
from seesay.retrieval.similarity import CaptionSet, Floats, expected_similarity
from seesay.retrieval.token_lists import TokenLists


def resolve_rerank(options: DecodingOptions, tuned: Mapping[str, TunedRerank]) -> DecodingOptions:
    """Return the options with all values of the reranking set.

    Args:
        options: decoding options.
        tuned: settings of the run by kind of reranking.
    """
    if options.rerank == "none":
        return options
    chosen = tuned.get(options.rerank, DEFAULT_RERANK)
    values: dict[str, float] = {
        "rerank_candidates": options.rerank_candidates or chosen.candidates,
        "rerank_weight": options.rerank_weight or chosen.weight,
    }
    if options.rerank == "consensus":
        values["rerank_neighbours"] = options.rerank_neighbours or chosen.neighbours
    return options.replace(**values)


def search_options(options: DecodingOptions) -> DecodingOptions:
    """Return the options of the search that finds the captions to choose from, whose beam holds that many."""
    if options.rerank == "none":
        return options
    candidates = max(options.rerank_candidates or DEFAULT_RERANK.candidates, options.num_return_sequences)
    groups = options.num_beam_groups
    beam = -(-max(options.beam_size, candidates) // groups) * groups
    return options.replace(num_return_sequences=candidates, beam_size=beam)


def rerank(
    found: Sequence[Sequence[Hypothesis]],
    options: DecodingOptions,
    index: RetrievalIndex | None = None,
    query: Query | None = None,
) -> list[list[Hypothesis]]:
    """Return the hypotheses of each image, best first by the weighted sum of score and expected similarity.

    The sum is (1 - weight) * score + weight * similarity, where the similarity is CIDEr-D (0 to 10): with `consensus`
    the mean to the captions of the most similar training images (Devlin et al. 2015, section 3), with `mbr` the mean to
    the image's hypotheses, weighted by their probabilities (Kumar and Byrne 2004, equation 2). An image that is unlike
    the training images keeps the order of the model.

    Args:
        found: hypotheses of B images, best first.
        options: with all values of the reranking set.
        index: of the training images; its document frequencies are used by `mbr` too, if there is one.
        query: the images; required by `consensus`.
    """
    frequencies = EQUAL_WEIGHTS if index is None else index.frequencies
    candidates = candidate_set(found)
    if options.rerank == "consensus":
        assert index is not None
        assert query is not None
        references, is_like = retrieve(index, query, options.rerank_neighbours, options.rerank_similarity)
    else:
        references, is_like = weighted_by_probability(candidates, found), np.ones(len(found), bool)
    similarity = expected_similarity(candidates, references, frequencies)
    expected = np.split(similarity, np.cumsum([len(each) for each in found])[:-1])
    return [
        _reordered(hypotheses, gains, options.rerank_weight) if like else list(hypotheses)
        for hypotheses, gains, like in zip(found, expected, is_like, strict=True)
    ]


def candidate_set(found: Sequence[Sequence[Hypothesis]]) -> CaptionSet:
    """Return the hypotheses of B images as captions."""
    packed = TokenLists.pack([hypothesis.tokens for hypotheses in found for hypothesis in hypotheses])
    return CaptionSet.equal(packed, np.repeat(np.arange(len(found)), [len(each) for each in found]))


def weighted_by_probability(candidates: CaptionSet, found: Sequence[Sequence[Hypothesis]]) -> CaptionSet:
    """Return captions with the probabilities of hypotheses, normalised over each image's, as weights."""
    weights = []
    for hypotheses in found:
        sums = np.array([sum(hypothesis.log_probs) for hypothesis in hypotheses])
        probabilities = np.exp(sums - sums.max())
        weights.append(probabilities / probabilities.sum())
    return CaptionSet(candidates.captions, candidates.image, np.concatenate(weights))


def retrieve(
    index: RetrievalIndex, query: Query, neighbours: int, min_similarity: float = 0.0
) -> tuple[CaptionSet, NDArray[np.bool_]]:
    """Return the captions of the nearest training images of each query, and whether it is like these images, (B,).

    Args:
        index: the training images.
        query: B images.
        neighbours: number of images per query.
        min_similarity: `nearness` from which a query is like them; 0: as calibrated.
    """
    found, is_like = index.nearest(query, neighbours, min_similarity)
    return index.captions_of(found), is_like


def combine(scores: Floats, expected: Floats, weight: float) -> Floats:
    """Return what captions are ranked by: (1 - weight) * score + weight * expected similarity, each (n,)."""
    return (1 - weight) * scores + weight * expected


def _reordered(hypotheses: Sequence[Hypothesis], expected: Floats, weight: float) -> list[Hypothesis]:
    scores = np.array([hypothesis.score for hypothesis in hypotheses])
    if not np.isfinite(scores).all():
        return list(hypotheses)
    order = np.argsort(-combine(scores, expected, weight), kind="stable")
    return [hypotheses[place] for place in order]
