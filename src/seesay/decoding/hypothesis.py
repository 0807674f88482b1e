"""What a search gives."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FAILED = -1e30
"""Rank of a hypothesis that the rules let neither go on nor end: below every other."""


@dataclass(frozen=True)
class Hypothesis:
    """One candidate caption with its evidence.

    Attributes:
        tokens: word ids, without the start and end tokens.
        log_probs: the model's natural log-probability of each word, then of the end token, which is scored also
            where the maximum length forced it: T + 1 numbers.
        score: what hypotheses are ranked by: the sum of log_probs (those of repeated words times
            `repetition_penalty`), in a beam search divided by len(log_probs) ** length_penalty.
        finished: whether it ended by itself. False of a caption cut at the maximum length: one with as many words
            whose likeliest next word (the next one drawn, in sampling) was not the end; and of one that could
            neither go on nor end by the rules, which is given only where no other is left.
        attention: where the decoder looked at each of `log_probs`, (T + 1, N); None if not asked for, or if the
            decoder has no attention.
    """

    tokens: tuple[int, ...]
    log_probs: tuple[float, ...]
    score: float
    finished: bool
    attention: NDArray[np.float32] | None = None


class Result(NamedTuple):
    """What a search gives of one image.

    Attributes:
        hypotheses: best first; at least one.
        failed: the only one is a hypothesis that the rules let neither go on nor end.
        rows: in which row of the search each of them ended: in sampling, which draw it is. None once searches are
            merged.
    """

    hypotheses: list[Hypothesis]
    failed: bool
    rows: tuple[int, ...] = ()
