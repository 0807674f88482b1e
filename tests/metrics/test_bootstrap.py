import math

import numpy as np
import pytest

from seesay.errors import ConfigError, DataError
from seesay.metrics import Scores, bootstrap_intervals, compute_metrics, paired_bootstrap
from seesay.metrics.bootstrap import DRAWS
from tests.metrics.reference import random_captions


def of_values(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Scores:
    """Scores whose one metric, `mean`, is the mean of given values."""
    empty = Scores({}, {}, "", tuple(map(str, range(len(values)))), (), "ptb", {})
    return empty.with_score("mean", values)


def test_interval_of_a_mean_is_that_of_the_normal_distribution() -> None:
    values = np.random.default_rng(0).normal(0.4, 0.2, 2000)
    interval = bootstrap_intervals(of_values(values), draws=4000)["mean"]
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert interval.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_draws_are_scored_from_their_images_anew() -> None:
    """BLEU of a draw is that of its captions, not a mean of the images' values."""
    hypotheses, references = random_captions(30, seed=5)
    scores = compute_metrics(hypotheses, references, tokenization="whitespace", metrics=["BLEU"])
    draw = np.random.default_rng(1).integers(0, 30, 30)
    again = compute_metrics(
        [hypotheses[place] for place in draw], [references[place] for place in draw], tokenization="whitespace"
    )
    resampled = scores.resample(draw[None])
    for order in range(1, 5):
        assert resampled[f"BLEU-{order}"][0] == pytest.approx(again.corpus[f"BLEU-{order}"], abs=1e-12)


def test_coverage_of_bleu_over_a_known_population() -> None:
    """Of 150 samples of a population, 95 % intervals hold the population's BLEU-4 nearly as often as they say.

    The bounds are 3 standard deviations of that share below .95, less .02 for samples as small as these, and 1.
    """
    hypotheses, references = random_captions(1500, seed=8)
    population = compute_metrics(hypotheses, references, tokenization="whitespace", metrics=["BLEU"])
    generator = np.random.default_rng(2)
    held = 0
    for _ in range(150):
        sample = generator.integers(0, 1500, 200)
        part = Scores(
            {}, {}, "", tuple(map(str, range(200))), (), "ptb", {"BLEU": population.statistics["BLEU"][sample]}
        )
        interval = bootstrap_intervals(part, draws=200)["BLEU-4"]
        held += interval.low <= population.corpus["BLEU-4"] <= interval.high
    assert 0.95 - 3 * math.sqrt(0.95 * 0.05 / 150) - 0.02 <= held / 150 < 1


def test_a_system_does_not_differ_from_itself() -> None:
    hypotheses, references = random_captions(40, seed=1)
    scores = compute_metrics(hypotheses, references, tokenization="whitespace")
    for difference in paired_bootstrap(scores, scores).values():
        assert (difference.value, difference.interval.low, difference.interval.high) == (0, 0, 0)
        assert difference.p_value == 1.0
        assert not difference.real


def test_a_small_gain_on_every_image_is_real_though_the_intervals_overlap() -> None:
    """What pairing is for."""
    values = np.random.default_rng(0).normal(0.4, 0.2, 200)
    first, second = of_values(values), of_values(values + 0.005)
    alone = [bootstrap_intervals(scores)["mean"] for scores in (first, second)]
    assert alone[0].high > alone[1].low
    difference = paired_bootstrap(first, second)["mean"]
    assert difference.real
    assert difference.value == pytest.approx(0.005)
    assert difference.p_value == pytest.approx(2 / (DRAWS + 1))


def test_p_values_of_no_difference_are_uniform() -> None:
    """Under no difference a p-value below .1 comes in about a tenth of the cases (binomial, 4 deviations)."""
    generator = np.random.default_rng(3)
    small = 0
    for _ in range(200):
        first, second = of_values(generator.normal(size=60)), of_values(generator.normal(size=60))
        small += paired_bootstrap(first, second, draws=200)["mean"].p_value < 0.1
    assert abs(small / 200 - 0.1) < 4 * math.sqrt(0.1 * 0.9 / 200)


def test_only_scores_that_both_have_are_compared() -> None:
    values = np.array([0.1, 0.2, 0.3])
    one = of_values(values).with_score("more", values)
    assert paired_bootstrap(one, of_values(values)).keys() == {"mean"}


def test_a_corpus_value_that_is_no_mean_has_no_interval() -> None:
    values = np.array([0.1, 0.2, 0.3])
    scores = of_values(values).with_score("jar", values, corpus=0.25)
    assert scores.corpus["jar"] == 0.25
    assert bootstrap_intervals(scores).keys() == {"mean"}


def test_draws_are_bounded_in_memory_and_the_same_for_every_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = of_values(np.random.default_rng(0).normal(size=50))
    whole = bootstrap_intervals(scores, draws=100, seed=4)
    monkeypatch.setattr("seesay.metrics.bootstrap._CHUNK", 170)  # three draws at once
    assert bootstrap_intervals(scores, draws=100, seed=4) == whole


def test_the_verdict_at_p_of_04_does_not_flip_between_seeds() -> None:
    """With 1,000 draws it does: the standard error of such a p-value is then .009, with 10,000 draws .003."""
    generator = np.random.default_rng(12)
    values, gain = generator.normal(0.4, 0.2, 300), generator.normal(0, 0.1, 300)
    gain += 2.06 * gain.std() / math.sqrt(300) - gain.mean()
    first, second = of_values(values), of_values(values + gain)
    few = [paired_bootstrap(first, second, draws=1000, seed=seed)["mean"] for seed in range(12)]
    usual = [paired_bootstrap(first, second, seed=seed)["mean"] for seed in range(12)]
    assert {difference.real for difference in few} == {True, False}
    assert {difference.real for difference in usual} == {True}


def test_draws_are_scored_without_copies_of_their_rows() -> None:
    """The sums of a draw are those of its rows, for every metric at once and whatever stands beside it."""
    hypotheses, references = random_captions(40, seed=3)
    scores = compute_metrics(hypotheses, references, tokenization="whitespace")
    draws = np.random.default_rng(1).integers(0, 40, (5, 40))
    together = scores.resample(draws)
    assert together.keys() == scores.corpus.keys()
    for place, draw in enumerate(draws):
        alone = scores.resample(draw[None])
        assert all(alone[name][0] == together[name][place] for name in together)
        assert together["CIDEr"][place] == pytest.approx(scores.per_image["CIDEr"][draw].mean(), abs=1e-12)


def test_bad_requests_are_refused() -> None:
    scores = of_values(np.array([0.1, 0.2]))
    with pytest.raises(ConfigError, match="0 bootstrap draws; it must be at least 1"):
        bootstrap_intervals(scores, draws=0)
    with pytest.raises(ConfigError, match="level of 95; it must be between 0 and 1"):
        bootstrap_intervals(scores, level=95)
    with pytest.raises(DataError, match="wants the same images in the same order"):
        paired_bootstrap(scores, of_values(np.array([0.1, 0.2, 0.3])))
    with pytest.raises(DataError, match="x has not one finite value for each of the 2 images"):
        scores.with_score("x", np.array([0.1, math.nan]))
    with pytest.raises(DataError, match="x has not one finite value for each of the 2 images"):
        scores.with_score("x", np.array([0.1]))
