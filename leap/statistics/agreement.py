"""How far ratings of the same things agree: between repeats, between judges, and with another measure.

Intervals are percentile bootstrap intervals (95 %). What is resampled are clusters, the samples of a review with all
that was rated on them, since ratings of plans for one scene are not independent. With few clusters such an interval is
a rough guide: it covers less than it says.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leap.errors import LeapError
from leap.statistics.intervals import LEVEL, Array

RESAMPLES = 1000
_ENOUGH = 0.9  # of the resamples must have a value, or there are no bounds


class Estimate(NamedTuple):
    """A value between its bounds; NaN where it is not defined. `n` things were rated."""

    value: float
    low: float
    high: float
    n: int


def krippendorff_alpha(ratings: ArrayLike, level: str = "ordinal") -> float:
    """Krippendorff's alpha (2011) of ratings (raters, things), NaN where one is missing. `level`: ordinal, interval, …

    NaN where it is not defined: with fewer than two ratings of anything, or all ratings alike.
    """
    import krippendorff

    table = np.asarray(ratings, dtype=np.float64)
    paired = table[:, np.count_nonzero(~np.isnan(table), axis=0) >= 2]
    known = paired[~np.isnan(paired)]
    if not len(known) or np.ptp(known) == 0:
        return float("nan")
    return float(krippendorff.alpha(reliability_data=paired, level_of_measurement=level))  # type: ignore[arg-type]


def weighted_kappa(one: ArrayLike, other: ArrayLike, categories: Sequence[int] = (1, 2, 3, 4, 5)) -> float:
    """Cohen's kappa (1968) with quadratic weights of two raters' scores of the same things; pairs with NaN are left
    out. NaN where it is not defined: without pairs, or where both always gave one and the same score."""
    first, second = _paired(one, other)
    if not len(first):
        return float("nan")
    values = np.asarray(categories, dtype=np.float64)
    if not (np.isin(first, values).all() and np.isin(second, values).all()):
        raise LeapError(f"weighted kappa: a score that is none of {', '.join(map(str, categories))}")
    observed = np.mean((first - second) ** 2)
    expected = np.mean((first[:, None] - second[None, :]) ** 2)
    return float("nan") if expected == 0 else float(1 - observed / expected)


def spearman(one: ArrayLike, other: ArrayLike) -> float:
    """Spearman's rank correlation; NaN where one of the two does not vary."""
    from scipy.stats import spearmanr

    return _rank_correlation(spearmanr, one, other)


def kendall(one: ArrayLike, other: ArrayLike) -> float:
    """Kendall's tau-b, which allows for ties; NaN where one of the two does not vary."""
    from scipy.stats import kendalltau

    return _rank_correlation(kendalltau, one, other)


def estimate(
    statistic: Callable[..., float], ratings: ArrayLike, clusters: ArrayLike, seed: int = 0, resamples: int = RESAMPLES
) -> Estimate:
    """`statistic(*ratings)` of ratings (raters, things) with its interval, whole clusters of things resampled.

    `clusters` names the cluster of each thing. The bounds are NaN where the statistic is undefined in a tenth of the
    resamples or more, and with fewer than two clusters.
    """
    table, labels = np.asarray(ratings, dtype=np.float64), np.asarray(clusters)
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    value, n = statistic(*table), table.shape[1]
    if len(members) < 2 or np.isnan(value):
        return Estimate(value, np.nan, np.nan, n)
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, len(members), size=(resamples, len(members)))
    found = np.array([statistic(*table[:, np.concatenate([members[k] for k in draw])]) for draw in draws])
    found = found[~np.isnan(found)]
    if len(found) < _ENOUGH * resamples:
        return Estimate(value, np.nan, np.nan, n)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(found, [tail, 1 - tail])
    return Estimate(value, float(min(low, value)), float(max(high, value)), n)


def alpha_of(level: str) -> Callable[..., float]:
    """`krippendorff_alpha` as a statistic of `estimate`."""
    return lambda *raters: krippendorff_alpha(np.stack(raters), level)


def _rank_correlation(function: Callable[..., object], one: ArrayLike, other: ArrayLike) -> float:
    first, second = _paired(one, other)
    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    return float(function(first, second).statistic)  # type: ignore[attr-defined]


def _paired(one: ArrayLike, other: ArrayLike) -> tuple[Array, Array]:
    first, second = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    known: NDArray[np.bool_] = ~(np.isnan(first) | np.isnan(second))
    return first[known], second[known]
