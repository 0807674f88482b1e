"""BLEU (Papineni et al. 2002) as the COCO caption evaluation computes it."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from seesay.metrics.ngrams import MAX_ORDER, ReferenceNgrams

# The COCO evaluation adds these to numerators and denominators to avoid 0 / 0.
TINY = 1e-15
SMALL = 1e-9

Floats = npt.NDArray[np.float64]


def bleu_statistics(references: ReferenceNgrams, hypotheses: Sequence[Sequence[int]]) -> Floats:
    """Returns the statistics that BLEU sums over images: length, closest reference length, n-grams, clipped matches.

    Args:
        references: the reference captions of each image.
        hypotheses: token ids of one hypothesis per image, in the same order.

    Returns:
        (B, 10): the two lengths, the number of n-grams of each order 1 to 4, and the number of those that match, with
        each n-gram clipped to its maximum count in any reference.
    """
    images = np.arange(references.images)
    length = np.fromiter(map(len, hypotheses), np.int64, references.images)
    statistics = np.zeros((references.images, 2 + 2 * MAX_ORDER))
    statistics[:, 0] = length
    statistics[:, 1] = _closest_lengths(references, length)
    for order, found in enumerate(references.match(hypotheses, images)):
        max_count = np.zeros(len(found.gram), np.int64)
        np.maximum.at(max_count, found.row, references.orders[order].count[found.entry])
        statistics[:, 2 + order] = np.maximum(0, length - order)
        matched = np.minimum(found.count, max_count)
        statistics[:, 2 + MAX_ORDER + order] = np.bincount(
            found.hypothesis, weights=matched, minlength=references.images
        )
    return statistics


def _closest_lengths(references: ReferenceNgrams, length: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Returns for each image the reference length closest to the hypothesis length; of two, the shorter."""
    distance = np.abs(references.lengths - length[references.image])
    # Distance and length in one sort key: lengths are below the step between distances.
    step = int(references.lengths.max(initial=0)) + 1
    best = np.minimum.reduceat(distance * step + references.lengths, references.first)
    return best % step


def bleu_from_statistics(statistics: Floats) -> Floats:
    """Returns BLEU-1 to BLEU-4, (..., 4), from statistics of one image or sums over several, (..., 10)."""
    total, matched = statistics[..., 2 : 2 + MAX_ORDER], statistics[..., 2 + MAX_ORDER :]
    precision = np.cumprod((matched + TINY) / (total + SMALL), axis=-1)
    means: Floats = precision ** (1.0 / np.arange(1, MAX_ORDER + 1))
    ratio = (statistics[..., 0] + TINY) / (statistics[..., 1] + SMALL)
    brevity: Floats = np.exp(np.minimum(0.0, 1.0 - 1.0 / ratio))
    return means * brevity[..., None]
