"""The finished hypotheses of a search, ranked."""

import bisect
from dataclasses import dataclass

import numpy as np

from seesay.decoding.arrays import NEG_INF, Floats, Ints
from seesay.decoding.hypothesis import FAILED, Hypothesis, Result


@dataclass(frozen=True)
class RankedHypothesis:
    """A hypothesis, its rank, and the row of the search in which it ended."""

    rank: float
    row: int
    hypothesis: Hypothesis


class FinishedHypotheses:
    """The best finished hypotheses of every image.

    Args:
        images: B.
        size: hypotheses kept per image.
        distinct: keep equal hypotheses once; beam groups may find one several times.
    """

    def __init__(self, images: int, size: int, distinct: bool) -> None:
        self._size, self._distinct = size, distinct
        self._best: list[list[RankedHypothesis]] = [[] for _ in range(images)]

    def add(self, image: int, found: RankedHypothesis) -> None:
        """Insert a hypothesis by its rank; equal ranks keep the order of insertion."""
        best = self._best[image]
        if self._distinct:
            known = next((each for each in best if each.hypothesis.tokens == found.hypothesis.tokens), None)
            if known is not None:
                return
        bisect.insort_right(best, found, key=lambda each: -each.rank)
        del best[self._size :]

    def is_empty(self, images: Ints) -> "np.ndarray[tuple[int], np.dtype[np.bool_]]":
        """Return whether images (b,) have no finished hypothesis yet, (b,)."""
        return np.array([not self._best[image] for image in images], bool)

    def kth_best_rank(self, images: Ints, count: int) -> Floats:
        """Return the rank of the `count`-th best hypothesis of each image, (b,); -inf if there are fewer."""
        found = [self._best[image][count - 1].rank if len(self._best[image]) >= count else NEG_INF for image in images]
        return np.array(found, np.float64)

    def collect(self) -> list[Result]:
        """Return the hypotheses of every image."""
        results = []
        for best in self._best:
            kept = [each for each in best if each.rank > FAILED] or best[:1]
            rows = tuple(each.row for each in kept)
            results.append(Result([each.hypothesis for each in kept], best[0].rank <= FAILED, rows))
        return results
