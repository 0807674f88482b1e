"""METEOR 1.5 for English: statistics against the best reference, and the score of their sums."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from seesay.errors import DataError
from seesay.metrics.meteor.alignment import align
from seesay.metrics.meteor.matching import Lexicon, Match, Text, find_matches
from seesay.metrics.meteor.normalise import normalise
from seesay.metrics.meteor.tables import Tables

FloatArray = npt.NDArray[np.float64]

# Parameters of the default task "rank" for English.
ALPHA, BETA, GAMMA, DELTA = 0.85, 0.2, 0.6, 0.75
STAGE_WEIGHTS = (1.0, 0.6, 0.8, 0.6)

# Columns of the statistics. For each stage: matched content words of hypothesis and reference, then matched function
# words of both.
LENGTH, REFERENCE_LENGTH, FUNCTION_WORDS, REFERENCE_FUNCTION_WORDS = range(4)
FIRST_STAGE = 4
CHUNKS = FIRST_STAGE + 4 * len(STAGE_WEIGHTS)
STATISTICS = CHUNKS + 1

# Number of images per block.
_BLOCK = 1024
# Tolerance between a bound and a score.
_MARGIN = 1e-9
# Stages by decreasing weight, and the rank of each stage.
_STAGES = sorted(range(len(STAGE_WEIGHTS)), key=lambda stage: -STAGE_WEIGHTS[stage])
_BY_WEIGHT = [_STAGES.index(stage) for stage in range(len(STAGE_WEIGHTS))]
_UNMATCHED = len(_STAGES)


class Meteor:
    """METEOR 1.5 for English (Denkowski and Lavie 2014) as in coco-caption, without Java.

    Every match equals that of pycocoevalcap's jar with `-l en -norm`.

    Args:
        tables: word lists and tables.
    """

    def __init__(self, tables: Tables) -> None:
        self._prefixes = tables.prefixes
        self._lexicon = Lexicon(tables)

    @classmethod
    def load(cls, folder: Path | None = None) -> "Meteor":
        """Returns a scorer with the tables of pycocoevalcap.

        Args:
            folder: folder of the jar and its `data`; by default that of the installed pycocoevalcap.

        Raises:
            MissingDependencyError: pycocoevalcap is not installed.
            DataError: a file is missing or damaged.
        """
        return cls(Tables(folder))

    def statistics(self, hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> FloatArray:
        """Returns the statistics of each image against its best reference, (B, 21), which are summed over the corpus.

        Words and phrases are looked up in one batch: pass whole corpora rather than single images.

        Args:
            hypotheses: one caption per image, tokenized (`tokenize`).
            references: human captions of each image, tokenized.

        Raises:
            DataError: The lists have different lengths, or an image has no references.
        """
        if len(hypotheses) != len(references):
            raise DataError(f"{len(hypotheses)} hypotheses for {len(references)} lists of references")
        # The jar reads one line per image, with fields separated by a triple bar.
        cleaned = [text.replace("|||", "").replace("  ", " ") for text in hypotheses]
        split_references = [[part for text in texts for part in text.split("|||")] for texts in references]
        for number, texts in enumerate(split_references):
            if not texts:
                raise DataError(f"image {number} has no reference")
        distinct = list(dict.fromkeys([*cleaned, *(text for texts in split_references for text in texts)]))
        words = [normalise(text, self._prefixes) for text in distinct]
        prepared = dict(zip(distinct, self._lexicon.texts(words), strict=True))
        images = [
            (prepared[text], [prepared[other] for other in texts])
            for text, texts in zip(cleaned, split_references, strict=True)
        ]
        parts = [_best_counts(images[start : start + _BLOCK]) for start in range(0, len(images), _BLOCK)]
        return np.concatenate([np.zeros((0, STATISTICS)), *parts])


def meteor_from_statistics(statistics: npt.ArrayLike) -> FloatArray:
    """Returns METEOR, 0 to 1, from statistics or their sums, (..., 21) to (...).

    The harmonic mean of precision and recall, with lower weights for function words and inexact matches, times a
    fragmentation penalty (Denkowski and Lavie, "Meteor Universal", 2014, section 2). An image without matches scores 0.
    """
    values = np.asarray(statistics, np.float64)
    stages = values[..., FIRST_STAGE:CHUNKS].reshape(*values.shape[:-1], len(STAGE_WEIGHTS), 2, 2)
    # (..., 2): hypothesis and reference. The order of additions is that of the original.
    matched = sum(
        (stages[..., stage, kind, :] * weight * share)
        for kind, share in enumerate((DELTA, 1 - DELTA))
        for stage, weight in enumerate(STAGE_WEIGHTS)
    )
    lengths = values[..., [LENGTH, REFERENCE_LENGTH]]
    function = values[..., [FUNCTION_WORDS, REFERENCE_FUNCTION_WORDS]]
    total = stages.sum(axis=(-3, -2))
    chunks = values[..., CHUNKS]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = matched / (DELTA * (lengths - function) + (1 - DELTA) * function)
        mean = 1.0 / ((1.0 - ALPHA) / ratio[..., 0] + ALPHA / ratio[..., 1])
        fragments = chunks / (total.sum(axis=-1) / 2)
        score = mean * (1.0 - GAMMA * fragments**BETA)
    return np.asarray(np.maximum(np.nan_to_num(score, nan=0.0), 0.0), np.float64)


def _best_counts(images: Sequence[tuple[Text, Sequence[Text]]]) -> FloatArray:
    """Returns the statistics of the best reference of each hypothesis (the first of equal ones), (B, 21).

    The alignment search dominates the time. The references of an image are tried in decreasing order of an upper bound
    of their score, until the bound is below a score already found.
    """
    pairs = [(hypothesis, reference) for hypothesis, references in images for reference in references]
    matches = [find_matches(*pair) for pair in pairs]
    bounds = meteor_from_statistics(_table(map(_bound, pairs, matches)))
    sizes = np.array([len(references) for _, references in images])
    images_of = np.repeat(np.arange(len(images)), sizes)
    counts, scores = np.zeros((len(pairs), STATISTICS)), np.full(len(pairs), -1.0)
    best = np.full(len(images), -1.0)
    # By image, highest bound first; then the first reference of each image, the second of each, and so on.
    order = np.lexsort((-bounds, images_of))
    turn = np.arange(len(pairs)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    for number in range(sizes.max(initial=0)):
        rows = order[turn == number]
        rows = rows[bounds[rows] >= best[images_of[rows]] - _MARGIN]
        counts[rows] = _table(_count(pairs[row], matches[row]) for row in rows.tolist())
        scores[rows] = meteor_from_statistics(counts[rows])
        np.maximum.at(best, images_of[rows], scores[rows])
    chosen = np.lexsort((-scores, images_of))  # stable: the first of equal scores
    return np.asarray(counts[chosen[turn == 0]], np.float64)


def _table(rows: Iterable[list[int]]) -> FloatArray:
    return np.array(list(rows), np.float64).reshape(-1, STATISTICS)


def _bound(pair: tuple[Text, Text], matches: Sequence[Sequence[Match]]) -> list[int]:
    """Returns statistics that give an upper bound of the score: each word has its best match, in one chunk."""
    stages = [[_UNMATCHED] * len(text.words) for text in pair]
    hypothesis, reference = stages
    for starting in matches:
        for start, end, hypothesis_start, hypothesis_end, stage in starting:
            weight = _BY_WEIGHT[stage]
            for position in range(start, end):
                if reference[position] > weight:
                    reference[position] = weight
            for position in range(hypothesis_start, hypothesis_end):
                if hypothesis[position] > weight:
                    hypothesis[position] = weight
    counts = _lengths(*pair)
    for side, (text, found) in enumerate(zip(pair, stages, strict=True)):
        for weight, is_function in zip(found, text.is_function, strict=True):
            if weight != _UNMATCHED:
                counts[FIRST_STAGE + 4 * _STAGES[weight] + 2 * is_function + side] += 1
    counts[CHUNKS] = 0 if _UNMATCHED not in hypothesis + reference else 1
    return counts


def _lengths(hypothesis: Text, reference: Text) -> list[int]:
    """Returns the statistics of a pair without matches."""
    counts = [0] * STATISTICS
    counts[LENGTH], counts[REFERENCE_LENGTH] = len(hypothesis.words), len(reference.words)
    counts[FUNCTION_WORDS] = sum(hypothesis.is_function)
    counts[REFERENCE_FUNCTION_WORDS] = sum(reference.is_function)
    return counts


def _count(pair: tuple[Text, Text], matches: Sequence[Sequence[Match]]) -> list[int]:
    """Returns the statistics of a hypothesis against one reference."""
    hypothesis, reference = pair
    alignment = align(matches)
    counts = _lengths(hypothesis, reference)
    for start, end, hypothesis_start, hypothesis_end, stage in alignment.matches:
        column = FIRST_STAGE + 4 * stage
        for is_function in hypothesis.is_function[hypothesis_start:hypothesis_end]:
            counts[column + 2 * is_function] += 1
        for is_function in reference.is_function[start:end]:
            counts[column + 2 * is_function + 1] += 1
    matched = [sum(counts[FIRST_STAGE + side : CHUNKS : 2]) for side in range(2)]
    # A single chunk that covers both captions does not count as a fragment.
    identical = alignment.chunks == 1 and matched == counts[LENGTH : REFERENCE_LENGTH + 1]
    counts[CHUNKS] = 0 if identical else alignment.chunks
    return counts
