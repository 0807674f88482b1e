"""BLEU (Papineni et al. 2002) as the COCO caption evaluation computes it."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from seesay.metrics.ngrams import MAX_ORDER, ReferenceNgrams

# The COCO evaluation adds these to numerators and denominators to avoid 0 / 0.
TINY = 1e-15
SMALL = 1e-9

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def bleu_statistics(
    references: ReferenceNgrams, hypotheses: Sequence[Sequence[int]], images: Ints | None = None
) -> Floats:
    """Return the statistics that BLEU sums over images: length, closest reference length, n-grams, clipped matches.

    Args:
        references: the reference captions of each image.
        hypotheses: token ids of H hypotheses.
        images: image index of each hypothesis, (H,); by default one hypothesis per image, in order.

    Returns:
        (H, 10): the two lengths, the number of n-grams of each order 1 to 4, and the number of those that match, with
        each n-gram clipped to its maximum count in any reference.
    """
    images = np.arange(references.images) if images is None else images
    length = np.fromiter(map(len, hypotheses), np.int64, len(images))
    statistics = np.zeros((len(images), 2 + 2 * MAX_ORDER))
    statistics[:, 0] = length
    statistics[:, 1] = _closest_lengths(references, length, images)
    for order, found in enumerate(references.match(hypotheses, images)):
        max_count = np.zeros(len(found.gram), np.int64)
        np.maximum.at(max_count, found.row, references.orders[order].count[found.entry])
        statistics[:, 2 + order] = np.maximum(0, length - order)
        matched = np.minimum(found.count, max_count)
        statistics[:, 2 + MAX_ORDER + order] = np.bincount(found.hypothesis, weights=matched, minlength=len(images))
    return statistics


def _closest_lengths(references: ReferenceNgrams, length: Ints, images: Ints) -> Ints:
    """Return for each hypothesis the reference length closest to its own; of two, the shorter."""
    hypothesis, sentence = references.pairs(images)
    found = references.lengths[sentence]
    # Distance and length in one sort key: lengths are below the step between distances.
    step = int(references.lengths.max(initial=0)) + 1
    keys = np.abs(found - length[hypothesis]) * step + found
    first = np.flatnonzero(np.diff(hypothesis, prepend=-1))
    best: Ints = np.minimum.reduceat(keys, first)
    return best % step


def bleu_from_statistics(statistics: Floats) -> Floats:
    """Return BLEU-1 to BLEU-4, (..., 4), from statistics of one image or sums over several, (..., 10)."""
    total, matched = statistics[..., 2 : 2 + MAX_ORDER], statistics[..., 2 + MAX_ORDER :]
    precision = np.cumprod((matched + TINY) / (total + SMALL), axis=-1)
    means: Floats = precision ** (1.0 / np.arange(1, MAX_ORDER + 1))
    ratio = (statistics[..., 0] + TINY) / (statistics[..., 1] + SMALL)
    brevity: Floats = np.exp(np.minimum(0.0, 1.0 - 1.0 / ratio))
    return means * brevity[..., None]


def smoothed_bleu(statistics: Floats) -> Floats:
    """Return BLEU-4 of single sentences, (...), from their statistics (..., 10).

    Matches and n-grams of the orders above 1 are increased by 1 (Lin and Och 2004, "ORANGE: a Method for Evaluating
    Automatic Evaluation Metrics for Machine Translation"), so that a sentence without a matching 4-gram has a score
    that still grows with its shorter matches.
    """
    smoothed = statistics.copy()
    smoothed[..., 3 : 2 + MAX_ORDER] += 1
    smoothed[..., 3 + MAX_ORDER :] += 1
    bleu: Floats = bleu_from_statistics(smoothed)[..., -1]
    return bleu
