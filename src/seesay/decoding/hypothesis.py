"""What a search returns."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FAILED = -1e30
"""Rank of a hypothesis that the constraints allow neither to continue nor to end: below every other."""
BEST_RANK = -FAILED
"""Rank above every other: of the greedy caption, which stays first."""


@dataclass(frozen=True)
class Hypothesis:
    """One candidate caption with its scores.

    Attributes:
        tokens: token ids, without the start and end tokens.
        log_probs: the model's natural log-probability of each token and then of the end token, T + 1 numbers; the end
            token is scored even if the maximum length forced it.
        score: the sum of log_probs (those of repeated tokens times `repetition_penalty`), in beam search divided by
            len(log_probs) ** length_penalty; hypotheses are ranked by it.
        finished: False for a caption truncated at `max_length` tokens, after which the most probable token (in
            sampling, the next sampled token) was not the end; and for one that could neither continue nor end under
            the constraints, which is returned only if there is no other.
        attention: attention weights per entry of `log_probs`, (T + 1, N); None if not requested, or if the decoder has
            no attention.
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
        failed: the only hypothesis could neither continue nor end under the constraints.
        rows: row of the search in which each hypothesis ended; in sampling, the number of the sample.
    """

    hypotheses: list[Hypothesis]
    failed: bool
    rows: tuple[int, ...] = ()
