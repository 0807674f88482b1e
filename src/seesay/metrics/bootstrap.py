"""Bootstrap confidence intervals of scores, and paired differences of two systems (Koehn 2004).

Images are drawn with replacement, and the corpus value is recomputed from the statistics of each draw, because BLEU
and METEOR are not means over images. Intervals cover the choice of images, not the variance between training seeds.
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
"""Default number of draws. With 1,000, the result for a difference with p near .05 depends on the seed."""
SEED = 0
LEVEL = 0.95
_CHUNK = 1 << 22  # image indices in memory at a time


@dataclass(frozen=True)
class Interval:
    """A confidence interval of a corpus value."""

    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """Difference of a score between two systems on the same images.

    Attributes:
        first: corpus value of the first system.
        second: corpus value of the second system.
        interval: interval of `second - first` over paired draws.
        p_value: two-sided bootstrap p-value of no difference: twice the fraction of draws with the less frequent sign,
            at least 2 / (draws + 1).
    """

    first: float
    second: float
    interval: Interval
    p_value: float

    @property
    def value(self) -> float:
        """`second - first`."""
        return self.second - self.first

    @property
    def significant(self) -> bool:
        """Whether the interval excludes zero."""
        return self.interval.low > 0 or self.interval.high < 0


def bootstrap_intervals(
    scores: Scores, *, draws: int = DRAWS, level: float = LEVEL, seed: int = SEED
) -> dict[str, Interval]:
    """Returns the percentile bootstrap interval of each score that can be recomputed from its statistics.

    Args:
        scores: scores of one system.
        draws: number of bootstrap draws.
        level: confidence level, 0 to 1.
        seed: seed of the draws, which depend only on it and the number of images.

    Raises:
        ConfigError: invalid draws or level.
    """
    samples = _resampled([scores], draws, level, seed)[0]
    return {name: _interval(values, level) for name, values in samples.items()}


def paired_bootstrap(
    first: Scores, second: Scores, *, draws: int = DRAWS, level: float = LEVEL, seed: int = SEED
) -> dict[str, Difference]:
    """Returns the difference of each score that both systems have.

    Args:
        first: scores of the first system.
        second: scores of the second system on the same images in the same order.
        draws: number of bootstrap draws, shared by both systems.
        level: confidence level, 0 to 1.
        seed: seed of the draws.

    Raises:
        DataError: the images differ.
        ConfigError: invalid draws or level.
    """
    if first.ids != second.ids:
        raise DataError("a paired comparison needs the same images in the same order; score both on one split")
    one, two = _resampled([first, second], draws, level, seed)
    return {
        name: _difference(first.corpus[name], second.corpus[name], two[name] - one[name], level)
        for name in one
        if name in two
    }


def check_draws(draws: int) -> None:
    """Checks the number of draws.

    Raises:
        ConfigError: it is below 1.
    """
    if draws < 1:
        raise ConfigError(f"number of bootstrap draws is {draws}; it must be at least 1")


def bootstrap_recipe(draws: int, seed: int = SEED) -> str:
    """Returns the signature part of intervals: `bootstrap:draws=10000,seed=0`."""
    return f"bootstrap:draws={draws},seed={seed}"


def _difference(first: float, second: float, samples: Floats, level: float) -> Difference:
    # Draws without a difference count half for each sign.
    below = float((samples < 0).sum() + 0.5 * (samples == 0).sum())
    rarer = min(below, len(samples) - below)
    return Difference(first, second, _interval(samples, level), min(1.0, 2 * (rarer + 1) / (len(samples) + 1)))


def _interval(samples: Floats, level: float) -> Interval:
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def _resampled(systems: list[Scores], draws: int, level: float, seed: int) -> list[Mapping[str, Floats]]:
    """Returns the corpus values of each system, (R,) per score, over the same R draws of images."""
    check_draws(draws)
    if not 0 < level < 1:
        raise ConfigError(f"confidence level is {level}; it must be between 0 and 1")
    parts: list[list[dict[str, Floats]]] = [[] for _ in systems]
    for images in _draws(len(systems[0].ids), draws, seed):
        for system, scores in zip(parts, systems, strict=True):
            system.append(scores.resample(images))
    return [{name: np.concatenate([part[name] for part in system]) for name in system[0]} for system in parts]


def _draws(images: int, draws: int, seed: int) -> Iterator[Ints]:
    """Yields chunks of draws of image indices (r, B), `draws` in total."""
    generator = np.random.default_rng(seed)
    chunk = max(1, _CHUNK // images)
    for begin in range(0, draws, chunk):
        yield generator.integers(0, images, (min(chunk, draws - begin), images))
