"""The hypotheses of a search that have ended, ranked, as `seesay.decoding.finished` does."""

import bisect
from dataclasses import dataclass

from seesay.decoding.hypothesis import FAILED, Hypothesis, Result
from seesay.onnx_runtime.logits_processing import NEG_INF


@dataclass(frozen=True)
class Ended:
    """A hypothesis with its rank, and the row of the search in which it ended."""

    rank: float
    row: int
    hypothesis: Hypothesis


class Finished:
    """The best that have ended of every image.

    Args:
        images: B.
        size: how many are kept of each.
    """

    def __init__(self, images: int, size: int) -> None:
        self._size = size
        self._best: list[list[Ended]] = [[] for _ in range(images)]

    def add(self, image: int, ended: Ended) -> None:
        """Puts a hypothesis in its place; of equally good ones that which came first stays before the other."""
        best = self._best[image]
        bisect.insort_right(best, ended, key=lambda each: -each.rank)
        del best[self._size :]

    def bar(self, image: int, count: int) -> float:
        """Returns the rank that one of the best `count` has to beat; -inf while there are fewer."""
        best = self._best[image]
        return best[count - 1].rank if len(best) >= count else NEG_INF

    def collect(self) -> list[Result]:
        """Returns the hypotheses of every image."""
        results = []
        for best in self._best:
            kept = [ended for ended in best if ended.rank > FAILED] or best[:1]
            rows = tuple(ended.row for ended in kept)
            results.append(Result([ended.hypothesis for ended in kept], best[0].rank <= FAILED, rows))
        return results
