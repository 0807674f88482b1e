"""CIDEr-D similarity of captions as token ids, of all candidates of a batch to the captions they are compared with."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seesay.metrics.ngrams import MAX_ORDER, DocumentFrequencies, count_ngrams, extend_ngrams, known_ids
from seesay.retrieval.token_lists import Ints, TokenLists

Floats = NDArray[np.float64]

_NO_FREQUENCIES = DocumentFrequencies(1, 1, (np.zeros(0, np.int64),) * MAX_ORDER, (np.zeros(0, np.int64),) * MAX_ORDER)


@dataclass(frozen=True)
class CaptionSet:
    """Captions of B images.

    Attributes:
        captions: the captions, sorted by image.
        image: image of each, 0 to B - 1, (C,).
        weight: weight of each in the mean over an image's captions, (C,).
    """

    captions: TokenLists
    image: Ints
    weight: Floats

    @classmethod
    def equal(cls, captions: TokenLists, image: Ints) -> "CaptionSet":
        """Return captions of equal weights."""
        return cls(captions, image, np.ones(len(image)))


@dataclass(frozen=True)
class _Rows:
    """The distinct n-grams of one order of some captions, sorted by caption.

    Attributes:
        caption: caption of each, (M,).
        gram: the n-gram, an id of this batch, (M,).
        weight: its TF-IDF weight, (M,).
        norm: norm of the weights of each caption, (C,).
    """

    caption: Ints
    gram: Ints
    weight: Floats
    norm: Floats

    def split(self, captions: int) -> "tuple[_Rows, _Rows]":
        """Return the rows of the first captions and those of the others, which are numbered from 0."""
        at = int(np.searchsorted(self.caption, captions))
        return (
            _Rows(self.caption[:at], self.gram[:at], self.weight[:at], self.norm[:captions]),
            _Rows(self.caption[at:] - captions, self.gram[at:], self.weight[at:], self.norm[captions:]),
        )


class CaptionSimilarity:
    """CIDEr-D between captions (Vedantam et al. 2015, section 5), 0 to 10, with the document frequencies of a corpus.

    Args:
        frequencies: of the n-grams of the training captions; None: all n-grams have the same weight.
        sigma: standard deviation of the length penalty in words.
    """

    def __init__(self, frequencies: DocumentFrequencies | None = None, sigma: float = 6.0) -> None:
        self.frequencies = frequencies or _NO_FREQUENCIES
        self.sigma = sigma
        orders = range(1, MAX_ORDER + 1)
        self._idf = [self.frequencies.inverse(order) if frequencies else np.ones(1) for order in orders]

    def expected(self, candidates: CaptionSet, references: CaptionSet) -> Floats:
        """Return the weighted mean similarity of each candidate to the references of its image, (H,).

        A reference's weights are those of its own n-grams: similarity(candidate, reference) is CIDEr-D with the
        candidate as hypothesis. 0 for a candidate whose image has no references.

        Args:
            candidates: H captions of B images; their weights are not used.
            references: captions of the same B images.
        """
        images = 1 + int(max(candidates.image.max(initial=-1), references.image.max(initial=-1)))
        count = np.bincount(candidates.image, minlength=images)
        rank = np.arange(len(candidates.image)) - (np.cumsum(count) - count)[candidates.image]
        place = (candidates.image, rank)  # of a candidate in arrays (B, n)
        shape = (images, int(count.max(initial=0)))
        weight = self._pair_weights(candidates, references, place, shape)
        total = np.zeros(shape)
        for rows in self._rows(candidates.captions.join(references.captions)):
            own, others = rows.split(len(candidates.image))
            total[place] += _products(own, others, candidates, references, rank, weight)[place] / _positive(own.norm)
        summed: Floats = np.bincount(references.image, weights=references.weight, minlength=images).astype(np.float64)
        return np.asarray(10 / MAX_ORDER * total[place] / _positive(summed)[candidates.image])

    def _pair_weights(
        self, candidates: CaptionSet, references: CaptionSet, place: tuple[Ints, Ints], shape: tuple[int, int]
    ) -> Floats:
        """Return the weight of each reference times its length penalty for each candidate of its image, (R, n)."""
        # The reference implementation measures length in bigrams: one word has length 0.
        lengths = np.zeros(shape)
        lengths[place] = np.maximum(0, candidates.captions.lengths - 1)
        delta = lengths[references.image] - np.maximum(0, references.captions.lengths - 1)[:, None]
        return np.asarray(references.weight[:, None] * np.exp(-(delta**2) / (2 * self.sigma**2)))

    def _rows(self, captions: TokenLists) -> "list[_Rows]":
        """Return the n-grams of captions with their weights, one item per order."""
        tokens, count = captions.tokens, len(captions.lengths)
        sentence = np.repeat(np.arange(count), captions.lengths)
        base = max(self.frequencies.vocabulary, int(tokens.max(initial=0)) + 1)
        gram = np.zeros(len(tokens), np.int64)
        prefix_ids: Ints = np.zeros(1, np.int64)
        found = []
        for order in range(1, MAX_ORDER + 1):
            codes, gram = extend_ngrams(gram, tokens, sentence, order, base)
            known = self.frequencies.codes[order - 1]
            prefix_ids = known_ids(codes, base, prefix_ids, known, self.frequencies.vocabulary)
            caption, own, number = count_ngrams(gram, sentence[: len(gram)], len(codes))
            weight = number * self._idf[order - 1][prefix_ids[own]]
            norm = np.sqrt(np.bincount(caption, weights=weight**2, minlength=count))
            found.append(_Rows(caption, own, weight, norm))
        return found


def _products(
    own: _Rows, others: _Rows, candidates: CaptionSet, references: CaptionSet, rank: Ints, weight: Floats
) -> Floats:
    """Return the weighted sums over references of clipped products of weights over the references' norms, (B, n).

    Args:
        own: n-grams of the candidates.
        others: n-grams of the references.
        candidates: the candidates.
        references: the references.
        rank: number of each candidate within its image, (H,).
        weight: weight of each pair, (R, n).
    """
    width = 1 + int(max(own.gram.max(initial=-1), others.gram.max(initial=-1)))
    images = 1 + int(max(candidates.image.max(initial=-1), references.image.max(initial=-1)))
    # A slot is an n-gram of an image's candidates; it has one weight per candidate.
    slots, slot = np.unique(candidates.image[own.caption] * width + own.gram, return_inverse=True)
    weights = np.zeros((len(slots), weight.shape[1]))
    weights[slot, rank[own.caption]] = own.weight
    keys = references.image[others.caption] * width + others.gram
    found = np.minimum(np.searchsorted(slots, keys), max(0, len(slots) - 1))
    matched = np.flatnonzero(slots[found] == keys) if len(slots) else np.zeros(0, np.int64)
    caption, reference_weight = others.caption[matched], others.weight[matched]
    clipped = np.minimum(weights[found[matched]], reference_weight[:, None])
    clipped *= (reference_weight / _positive(others.norm)[caption])[:, None]
    clipped *= weight[caption]
    column = references.image[caption][:, None] * weight.shape[1] + np.arange(weight.shape[1])
    total = np.bincount(column.ravel(), weights=clipped.ravel(), minlength=images * weight.shape[1])
    return np.asarray(total.reshape(images, weight.shape[1]), np.float64)


def _positive(values: Floats) -> Floats:
    """Return numbers that can divide: those of captions without n-grams, whose sums are 0, become 1."""
    return np.where(values > 0, values, 1.0)
