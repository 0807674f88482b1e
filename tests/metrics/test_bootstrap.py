import math

import numpy as np
import pytest

from seesay.errors import ConfigError, DataError
from seesay.metrics import Scores, bootstrap_intervals, compute_metrics, paired_bootstrap
from seesay.metrics.bootstrap import DRAWS
from tests.metrics.reference import random_captions


def scores_of(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Scores:
    """Returns scores with one metric, `mean`, the mean of values."""
    empty = Scores({}, {}, "", tuple(map(str, range(len(values)))), (), "ptb", {})
    return empty.with_score("mean", values)


def test_interval_of_a_mean_matches_the_normal_distribution() -> None:
    values = np.random.default_rng(0).normal(0.4, 0.2, 2000)
    interval = bootstrap_intervals(scores_of(values), draws=4000)["mean"]
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert interval.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_draws_are_scored_from_their_images() -> None:
    """BLEU of a draw is the corpus BLEU of its captions, not a mean over images."""
    hypotheses, references = random_captions(30, seed=5)
    scores = compute_metrics(hypotheses, references, tokenization="whitespace", metrics=["BLEU"])
    draw = np.random.default_rng(1).integers(0, 30, 30)
    again = compute_metrics(
        [hypotheses[index] for index in draw], [references[index] for index in draw], tokenization="whitespace"
    )
    resampled = scores.resample(draw[None])
    for order in range(1, 5):
        assert resampled[f"BLEU-{order}"][0] == pytest.approx(again.corpus[f"BLEU-{order}"], abs=1e-12)


def test_coverage_of_bleu_over_a_known_population() -> None:
    """95 % intervals of 150 samples contain the population's BLEU-4 with about the nominal frequency.

    The lower bound is .95 minus 3 standard deviations minus .02 for the small samples.
    """
    hypotheses, references = random_captions(1500, seed=8)
    population = compute_metrics(hypotheses, references, tokenization="whitespace", metrics=["BLEU"])
    generator = np.random.default_rng(2)
    covered = 0
    for _ in range(150):
        sample = generator.integers(0, 1500, 200)
        part = Scores(
            {}, {}, "", tuple(map(str, range(200))), (), "ptb", {"BLEU": population.statistics["BLEU"][sample]}
        )
        interval = bootstrap_intervals(part, draws=200)["BLEU-4"]
        covered += interval.low <= population.corpus["BLEU-4"] <= interval.high
    assert 0.95 - 3 * math.sqrt(0.95 * 0.05 / 150) - 0.02 <= covered / 150 < 1


def test_a_system_does_not_differ_from_itself() -> None:
    hypotheses, references = random_captions(40, seed=1)
    scores = compute_metrics(hypotheses, references, tokenization="whitespace")
    for difference in paired_bootstrap(scores, scores).values():
        assert (difference.value, difference.interval.low, difference.interval.high) == (0, 0, 0)
        assert difference.p_value == 1.0
        assert not difference.significant


def test_a_small_gain_on_every_image_is_significant_with_overlapping_intervals() -> None:
    values = np.random.default_rng(0).normal(0.4, 0.2, 200)
    first, second = scores_of(values), scores_of(values + 0.005)
    intervals = [bootstrap_intervals(scores)["mean"] for scores in (first, second)]
    assert intervals[0].high > intervals[1].low
    difference = paired_bootstrap(first, second)["mean"]
    assert difference.significant
    assert difference.value == pytest.approx(0.005)
    assert difference.p_value == pytest.approx(2 / (DRAWS + 1))


def test_p_values_of_no_difference_are_uniform() -> None:
    """Without a difference, about a tenth of p-values are below .1 (binomial, 4 standard deviations)."""
    generator = np.random.default_rng(3)
    small = 0
    for _ in range(200):
        first, second = scores_of(generator.normal(size=60)), scores_of(generator.normal(size=60))
        small += paired_bootstrap(first, second, draws=200)["mean"].p_value < 0.1
    assert abs(small / 200 - 0.1) < 4 * math.sqrt(0.1 * 0.9 / 200)


def test_only_common_scores_are_compared() -> None:
    values = np.array([0.1, 0.2, 0.3])
    one = scores_of(values).with_score("more", values)
    assert paired_bootstrap(one, scores_of(values)).keys() == {"mean"}


def test_a_corpus_value_without_statistics_has_no_interval() -> None:
    values = np.array([0.1, 0.2, 0.3])
    scores = scores_of(values).with_score("jar", values, corpus=0.25)
    assert scores.corpus["jar"] == 0.25
    assert bootstrap_intervals(scores).keys() == {"mean"}


def test_draws_do_not_depend_on_the_chunk_size(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = scores_of(np.random.default_rng(0).normal(size=50))
    expected = bootstrap_intervals(scores, draws=100, seed=4)
    monkeypatch.setattr("seesay.metrics.bootstrap._CHUNK", 170)  # three draws per chunk
    assert bootstrap_intervals(scores, draws=100, seed=4) == expected


def test_significance_at_p_of_04_does_not_depend_on_the_seed() -> None:
    """With 1,000 draws it does: the standard error of the p-value is .009, with 10,000 draws .003."""
    generator = np.random.default_rng(12)
    values, gain = generator.normal(0.4, 0.2, 300), generator.normal(0, 0.1, 300)
    gain += 2.06 * gain.std() / math.sqrt(300) - gain.mean()
    first, second = scores_of(values), scores_of(values + gain)
    few = [paired_bootstrap(first, second, draws=1000, seed=seed)["mean"] for seed in range(12)]
    default = [paired_bootstrap(first, second, seed=seed)["mean"] for seed in range(12)]
    assert {difference.significant for difference in few} == {True, False}
    assert {difference.significant for difference in default} == {True}


def test_draws_are_scored_independently() -> None:
    """A draw's scores are those of its rows and do not depend on the other draws."""
    hypotheses, references = random_captions(40, seed=3)
    scores = compute_metrics(hypotheses, references, tokenization="whitespace")
    draws = np.random.default_rng(1).integers(0, 40, (5, 40))
    together = scores.resample(draws)
    assert together.keys() == scores.corpus.keys()
    for index, draw in enumerate(draws):
        intervals = scores.resample(draw[None])
        assert all(intervals[name][0] == together[name][index] for name in together)
        assert together["CIDEr"][index] == pytest.approx(scores.per_image["CIDEr"][draw].mean(), abs=1e-12)


def test_invalid_arguments_are_refused() -> None:
    scores = scores_of(np.array([0.1, 0.2]))
    with pytest.raises(ConfigError, match="bootstrap draws is 0; it must be at least 1"):
        bootstrap_intervals(scores, draws=0)
    with pytest.raises(ConfigError, match="level is 95; it must be between 0 and 1"):
        bootstrap_intervals(scores, level=95)
    with pytest.raises(DataError, match="needs the same images in the same order"):
        paired_bootstrap(scores, scores_of(np.array([0.1, 0.2, 0.3])))
    with pytest.raises(DataError, match="x needs one finite value for each of the 2 images"):
        scores.with_score("x", np.array([0.1, math.nan]))
    with pytest.raises(DataError, match="x needs one finite value for each of the 2 images"):
        scores.with_score("x", np.array([0.1]))
