"""N-grams of reference captions as sorted integer tables, and their join with hypotheses.

BLEU and CIDEr both need the n-grams that a hypothesis shares with each reference of its image, with counts. This
module computes them for a whole batch with a few sorts and binary searches instead of dictionaries.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np
import numpy.typing as npt

MAX_ORDER = 4

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Matches:
    """The n-grams of one order in a batch of hypotheses (M rows), and their matches in references (P pairs).

    Attributes:
        hypothesis: hypothesis index, (M,).
        gram: n-gram id in the document frequencies, -1 if no document has it, (M,).
        count: number of occurrences in the hypothesis, (M,).
        row: index of the matched row above, (P,).
        sentence: index of the matching reference over all images, (P,).
        entry: index into the reference rows of `OrderTable`, (P,).
    """

    hypothesis: Ints
    gram: Ints
    count: Ints
    row: Ints
    sentence: Ints
    entry: Ints


@dataclass(frozen=True)
class OrderTable:
    """All reference n-grams of one order; rows are sorted by image, then n-gram.

    Attributes:
        codes: sorted codes `prefix id * vocabulary + last word`, whose index is the n-gram id, (G,).
        key: `image * (G + 1) + gram` of each row, (R,).
        sentence: reference index of each row, (R,).
        gram: n-gram id of each row, (R,).
        count: number of occurrences in that reference, (R,).
        document_frequency: number of images whose references contain the n-gram, (G,).
    """

    codes: Ints
    key: Ints
    sentence: Ints
    gram: Ints
    count: Ints
    document_frequency: Ints


def _flatten(sentences: Sequence[Sequence[int]]) -> tuple[Ints, Ints, Ints]:
    """Returns all tokens concatenated, the sentence index of each token, and the sentence lengths."""
    lengths = np.fromiter(map(len, sentences), np.int64, len(sentences))
    tokens = np.fromiter(chain.from_iterable(sentences), np.int64, int(lengths.sum()))
    return tokens, np.repeat(np.arange(len(sentences)), lengths), lengths


def _runs(values: Ints) -> tuple[Ints, Ints]:
    """Returns the start and length of each run of equal values in a sorted array."""
    starts = np.flatnonzero(np.diff(values, prepend=values[:1] - 1))
    return starts, np.diff(starts, append=len(values))


class ReferenceNgrams:
    """Tables of all 1- to 4-grams of the references of a set of images.

    Args:
        references: token ids (at least 0) of each reference of each image.
    """

    def __init__(self, references: Sequence[Sequence[Sequence[int]]]) -> None:
        sentences = list(chain.from_iterable(references))
        tokens, sentence, self.lengths = _flatten(sentences)
        self.images = len(references)
        self.per_image = np.fromiter(map(len, references), np.int64, len(references))
        self.first = np.cumsum(self.per_image) - self.per_image
        self.image = np.repeat(np.arange(self.images), self.per_image)
        self.vocabulary = int(tokens.max()) + 1 if len(tokens) else 1
        self.orders: list[OrderTable] = []
        gram = np.zeros(len(tokens), np.int64)
        for order in range(1, MAX_ORDER + 1):
            codes, gram = extend_ngrams(gram, tokens, sentence, order, self.vocabulary)
            self.orders.append(self._table(codes, gram, sentence[: len(gram)]))

    def pairs(self, images: Ints) -> tuple[Ints, Ints]:
        """Return every pair of a hypothesis and a reference of its image: indices of both, sorted by hypothesis.

        Args:
            images: image index of each hypothesis, (H,).
        """
        count = self.per_image[images]
        # The pairs of hypothesis h start at offset[h].
        offset = np.cumsum(count) - count
        hypothesis = np.repeat(np.arange(len(images)), count)
        sentence = np.arange(len(hypothesis)) - offset[hypothesis] + self.first[images[hypothesis]]
        return hypothesis, sentence

    def _table(self, codes: Ints, gram: Ints, sentence: Ints) -> OrderTable:
        inside = gram >= 0
        gram, sentence = gram[inside], sentence[inside]
        width = len(codes) + 1
        # One sort by (image, n-gram, sentence).
        packed = (self.image[sentence] * width + gram) * max(1, len(self.lengths)) + sentence
        packed.sort()
        starts, count = _runs(packed)
        key, sentence = np.divmod(packed[starts], max(1, len(self.lengths)))
        gram = key % width
        distinct, _ = _runs(key)
        frequency = np.bincount(gram[distinct], minlength=len(codes))
        return OrderTable(codes, key, sentence, gram, count, frequency)

    @cached_property
    def frequencies(self) -> "DocumentFrequencies":
        """The document frequencies of the n-grams of each order."""
        codes, counts = zip(*((order.codes, order.document_frequency) for order in self.orders), strict=True)
        return DocumentFrequencies(self.images, self.vocabulary, codes, counts)

    def match(
        self, hypotheses: Sequence[Sequence[int]], images: Ints, frequencies: "DocumentFrequencies | None" = None
    ) -> list[Matches]:
        """Returns the n-grams of hypotheses and their matches in the references, one item per order.

        Args:
            hypotheses: token ids of each hypothesis.
            images: image index of each hypothesis, (H,).
            frequencies: whose n-gram ids are returned; None: those of the references.
        """
        tokens, sentence, _ = _flatten(hypotheses)
        base = max(self.vocabulary, int(tokens.max()) + 1 if len(tokens) else 1)
        local = np.zeros(len(tokens), np.int64)
        known = counted = np.zeros(1, np.int64)
        found = []
        for order, table in enumerate(self.orders, start=1):
            codes, local = extend_ngrams(local, tokens, sentence, order, base)
            known = known_ids(codes, base, known, table.codes, self.vocabulary)
            if frequencies is None:
                counted = known
            else:
                counted = known_ids(codes, base, counted, frequencies.codes[order - 1], frequencies.vocabulary)
            found.append(_join(local, sentence[: len(local)], known, counted, images, table))
        return found


@dataclass(frozen=True)
class DocumentFrequencies:
    """Number of documents, here images, whose captions contain an n-gram.

    Attributes:
        documents: number of documents; e if all n-grams have the weight 1.
        vocabulary: number of token ids, the base of the codes.
        codes: per order, the sorted codes of the n-grams as in `OrderTable`, (G,).
        counts: per order, the number of documents that contain each, (G,).
    """

    documents: float
    vocabulary: int
    codes: tuple[Ints, ...]
    counts: tuple[Ints, ...]

    @cached_property
    def idf(self) -> tuple[Floats, ...]:
        """Per order, the inverse document frequency of each n-gram, and last that of an unknown one, (G + 1,).

        It is log(documents / count), where an unknown n-gram counts as in one document, as in CIDEr.
        """
        log_documents = np.log(float(max(1, self.documents)))
        return tuple(np.append(log_documents - np.log(counts), log_documents) for counts in self.counts)


EQUAL_WEIGHTS = DocumentFrequencies(
    math.e, 1, (np.zeros(0, np.int64),) * MAX_ORDER, (np.zeros(0, np.int64),) * MAX_ORDER
)
"""Without documents: the inverse document frequency of every n-gram is log(e) = 1."""


def known_ids(codes: Ints, base: int, prefix_ids: Ints, known: Ints, vocabulary: int) -> Ints:
    """Return the id in a table of each n-gram of a batch, -1 if it has none, (L,).

    Args:
        codes: codes of the batch, with `base`, (L,).
        base: number of token ids of the batch.
        prefix_ids: the table's ids of the batch's n-grams of the next lower order.
        known: sorted codes of the table, with base `vocabulary`, (G,).
        vocabulary: number of token ids of the table.
    """
    prefix, last = np.divmod(codes, base)
    queries = prefix_ids[prefix] * vocabulary + last
    queries[(prefix_ids[prefix] < 0) | (last >= vocabulary)] = -1
    if not len(known):
        return np.full(len(codes), -1, np.int64)
    index = np.minimum(np.searchsorted(known, queries), len(known) - 1)
    return np.where(known[index] == queries, index, -1)


def extend_ngrams(prefix: Ints, tokens: Ints, sentence: Ints, order: int, base: int) -> tuple[Ints, Ints]:
    """Returns the distinct codes of the n-grams of an order and the n-gram index at each position.

    Positions whose n-gram would cross a sentence end have index -1; `prefix` has the indices of the next lower order.
    """
    positions = max(0, len(tokens) - order + 1)
    index = np.full(positions, -1, np.int64)
    inside = sentence[:positions] == sentence[order - 1 :]
    code = prefix[:positions][inside] * base + tokens[order - 1 :][inside]
    codes, index[inside] = np.unique(code, return_inverse=True)
    return codes, index


def count_ngrams(gram: Ints, sentence: Ints, distinct: int) -> tuple[Ints, Ints, Ints]:
    """Return sentence, n-gram and count of each distinct pair of them, sorted by sentence, then n-gram; each (M,).

    Args:
        gram: n-gram at each position, -1 for none, (L,).
        sentence: sentence of each position, (L,).
        distinct: number of n-grams.
    """
    inside = gram >= 0
    packed = np.sort(sentence[inside] * (distinct + 1) + gram[inside])
    starts, count = _runs(packed)
    return (*np.divmod(packed[starts], distinct + 1), count)


def _join(local: Ints, sentence: Ints, known: Ints, counted: Ints, images: Ints, table: OrderTable) -> Matches:
    hypothesis, own, count = count_ngrams(local, sentence, len(known))
    gram = known[own]
    rows = np.flatnonzero(gram >= 0)
    key = images[hypothesis[rows]] * (len(table.codes) + 1) + gram[rows]
    low = np.searchsorted(table.key, key)
    width = np.searchsorted(table.key, key, side="right") - low
    # The entries of a row are contiguous: low, low + 1, ... low + width - 1.
    entry = np.repeat(low - np.cumsum(width) + width, width) + np.arange(int(width.sum()))
    return Matches(hypothesis, counted[own], count, np.repeat(rows, width), table.sentence[entry], entry)


def number_tokens(
    hypotheses: Iterable[Sequence[str]], references: Iterable[Sequence[Sequence[str]]]
) -> tuple[list[list[int]], list[list[list[int]]]]:
    """Returns hypotheses and references with tokens replaced by ids."""
    numbers: dict[str, int] = {}

    def number(words: Sequence[str]) -> list[int]:
        return [numbers.setdefault(word, len(numbers)) for word in words]

    numbered = [[number(reference) for reference in image] for image in references]
    return [number(hypothesis) for hypothesis in hypotheses], numbered
