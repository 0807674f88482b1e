"""What a search returns."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FAILED = -1e30
"""Rank of a hypothesis that the constraints let neither continue nor end: below every other."""


@dataclass(frozen=True)
class Hypothesis:
    """One candidate caption with its evidence.

    Attributes:
        tokens: token ids, without the start and end tokens.
        log_probs: the model's natural log-probability of each token, then of the end token, which is scored also
            where the maximum length forced it: T + 1 numbers.
        score: what hypotheses are ranked by: the sum of log_probs (those of repeated tokens times
            `repetition_penalty`), in a beam search divided by len(log_probs) ** length_penalty.
        finished: False for a caption cut at the maximum length, that is one with `max_length` tokens after which the
            most probable token (in sampling, the next one sampled) was not the end, and for one that could neither
            continue nor end under the constraints, which is returned only where no other is left.
        attention: attention weights of each of `log_probs`, (T + 1, N); None if not asked for, or if the decoder
            has no attention.
    """

    tokens: tuple[int, ...]
    log_probs: tuple[float, ...]
    score: float
    finished: bool
    attention: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Result:
    """What a search returns for one image.

    Attributes:
        hypotheses: best first; at least one.
        failed: the only one is a hypothesis that could neither continue nor end under the constraints.
        rows: row of the search in which each of them ended; in sampling, the number of the sample.
    """

    hypotheses: list[Hypothesis]
    failed: bool
    rows: tuple[int, ...] = ()
