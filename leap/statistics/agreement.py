"""How far ratings of the same things agree: between repeats, between judges, and with another measure.

Every statistic takes ratings (raters, things) and weights (resamples, things), which say how often each thing was
drawn, and gives one value a resample: a bootstrap is a few matrix products. NaN where a value is not defined. Held to
the libraries krippendorff, statsmodels and scipy by the tests, which compute one value at a time.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from leap.statistics.intervals import LEVEL, Array

RESAMPLES = 1000
_ENOUGH = 0.9  # of the resamples must have a value, or there are no bounds
_CELLS = 1 << 24  # of weights held at once
_NOTHING = 1e-12  # what rounding leaves of a variance of zero

Statistic = Callable[[Array, Array], Array]


class Estimate(NamedTuple):
    """A value between its bounds; NaN where it is not defined. `n` things were rated."""

    value: float
    low: float
    high: float
    n: int


def estimate(
    statistic: Statistic, ratings: ArrayLike, clusters: ArrayLike, seed: int = 0, resamples: int = RESAMPLES
) -> Estimate:
    """A statistic of ratings (raters, things) with its 95 % percentile bootstrap interval.

    Whole clusters are resampled (`clusters` names that of each thing): the samples of a review with all that was rated
    on them, since ratings of plans for one scene are not independent. With few clusters it covers less than it says.
    The bounds are NaN with fewer than two, and where a tenth of the resamples or more have no value.
    """
    table = np.asarray(ratings, dtype=np.float64)
    names, member = np.unique(np.asarray(clusters), return_inverse=True)
    n = table.shape[1]
    value = float(statistic(table, np.ones((1, n)))[0]) if n else np.nan
    if len(names) < 2 or np.isnan(value):
        return Estimate(value, np.nan, np.nan, n)
    rng, chances = np.random.default_rng(seed), np.full(len(names), 1 / len(names))
    drawn = (rng.multinomial(len(names), chances, rows) for rows in _blocks(resamples, n))
    found = np.concatenate([statistic(table, counts[:, member].astype(np.float64)) for counts in drawn])
    found = found[~np.isnan(found)]
    if len(found) < _ENOUGH * resamples:
        return Estimate(value, np.nan, np.nan, n)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(found, [tail, 1 - tail])
    return Estimate(value, float(min(low, value)), float(max(high, value)), n)


def _blocks(resamples: int, n: int) -> list[int]:
    """Numbers of resamples that are computed at once: their weights must fit in memory."""
    step = max(1, _CELLS // n)
    return [min(step, resamples - start) for start in range(0, resamples, step)]


def ordinal_alpha(ratings: Array, weights: Array) -> Array:
    """Krippendorff's alpha (2011) with his metric for ordinal scores of few values; a missing rating is NaN."""
    values = np.unique(ratings[~np.isnan(ratings)])
    counts = (ratings[:, :, None] == values).sum(axis=0).astype(np.float64)  # (things, values)
    raters = counts.sum(axis=1)
    paired = raters >= 2
    counts, weights = counts[paired], weights[:, paired]
    pairs = counts[:, :, None] * counts[:, None, :] - counts[:, :, None] * np.eye(len(values))
    coincidences = weights @ (pairs / (raters[paired] - 1)[:, None, None]).reshape(len(counts), len(values) ** 2)
    coincidences = coincidences.reshape(len(weights), len(values), len(values))
    sums = coincidences.sum(axis=2)
    places = np.cumsum(sums, axis=1) - sums / 2
    distances = (places[:, :, None] - places[:, None, :]) ** 2
    observed = (coincidences * distances).sum(axis=(1, 2))
    expected = (sums[:, :, None] * sums[:, None, :] * distances).sum(axis=(1, 2))
    return 1 - _divided(observed * (sums.sum(axis=1) - 1), expected)


def interval_alpha(ratings: Array, weights: Array) -> Array:
    """Krippendorff's alpha with squared differences."""
    raters = (~np.isnan(ratings)).sum(axis=0)
    paired = raters >= 2
    raters, weights = raters[paired], weights[:, paired]
    sums, squares = (np.nansum(ratings[:, paired] ** power, axis=0) for power in (1, 2))
    observed = weights @ ((raters * squares - sums**2) / (raters - 1))
    n, total, total_squares = (weights @ values for values in (raters, sums, squares))
    return 1 - _divided(observed * (n - 1), n * total_squares - total**2)


def weighted_kappa(ratings: Array, weights: Array) -> Array:
    """Cohen's kappa (1968) with quadratic weights of two raters' scores."""
    (x, y), w = _pairs(ratings, weights)
    observed, x_squared, y_squared, x_mean, y_mean = (w @ values for values in ((x - y) ** 2, x**2, y**2, x, y))
    return 1 - _divided(observed, x_squared + y_squared - 2 * x_mean * y_mean)


def spearman(ratings: Array, weights: Array) -> Array:
    """Spearman's rank correlation of two raters."""
    pairs, w = _pairs(ratings, weights)
    x, y = (_ranks(values, w) for values in pairs)
    x, y = (ranks - (ranks * w).sum(axis=1, keepdims=True) for ranks in (x, y))
    covariance, x_variance, y_variance = ((a * b * w).sum(axis=1) for a, b in ((x, y), (x, x), (y, y)))
    return _divided(covariance, np.sqrt(x_variance * y_variance))


def kendall(ratings: Array, weights: Array) -> Array:
    """Kendall's tau-b of two raters, which allows for ties. It needs memory for every pair of things."""
    (x, y), w = _pairs(ratings, weights)
    x_signs, y_signs = (np.sign(values[:, None] - values[None, :]) for values in (x, y))
    agreeing, x_untied, y_untied = (((w @ m) * w).sum(axis=1) for m in (x_signs * y_signs, x_signs**2, y_signs**2))
    return _divided(agreeing, np.sqrt(x_untied * y_untied))


def _pairs(ratings: Array, weights: Array) -> tuple[Array, Array]:
    """Both raters' scores of what both have rated, and its weights with a sum of 1 in each resample."""
    known = ~np.isnan(ratings).any(axis=0)
    kept = weights[:, known]
    return ratings[:, known], _divided(kept, kept.sum(axis=1, keepdims=True))


def _ranks(values: Array, weights: Array) -> Array:
    """Mid-ranks (resamples, things) of weighted things, as shares of all."""
    _, place = np.unique(values, return_inverse=True)
    sums = weights @ np.eye(place.max(initial=0) + 1)[place]
    return (np.cumsum(sums, axis=1) - sums / 2)[:, place]


def _divided(numerator: Array, denominator: Array) -> Array:
    """NaN where the denominator is zero."""
    return numerator / np.where(denominator > _NOTHING, denominator, np.nan)
