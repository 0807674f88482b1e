"""How the hypotheses of the next step are chosen from the scores, as `seesay.decoding.selection` does.

Where scores are equal, the first hypothesis, and of its words the first in the vocabulary, is the better.
"""

from typing import NamedTuple

import numpy as np

from seesay.onnx_runtime.logits_processing import NEG_INF, Floats, Ints, Scores


class Choice(NamedTuple):
    """The next hypotheses (b, K): the row each continues, by which word, and sums of which -inf = an empty place."""

    parents: Ints
    words: Ints
    sums: Floats


def best_token(scores: Scores, sums: Floats) -> Choice:
    """Returns every hypothesis (b, R) with its best word."""
    words = scores.choice.argmax(-1)  # the first of equal ones
    values = np.take_along_axis(scores.choice, words[..., None], -1)[..., 0]
    rows = np.broadcast_to(np.arange(sums.shape[1]), sums.shape)
    return Choice(rows, words, finite(sums + values - scores.total[..., 0]))


def select_beam(scores: Scores, sums: Floats, width: int, places: Ints) -> Choice:
    """Returns the best `width` continuations of all hypotheses of an image, as many as it has `places` (b,)."""
    values, words = stable_topk(scores.choice, width)
    totals = finite(sums[..., None] + (values - scores.total))
    best, flat = stable_topk(totals.reshape(len(totals), -1), width)
    best[np.arange(best.shape[1]) >= places[:, None]] = NEG_INF
    words_of = words.reshape(len(words), -1)
    return Choice(flat // words.shape[-1], np.take_along_axis(words_of, flat, 1), best)


def stable_topk(values: Floats, count: int) -> tuple[Floats, Ints]:
    """Returns the greatest `count` of values (..., M), or all if there are fewer, and their places, each (..., count).

    Of equal numbers the first come first. Values may be -inf, but must be numbers.
    """
    size = values.shape[-1]
    count = min(count, size)
    flat = values.reshape(-1, size)
    least = np.partition(flat, size - count, -1)[:, size - count, None]
    kept = flat >= least
    if np.count_nonzero(kept) == count * len(flat):
        places = np.nonzero(kept)[1].reshape(-1, count)
    else:  # of the equal ones at the border the first
        equal = flat == least
        kept = (flat > least) | (equal & (equal.cumsum(-1) <= count - (flat > least).sum(-1, keepdims=True)))
        places = np.nonzero(kept)[1].reshape(-1, count)
    found = np.take_along_axis(flat, places, -1)
    order = np.argsort(-found, axis=-1, kind="stable")
    shape = (*values.shape[:-1], count)
    return (
        np.take_along_axis(found, order, -1).reshape(shape),
        np.take_along_axis(places, order, -1).reshape(shape),
    )


def finite(sums: Floats) -> Floats:
    """Returns the sums with -inf for those that are no numbers."""
    return np.where(np.isfinite(sums), sums, NEG_INF).astype(sums.dtype)
