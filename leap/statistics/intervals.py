"""Confidence intervals of mean scores: the percentile bootstrap (Efron & Tibshirani 1993, chapter 13), stratified.

Examples are resampled within each task, because the tasks are the fixed benchmark: the interval says how much a mean
would move if other examples of the same tasks were drawn, not other tasks.

Each task of n examples is resampled n - 1 times with replacement, not n times. The usual form has a variance that is
(n - 1) / n of the right one in every task; n - 1 draws give the right one for the mean (Rao & Wu 1988). Stretching the
deviations by sqrt(n / (n - 1)) does so too, but can leave the scale of the score, below 0 say, and n - 1 draws cannot.
Coverage of the nominal 95 % interval for 8 tasks, 4,000 data sets of scores in {0, 20, 40, 60, 80} (standard error 0.4
points):

| examples a task | scores      | n draws | n - 1 draws | stretched |
|----------------:|-------------|--------:|------------:|----------:|
| 5               | skewed      |  90.5 % |      93.5 % |    93.6 % |
| 10              | skewed      |  93.3 % |      94.3 % |    94.6 % |
| 50              | skewed      |  94.6 % |      94.9 % |    95.0 % |
| 5               | 0 or 80     |  91.2 % |      94.4 % |    94.1 % |
| 10              | 0 or 80     |  93.4 % |      94.7 % |    95.0 % |
| 50              | 0 or 80     |  94.7 % |      95.0 % |    94.7 % |

What it cannot do: with fewer than about 30 examples in all it covers less than it says (2 tasks of 5: 84 %), and so it
does for scores that are nearly always alike (93 % of them 0, 8 tasks of 5: 80 %, of 10: 88 %, of 50: 94 %). Equal
scores in every task give an interval of width 0: the sample does not vary, which does not make the mean certain.

A task with a single example says nothing about its own spread. Such tasks are pooled into one, and a lone one is pooled
with the smallest other task (collapsed strata: Cochran 1977, section 5A.12), which adds the spread between these tasks
(covers 95 % for 48 tasks of one example, 94 % for one of 1 beside seven of 10, 88 % for 8 tasks of one, again few in
all). A single example in all has no interval: its bounds are NaN.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leap.errors import LeapError

Array = NDArray[np.float64]

RESAMPLES = 10_000
LEVEL = 0.95
WITHIN_TASKS = "examples within each task"
BETWEEN_TASKS = "tasks within each dimension"

_CELLS = 1 << 20  # of a resampling table held at once


@dataclass(frozen=True)
class Interval:
    """Bounds of a mean over `n` units; NaN where the units are too few to have any. `resampled` names the units."""

    low: float
    mean: float
    high: float
    n: int
    resamples: int
    resampled: str = WITHIN_TASKS


def mean_interval(
    values_by_task: Sequence[ArrayLike], resamples: int = RESAMPLES, level: float = LEVEL, seed: int = 0
) -> Interval:
    """Interval of the mean over all examples of one dimension, the examples resampled within each task.

    The same values and seed give the same interval. Raises LeapError for a value that is not finite, or none at all.
    """
    return mean_of_dimensions_interval({"": values_by_task}, resamples, level, seed)


def mean_of_dimensions_interval(
    values: Mapping[str, Sequence[ArrayLike]], resamples: int = RESAMPLES, level: float = LEVEL, seed: int = 0
) -> Interval:
    """Interval of the mean of the dimensions' means; every dimension is resampled by itself, within its tasks.

    `n` counts the examples of all dimensions. The bounds are NaN where a dimension has a single example.
    Raises LeapError for a value that is not finite, and for a dimension without any value.
    """
    strata = [_strata(name, tasks) for name, tasks in values.items()]
    if not strata:
        raise LeapError("an interval needs at least one dimension with scores")
    distributions = [
        resampled_means(tasks, resamples, random_stream(seed, position)) for position, tasks in enumerate(strata)
    ]
    mean = np.mean([np.concatenate(tasks).mean() for tasks in strata])
    low, high = bounds(np.mean(distributions, axis=0), np.array([mean]), level)
    n = sum(len(task) for tasks in strata for task in tasks)
    return Interval(float(low[0]), float(mean), float(high[0]), n, resamples)


def between_task_interval(
    task_means: Mapping[str, ArrayLike], resamples: int = RESAMPLES, level: float = LEVEL, seed: int = 0
) -> Interval:
    """One interval over all dimensions together: whole tasks are resampled within each dimension (`n` counts tasks).

    It answers another question than the others, how much the mean would move with other tasks of the same kind, and
    is therefore labelled. It is the interval of the mean over dimensions of the mean over tasks, in which every task
    of a dimension weighs alike. It is given for all dimensions together only: in simulation it covers 94 % for six
    dimensions of 8 tasks (88 % of 2 tasks), and the same for one dimension alone 91 % (50 %).
    The bounds are NaN where a dimension has a single task. Raises LeapError as `mean_of_dimensions_interval` does.
    """
    values = {name: [np.asarray(means, dtype=np.float64)] for name, means in task_means.items()}
    found = mean_of_dimensions_interval(values, resamples, level, seed)
    return Interval(found.low, found.mean, found.high, found.n, resamples, BETWEEN_TASKS)


def student_interval(values: ArrayLike, scale: tuple[float, float] = (-math.inf, math.inf)) -> tuple[float, float]:
    """The 95 % interval of the mean of a few independent values by Student's t, within the scale that they can have:
    the seeds of a method, the samples of a review. Resampling so few covers less than it says, ten samples of a review
    88 to 93 % (benchmarks/review_intervals.py). NaN for one value, and where all are alike, which says nothing.
    """
    found = np.asarray(values, dtype=np.float64)
    if len(found) < 2 or not np.ptp(found) > 1e-9:
        return math.nan, math.nan
    from scipy.stats import sem, t  # which takes a second

    half = float(t.ppf((1 + LEVEL) / 2, len(found) - 1) * sem(found))
    mean = float(found.mean())
    return max(mean - half, scale[0]), min(mean + half, scale[1])


def resampled_means(strata: Sequence[Array], resamples: int, rng: np.random.Generator) -> Array:
    """The bootstrap distribution of the mean, (resamples, columns), from strata of shape (examples, columns).

    All columns see the same draws, so a column's distribution does not depend on what stands beside it. NaN where
    there are fewer than two examples.
    """
    n = sum(map(len, strata))
    means = np.full((resamples, strata[0].shape[1] if strata else 1), np.nan if n < 2 else 0.0)
    for stratum in _collapsed(strata) if n > 1 else []:
        share = len(stratum) / n / (len(stratum) - 1)
        for rows in _blocks(resamples, len(stratum)):
            means[rows] += _draw_counts(rows.stop - rows.start, len(stratum), rng) @ stratum * share
    return means


def bounds(distribution: Array, means: Array, level: float) -> tuple[Array, Array]:
    """The percentile bounds of each column of (resamples, columns); rounding never puts the mean outside of them."""
    tail = (1 - level) / 2
    low, high = np.quantile(distribution, [tail, 1 - tail], axis=0)
    return np.minimum(low, means), np.maximum(high, means)


def random_stream(seed: int, position: int) -> np.random.Generator:
    """Random numbers for the part of a computation at `position`, independent of those for other positions."""
    return np.random.default_rng([seed, position])


def _strata(name: str, values_by_task: Sequence[ArrayLike]) -> list[Array]:
    tasks = [np.asarray(values, dtype=np.float64).reshape(-1, 1) for values in values_by_task]
    tasks = [task for task in tasks if len(task)]
    place = f"dimension {name}: " if name else ""
    if not tasks:
        raise LeapError(f"{place}an interval needs at least one score")
    if not all(np.isfinite(task).all() for task in tasks):
        raise LeapError(f"{place}a score is not a finite number; leave examples without a score out")
    return tasks


def _collapsed(strata: Sequence[Array]) -> list[Array]:
    """Strata of two examples or more: single ones pooled, a lone one pooled with the smallest other."""
    ordered = sorted(strata, key=len)
    single = [stratum for stratum in ordered if len(stratum) == 1]
    if not single:
        return list(strata)
    pooled = max(len(single), 2)
    return [np.concatenate(ordered[:pooled]), *ordered[pooled:]]


def _blocks(resamples: int, n: int) -> Iterator[slice]:
    step = max(1, _CELLS // n)
    return (slice(start, min(start + step, resamples)) for start in range(0, resamples, step))


def _draw_counts(resamples: int, n: int, rng: np.random.Generator) -> Array:
    """How often each of n examples is drawn in n - 1 draws with replacement: (resamples, n)."""
    drawn: NDArray[Any] = rng.integers(0, n, size=(resamples, n - 1))
    drawn += n * np.arange(resamples)[:, None]
    return np.bincount(drawn.ravel(), minlength=resamples * n).reshape(resamples, n).astype(np.float64)
