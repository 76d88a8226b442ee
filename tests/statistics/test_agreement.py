"""Agreement and the sign test against the libraries that compute one value at a time."""

import math

import krippendorff
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.inter_rater import cohens_kappa

from leap.statistics.agreement import (
    Statistic,
    estimate,
    interval_alpha,
    kendall,
    ordinal_alpha,
    spearman,
    weighted_kappa,
)
from leap.statistics.sign_test import power_sentence, sign_test, wins_needed

scores = st.integers(1, 5).map(float)
two_raters = st.lists(st.tuples(scores, scores), min_size=2, max_size=12).map(lambda rows: np.array(rows).T)
gappy = st.lists(st.tuples(*[st.one_of(scores, st.just(float("nan")))] * 3), min_size=2, max_size=12).map(
    lambda rows: np.array(rows).T
)


def one(statistic: Statistic, ratings: np.ndarray) -> float:
    return float(statistic(ratings, np.ones((1, ratings.shape[1])))[0])


@given(gappy)
def test_alpha_is_the_librarys(ratings: np.ndarray) -> None:
    paired = ratings[:, (~np.isnan(ratings)).sum(axis=0) >= 2]
    for level, statistic in (("ordinal", ordinal_alpha), ("interval", interval_alpha)):
        if paired.size == 0 or np.nanmax(paired) == np.nanmin(paired):
            assert np.isnan(one(statistic, ratings))
        else:
            known = krippendorff.alpha(reliability_data=paired, level_of_measurement=level)
            assert one(statistic, ratings) == pytest.approx(known, abs=1e-9)


@given(two_raters)
def test_kappa_and_rank_correlations_are_the_libraries(ratings: np.ndarray) -> None:
    x, y = ratings
    counts = np.zeros((5, 5))
    np.add.at(counts, (x.astype(int) - 1, y.astype(int) - 1), 1)
    kappa = one(weighted_kappa, ratings)
    if len(set(x) | set(y)) == 1:
        assert np.isnan(kappa)
    else:
        assert kappa == pytest.approx(cohens_kappa(counts, wt="quadratic", return_results=False), abs=1e-9)
    constant = len(set(x)) == 1 or len(set(y)) == 1
    for statistic, known in ((spearman, stats.spearmanr), (kendall, stats.kendalltau)):
        if constant:
            assert np.isnan(one(statistic, ratings))
        else:
            assert one(statistic, ratings) == pytest.approx(known(x, y).statistic, abs=1e-9)


@pytest.mark.parametrize("statistic", [ordinal_alpha, interval_alpha, weighted_kappa, spearman, kendall])
def test_a_weight_means_so_many_of_the_same_thing(statistic: Statistic) -> None:
    rng = np.random.default_rng(0)
    ratings, weights = rng.integers(1, 6, (2, 9)).astype(float), rng.integers(0, 4, (20, 9))
    ratings[0, 3] = np.nan
    expected = [one(statistic, np.repeat(ratings, row, axis=1)) for row in weights]
    assert statistic(ratings, weights.astype(float)) == pytest.approx(np.array(expected), abs=1e-9)


def test_an_interval_holds_its_value_and_widens_with_fewer_clusters() -> None:
    rng = np.random.default_rng(1)
    first = rng.integers(1, 6, 200).astype(float)
    ratings = np.stack([first, np.clip(first + rng.integers(-1, 2, 200), 1, 5)])
    many = estimate(ordinal_alpha, ratings, np.arange(200))
    few = estimate(ordinal_alpha, ratings, np.arange(200) // 50)
    assert many.low < many.value < many.high
    assert many.value == few.value
    assert many.n == 200
    assert estimate(ordinal_alpha, ratings, np.arange(200)) == many
    alone = estimate(ordinal_alpha, ratings, np.zeros(200))
    assert np.isnan(alone.low)
    assert alone.value == many.value


def test_an_interval_covers_what_it_says() -> None:
    """150 data sets of 40 things: the interval of alpha holds the value of the whole population, nearly always."""
    rng = np.random.default_rng(2)

    def drawn(n: int) -> np.ndarray:
        first = rng.integers(1, 6, n)
        return np.stack([first, np.clip(first + rng.integers(-2, 3, n), 1, 5)]).astype(float)

    truth = one(interval_alpha, drawn(200_000))
    found = [estimate(interval_alpha, drawn(40), np.arange(40), seed, 300) for seed in range(150)]
    assert np.mean([interval.low <= truth <= interval.high for interval in found]) > 0.88


def test_nothing_to_compare_has_no_value() -> None:
    for statistic in (ordinal_alpha, weighted_kappa, spearman, kendall):
        assert np.isnan(estimate(statistic, np.empty((2, 0)), []).value)
        assert np.isnan(estimate(statistic, np.full((2, 3), np.nan), [0, 1, 2]).value)


@given(st.integers(0, 60), st.integers(0, 60))
def test_the_sign_test_is_exact(wins: int, losses: int) -> None:
    n, most = wins + losses, max(wins, losses)
    at_least = sum(math.comb(n, k) for k in range(most, n + 1)) / 2**n
    assert sign_test(wins, losses) == pytest.approx(min(1.0, 2 * at_least))


def test_thousands_of_samples_are_no_trouble() -> None:
    needed = wins_needed(16812)
    assert needed is not None
    assert stats.binomtest(needed, 16812).pvalue < 0.05 <= stats.binomtest(needed - 1, 16812).pvalue
    ratings = np.random.default_rng(0).integers(1, 6, (3, 20_000)).astype(float)
    assert estimate(interval_alpha, ratings, np.arange(20_000), resamples=50).value == pytest.approx(0, abs=0.02)


def test_what_ten_samples_can_show() -> None:
    assert wins_needed(10) == 9
    assert wins_needed(5) is None
    assert sign_test(8, 2) > 0.05
    assert "9 wins of 10" in power_sentence(10)
    power = 1 - stats.binom.cdf(8, 10, 0.7)
    assert f"{power:.0%} of such reviews" in power_sentence(10)
    assert "no sign test can reach" in power_sentence(4)
