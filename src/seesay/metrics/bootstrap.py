"""How sure a score is: bootstrap intervals of one system, and paired differences of two (Koehn 2004).

Images are drawn with replacement and the corpus value is computed anew from the statistics of each draw: BLEU
and METEOR are no means over images. The intervals speak of the choice of images; of the seed a model was trained
with they say nothing.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from seesay.errors import ConfigError, DataError
from seesay.metrics.scores import Scores

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

DRAWS = 10_000
"""Draws by default. With 1,000, the verdict on a difference with p near .05 depends on the seed."""
SEED = 0
LEVEL = 0.95
_CHUNK = 1 << 22  # image indices held at once


@dataclass(frozen=True)
class Interval:
    """Where the corpus value lies with the confidence that was asked for."""

    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """How a score of one system differs from another's on the same images.

    Attributes:
        first: corpus value of the first system.
        second: corpus value of the second.
        interval: of `second - first`, over draws of images that both systems share.
        p_value: two-sided bootstrap p-value of no difference: twice the share of draws in which the sign of the
            difference is the less usual one, at least 2 / (draws + 1).
    """

    first: float
    second: float
    interval: Interval
    p_value: float

    @property
    def value(self) -> float:
        """Returns `second - first`."""
        return self.second - self.first

    @property
    def real(self) -> bool:
        """Returns whether the interval leaves out zero."""
        return self.interval.low > 0 or self.interval.high < 0


def bootstrap_intervals(
    scores: Scores, *, draws: int = DRAWS, level: float = LEVEL, seed: int = SEED
) -> dict[str, Interval]:
    """Returns the percentile bootstrap interval of each score that can be recomputed from its statistics.

    Args:
        scores: of one system.
        draws: how many sets of images are drawn.
        level: confidence, 0 to 1.
        seed: of the draws; the same seed and number of images give the same draws.

    Raises:
        ConfigError: draws or level cannot be.
    """
    samples = _resampled([scores], draws, level, seed)[0]
    return {name: _interval(values, level) for name, values in samples.items()}


def paired_bootstrap(
    first: Scores, second: Scores, *, draws: int = DRAWS, level: float = LEVEL, seed: int = SEED
) -> dict[str, Difference]:
    """Returns for each score that both systems have how the second differs from the first.

    Args:
        first: scores of one system.
        second: of another on the same images in the same order.
        draws: how many sets of images are drawn; both systems are scored on each.
        level: confidence, 0 to 1.
        seed: of the draws.

    Raises:
        DataError: the two are not of the same images.
        ConfigError: draws or level cannot be.
    """
    if first.ids != second.ids:
        raise DataError("a paired comparison wants the same images in the same order; score both on one split")
    one, two = _resampled([first, second], draws, level, seed)
    return {
        name: _difference(first.corpus[name], second.corpus[name], two[name] - one[name], level)
        for name in one
        if name in two
    }


def check_draws(draws: int) -> None:
    """Checks a number of draws, before anything is computed for them.

    Raises:
        ConfigError: it is below 1.
    """
    if draws < 1:
        raise ConfigError(f"{draws} bootstrap draws; it must be at least 1")


def bootstrap_recipe(draws: int, seed: int = SEED) -> str:
    """Returns what intervals depend on besides the scores, for a signature: `bootstrap:draws=10000,seed=0`."""
    return f"bootstrap:draws={draws},seed={seed}"


def _difference(first: float, second: float, samples: Floats, level: float) -> Difference:
    # Half of the draws without any difference count for either sign.
    below = float((samples < 0).sum() + 0.5 * (samples == 0).sum())
    rarer = min(below, len(samples) - below)
    return Difference(first, second, _interval(samples, level), min(1.0, 2 * (rarer + 1) / (len(samples) + 1)))


def _interval(samples: Floats, level: float) -> Interval:
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def _resampled(systems: list[Scores], draws: int, level: float, seed: int) -> list[Mapping[str, Floats]]:
    """Returns the corpus values of each system, (R,) a score, over the same R draws of images."""
    check_draws(draws)
    if not 0 < level < 1:
        raise ConfigError(f"a confidence level of {level}; it must be between 0 and 1")
    parts: list[list[dict[str, Floats]]] = [[] for _ in systems]
    for images in _draws(len(systems[0].ids), draws, seed):
        for system, scores in zip(parts, systems, strict=True):
            system.append(scores.resample(images))
    return [{name: np.concatenate([part[name] for part in system]) for name in system[0]} for system in parts]


def _draws(images: int, draws: int, seed: int) -> Iterator[Ints]:
    """Yields draws of image indices (r, B), together `draws` of them."""
    generator = np.random.default_rng(seed)
    chunk = max(1, _CHUNK // images)
    for begin in range(0, draws, chunk):
        yield generator.integers(0, images, (min(chunk, draws - begin), images))
