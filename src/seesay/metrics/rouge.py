"""ROUGE-L (Lin and Och 2004) as the COCO caption evaluation computes it."""

from collections.abc import Hashable, Sequence

BETA = 1.2


def rouge_l(hypothesis: Sequence[Hashable], references: Sequence[Sequence[Hashable]]) -> float:
    """Returns the ROUGE-L F-score of one hypothesis, 0 to 1; 0 for an empty one.

    Precision and recall are each the maximum over the references, possibly of different ones; recall has the weight
    beta^2 = 1.44 (Lin and Och, equation 15).
    """
    if not hypothesis:
        return 0.0
    common = [common_subsequence(hypothesis, reference) for reference in references]
    precision = max(common) / len(hypothesis)
    if not precision:
        return 0.0
    recall = max(shared / max(1, len(reference)) for shared, reference in zip(common, references, strict=True))
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def common_subsequence(first: Sequence[Hashable], second: Sequence[Hashable]) -> int:
    """Returns the length of the longest common subsequence.

    A row of the dynamic programming table is one integer with a zero bit at each increment, so that a row takes a few
    operations (Hyyrö 2004, "Bit-parallel LCS-length computation revisited").
    """
    positions: dict[Hashable, int] = {}
    for position, item in enumerate(second):
        positions[item] = positions.get(item, 0) | 1 << position
    full = (1 << len(second)) - 1
    row = full
    for item in first:
        matched = row & positions.get(item, 0)
        row = ((row + matched) | (row - matched)) & full
    return len(second) - row.bit_count()
