"""A model against a baseline on the same examples: paired permutation test, effect size, Holm's correction.

In simulation, with scores in {0, 20, 40, 60, 80} from one skewed distribution for both, 2,000 data sets each, the test
at 0.05 calls 2.3 % of the data sets of 10 pairs significant, 4.7 % of those of 40 and 4.0 % of those of 400.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from leap.errors import LeapError
from leap.statistics.intervals import LEVEL, RESAMPLES, Array, random_stream
from leap.statistics.means import MEAN, by_dimension, interval_rows, score_table
from leap.vlabench.dimensions import NAMES

PERMUTATIONS = 10_000
ALPHA = 0.05
FAMILY_ALPHA = ALPHA / 2  # the dimensions and the means are two families: all daggers of a table share ALPHA
_RESOLUTION = 20  # how many times finer than Holm's strictest threshold a p-value is to be resolved
_SMALL = 0.01  # up to this p-value more permutations are drawn: others decide nothing
EXACT = 14
"""Up to so many differences that are not zero, all 2 ** n sign flips are enumerated."""

TIE = 1e-9
"""Scores that are less than this apart are equal: the same scores summed in another order differ by some 1e-15."""

COLUMNS = (
    *("model", "baseline", "dimension", "pairs", "unpaired", "mean_model", "mean_baseline", "difference", "low"),
    *("high", "p", "p_holm", "d_z", "better", "worse", "significant"),
)

_BYTE_SIGNS = 1.0 - 2.0 * np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)  # (byte, its 8 signs)


class EffectSize(NamedTuple):
    """Cohen's d_z, and the shares of examples (0 to 1) on which the first is better, equal and worse."""

    d_z: float
    better: float
    equal: float
    worse: float


def compare(scores: pd.DataFrame, model: str, baseline: str, score: str = "total_score", seed: int = 0) -> pd.DataFrame:
    """A row for each dimension and one for the mean of the dimensions' means, in the benchmark's order (`COLUMNS`).

    Only examples that both models have, by dimension, task and name, are paired, and all figures but `unpaired` (those
    that one of the two has) are of the pairs. `low` and `high` are the 95 % interval of the paired difference, examples
    resampled within each task. `p` is `paired_permutation`'s. `p_holm` corrects it over the dimensions; the mean is one
    test of its own and keeps its p. In the row of the mean every dimension weighs alike, in the test, `d_z` and the
    shares too, and all is NaN unless all six dimensions have pairs. Only a dimension that is
    `significant` (p_holm below 0.025: dimensions and means share 5 %) should be called better or worse.
    Raises LeapError for a model without scores, and as `score_table` does.
    """
    table = score_table(scores, score).dropna(axis="columns", how="all")  # of repeated models only, say
    return _compare(table, [_known(table, model)], _known(table, baseline), seed)


def compare_all(scores: pd.DataFrame, baseline: str, score: str = "total_score", seed: int = 0) -> pd.DataFrame:
    """`compare` for every other model, sorted by name, with the same figures but for `p_holm`: whoever looks for a
    dagger looks at all models, so Holm's correction is over models x dimensions, and that of the means over the
    models. Where so many tests ask for it, small p-values are of more permutations."""
    table = score_table(scores, score)
    others = [model for model in table.columns if model != _known(table, baseline)]
    return _compare(table, others, baseline, seed)


def paired_permutation(a: ArrayLike, b: ArrayLike, permutations: int = PERMUTATIONS, seed: int = 0) -> float:
    """Two-sided p-value of the mean difference of paired values, by flipping the signs of the differences.

    Under the null hypothesis a and b are exchangeable within each pair (Fisher 1935, section 21; Good 2005). With at
    most 14 differences that are not zero all flips are enumerated and p is exact. Beyond that p is
    (k + 1) / (permutations + 1) for k random flips at least as extreme, which keeps the test valid and p above 0
    (Phipson & Smyth 2010). 1 where no pair differs. Raises LeapError for values that are not paired or not finite.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.ndim != 1 or first.shape != second.shape or not len(first):
        raise LeapError(f"a paired test needs two equally long lists of scores, not {first.shape} and {second.shape}")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise LeapError("a paired test needs finite scores; leave pairs without a score out")
    return _sign_flip_p(first - second, permutations, np.random.default_rng(seed))


def holm(p_values: ArrayLike) -> Array:
    """Holm's step-down adjusted p-values (Holm 1979), in the given order. NaN stays NaN and counts as no test."""
    p = np.asarray(p_values, dtype=np.float64)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted = np.full(p.shape, np.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(factors * p[order]), 1.0)
    return adjusted


def effect_size(differences: ArrayLike, weights: ArrayLike | None = None) -> EffectSize:
    """Cohen's d_z of paired differences: their mean by their standard deviation, n - 1 in its denominator (Cohen 1988,
    section 2.3.5). NaN where all differences are equal. `weights` say how much a pair counts."""
    d = without_rounding(differences)
    if not len(d):
        return EffectSize(np.nan, np.nan, np.nan, np.nan)
    w = np.full(len(d), 1 / len(d)) if weights is None else np.asarray(weights, dtype=np.float64) / np.sum(weights)
    mean = w @ d
    std = np.sqrt(w @ (d - mean) ** 2 * len(d) / (len(d) - 1)) if np.ptp(d) >= TIE else np.nan
    return EffectSize(float(mean / std), float(w @ (d > 0)), float(w @ (d == 0)), float(w @ (d < 0)))


def without_rounding(differences: ArrayLike) -> Array:
    """The differences, those below `TIE` as the zeros that they would be without rounding."""
    d = np.asarray(differences, dtype=np.float64)
    return np.where(np.abs(d) < TIE, 0.0, d)


def _compare(table: pd.DataFrame, models: list[str], baseline: str, seed: int) -> pd.DataFrame:
    if not models:
        return pd.DataFrame(columns=list(COLUMNS))
    differences = table[models].sub(table[baseline], axis=0)
    rows = interval_rows(differences, seed, RESAMPLES).rename(columns={"mean": "difference", "n": "pairs"})
    means = pd.concat([_means(table, model, baseline).assign(model=model, baseline=baseline) for model in models])
    for found in (means.rename_axis("dimension").reset_index(), verdicts(differences, seed)):
        rows = rows.merge(found, on=["model", "dimension"], validate="1:1")
    return rows[list(COLUMNS)]


def verdicts(differences: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """The tests of `compare_all`, for a table of differences (examples in rows as `score_table` has them, a column a
    model): columns model, dimension, p, p_holm, significant, d_z, better and worse."""
    tests = pd.concat([_tests(differences[one], seed, differences.shape[1]).assign(model=one) for one in differences])
    return _corrected(tests.rename_axis("dimension").reset_index())


class RunDifference(NamedTuple):
    """How far one method's runs lie above another's: the difference of their means, its 95 % interval, and p."""

    difference: float
    low: float
    high: float
    p: float


def run_difference(ours: Sequence[float], theirs: Sequence[float]) -> RunDifference:
    """Welch's t-test of two methods' independently trained runs (Welch 1947): a method is what its seeds have in
    common, so the runs are the sample, however many examples each was evaluated on. All but the difference are NaN
    where one of the two has a single run, which says nothing of its spread, or where neither has any spread."""
    difference = fmean(ours) - fmean(theirs)
    if min(len(ours), len(theirs)) < 2 or (np.ptp(ours) < TIE and np.ptp(theirs) < TIE):
        return RunDifference(difference, math.nan, math.nan, math.nan)
    from scipy.stats import ttest_ind  # which takes a second

    with warnings.catch_warnings():  # the runs of one may be alike, which is no loss of precision
        warnings.filterwarnings("ignore", "Precision loss", RuntimeWarning)
        found = ttest_ind(ours, theirs, equal_var=False)
    low, high = found.confidence_interval(LEVEL)
    return RunDifference(difference, float(low), float(high), float(found.pvalue))


def run_verdicts(runs: Mapping[str, pd.DataFrame], method: str) -> pd.DataFrame:
    """`run_difference` of a method and each other one, from {method: a row a run, `NAMES` and "mean" in columns}.

    Columns baseline, dimension, seed_low, seed_high, p, p_holm (of the mean over the others, of the dimensions over
    others and dimensions together) and significant.
    """
    tests = pd.DataFrame(
        [
            (other, name, *run_difference(runs[method][name].tolist(), scores[name].tolist())[1:])
            for other, scores in runs.items()
            if other != method
            for name in (*NAMES, MEAN)
        ],
        columns=["baseline", "dimension", "seed_low", "seed_high", "p"],
    )
    return _corrected(tests)


def _corrected(tests: pd.DataFrame) -> pd.DataFrame:
    """Tests of dimensions and of means with p_holm, within each of the two families, and significant."""
    of_mean = tests["dimension"] == MEAN
    p_holm = tests["p"].astype("float64")
    for family in (of_mean, ~of_mean):
        p_holm[family] = holm(p_holm[family])
    return tests.assign(p_holm=p_holm, significant=p_holm < FAMILY_ALPHA)


def _known(table: pd.DataFrame, model: str) -> str:
    if model not in table.columns:
        raise LeapError(f"{model}: no such scores of this model; there are {', '.join(table.columns) or 'none at all'}")
    return model


def _means(table: pd.DataFrame, model: str, baseline: str) -> pd.DataFrame:
    """Means over the pairs, and the number of examples that only one of the two has; `NAMES` and "mean" in rows."""
    both = pd.DataFrame({"mean_model": table[model], "mean_baseline": table[baseline]})
    means = by_dimension(both.dropna(), "mean")
    means.loc[MEAN] = means.mean(skipna=False)
    alone = both.notna().sum(axis=1).eq(1).groupby(level="dimension").sum().reindex(list(NAMES), fill_value=0)
    return means.assign(unpaired=[*alone, alone.sum()])


def _tests(differences: pd.Series, seed: int, models: int) -> pd.DataFrame:
    """p, d_z, better and worse of one of so many models; `NAMES` and "mean" in rows."""
    pairs = differences.dropna()
    dimensions = pairs.index.get_level_values("dimension")
    found = [pairs[dimensions == name].to_numpy() for name in NAMES]
    p = [_resolved_p(d, models * len(NAMES), seed, position) for position, d in enumerate(found)]
    effects = [effect_size(d) for d in found]
    together, weights = np.concatenate(found), np.concatenate([np.full(len(d), 1 / max(len(d), 1)) for d in found])
    if not all(map(len, found)):
        together = weights = together[:0]
    p.append(_resolved_p(together * weights, models, seed, len(NAMES)))
    rows = pd.DataFrame([*effects, effect_size(together, weights)], index=[*NAMES, MEAN]).drop(columns="equal")
    return rows.assign(p=p)


def _resolved_p(differences: Array, family: int, seed: int, position: int) -> float:
    """p of a test among `family`: Holm compares the smallest with `FAMILY_ALPHA` / family, which 10,000 permutations
    resolve too coarsely where the family is large. Small p-values are drawn anew, with more. The test stays valid: p
    at most a, for a below `_SMALL`, needs the second draw to be at most a, which has a chance of a under the null."""
    p = _sign_flip_p(differences, PERMUTATIONS, random_stream(seed, position))
    needed = math.ceil(_RESOLUTION * family / FAMILY_ALPHA)
    if p > _SMALL or needed <= PERMUTATIONS or np.count_nonzero(without_rounding(differences)) <= EXACT:
        return p
    return _sign_flip_p(differences, needed, random_stream(seed, len(NAMES) + 1 + position))


def _sign_flip_p(differences: Array, permutations: int, rng: np.random.Generator) -> float:
    """p-value of the sum of the differences; NaN where there is none."""
    if not len(differences):
        return np.nan
    moved = without_rounding(differences)
    moved = moved[moved != 0]
    # A flip that gives the same sum in another order of addition counts as extreme: rounding must not decide.
    threshold = abs(moved.sum()) - 1e-9 * np.abs(moved).sum()
    if len(moved) <= EXACT:
        return float(np.mean(np.abs(_all_flips(moved)) >= threshold))
    extreme = np.count_nonzero(np.abs(_random_flips(moved, permutations, rng)) >= threshold)
    return (extreme + 1) / (permutations + 1)


def _all_flips(differences: Array) -> Array:
    """The sums under all 2 ** n assignments of signs."""
    n = len(differences)
    flipped: NDArray[Any] = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
    return (1.0 - 2.0 * flipped) @ differences


def _random_flips(differences: Array, permutations: int, rng: np.random.Generator) -> Array:
    """The sums under random signs. Eight differences share a random byte, whose 256 possible sums are looked up."""
    padded = np.pad(differences, (0, -len(differences) % 8)).reshape(-1, 8)
    sums = np.zeros(permutations)
    for possible in padded @ _BYTE_SIGNS.T:
        sums += possible[rng.integers(0, 256, size=permutations, dtype=np.uint8)]
    return sums
