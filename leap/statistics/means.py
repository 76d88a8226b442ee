"""Means with their intervals for every model and dimension, from the table of scores (leap.report.results)."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from leap.errors import LeapError
from leap.statistics.intervals import (
    BETWEEN_TASKS,
    LEVEL,
    RESAMPLES,
    Array,
    between_task_interval,
    bounds,
    random_stream,
    resampled_means,
)
from leap.vlabench.dimensions import NAMES

MEAN = "mean"
"""The row behind the dimensions that holds the mean of their means."""

_KEYS = ["dimension", "task", "example"]


def summarise(
    scores: pd.DataFrame, score: str = "total_score", seed: int = 0, resamples: int = RESAMPLES
) -> pd.DataFrame:
    """Columns model, dimension, mean, low, high (95 %, examples resampled within each task) and n, the examples.

    Each model has a row for every dimension and one for their mean, in the benchmark's order. A dimension that was not
    run is NaN with n = 0, and the mean is NaN unless all six were. Every model sees the same draws. The method:
    leap.statistics.intervals. Raises LeapError as `score_table` does.
    """
    return interval_rows(score_table(scores, score), seed, resamples)


def paired_differences(scores: pd.DataFrame, baseline: str, score: str = "total_score", seed: int = 0) -> pd.DataFrame:
    """`summarise` of each other model's differences from the baseline, on the examples that both have."""
    table = score_table(scores, score)
    return interval_rows(table.drop(columns=baseline).sub(table[baseline], axis=0), seed, RESAMPLES)


def summarise_between_tasks(
    scores: pd.DataFrame, score: str = "total_score", seed: int = 0, resamples: int = RESAMPLES
) -> pd.DataFrame:
    """Columns model, mean, low, high, n (the tasks) and resampled: `between_task_interval`, one row a model.

    NaN unless all six dimensions were run. Raises LeapError as `score_table` does.
    """
    task_means = score_table(scores, score).groupby(level=["dimension", "task"]).mean()
    rows = [_between_tasks(model, task_means[model].dropna(), seed, resamples) for model in task_means.columns]
    return pd.DataFrame(rows, columns=["model", "mean", "low", "high", "n", "resampled"])


def score_table(scores: pd.DataFrame, score: str) -> pd.DataFrame:
    """One row a (dimension, task, example), one column a model, both sorted; NaN where a model has no score.

    Raises LeapError for a score that is not there, a dimension that is not the benchmark's, and an example that stands
    twice.
    """
    if score not in scores.columns:
        known = [column for column in scores.columns if column not in ("model", *_KEYS)]
        raise LeapError(f"there is no score {score!r}; choose from {', '.join(known)}")
    if unknown := sorted(set(scores["dimension"]) - set(NAMES)):
        raise LeapError(f"unknown dimension {unknown[0]!r} in the scores; use one of {', '.join(NAMES)}")
    twice = scores[scores.duplicated([*_KEYS, "model"])]
    if len(twice):
        first = ", ".join(f"{key} {twice.iloc[0][key]}" for key in ("model", *_KEYS))
        raise LeapError(f"an example stands twice in the scores ({first}); keep one of the two")
    return scores.pivot(index=_KEYS, columns="model", values=score).astype("float64").sort_index()


def interval_rows(table: pd.DataFrame, seed: int, resamples: int) -> pd.DataFrame:
    """`summarise` for a table as `score_table` makes it: of scores, or of differences between them."""
    means, counts = by_dimension(table, "mean"), by_dimension(table, "count")
    total = np.zeros((resamples, len(table.columns)))
    rows = []
    for position, name in enumerate(NAMES):
        distribution = _distribution(
            table[table.index.get_level_values("dimension") == name], seed, position, resamples
        )
        rows.append(_rows(name, means.loc[name], distribution, counts.loc[name]))
        total += distribution / len(NAMES)
    rows.append(_rows(MEAN, means.mean(skipna=False), total, counts.sum()))
    found = pd.concat(rows, ignore_index=True)
    # Rows come dimension by dimension: a stable sort by model keeps the benchmark's order within each.
    return found.sort_values("model", kind="stable", ignore_index=True)


def by_dimension(table: pd.DataFrame, statistic: str) -> pd.DataFrame:
    """Dimensions in rows, models in columns: the "mean" or the "count" of the scores; NaN or 0 where there is none."""
    found = table.groupby(level="dimension").agg(statistic).reindex(list(NAMES))
    return found.fillna(0).astype(int) if statistic == "count" else found


def _rows(name: str, means: pd.Series, distribution: Array, counts: pd.Series) -> pd.DataFrame:
    low, high = bounds(distribution, means.to_numpy(), LEVEL)
    columns = {"dimension": name, "mean": means.to_numpy(), "low": low, "high": high, "n": counts.to_numpy()}
    return pd.DataFrame({"model": means.index, **columns})


def _distribution(table: pd.DataFrame, seed: int, position: int, resamples: int) -> Array:
    """Each model's resampled means of one dimension, (resamples, models). Models that have the same examples are
    resampled at once, by a matrix product."""
    values: Array = table.to_numpy()
    tasks: NDArray[Any] = table.index.get_level_values("task").to_numpy()
    means = np.full((resamples, values.shape[1]), np.nan)
    scored, alike = np.unique(~np.isnan(values), axis=1, return_inverse=True)
    for pattern in range(scored.shape[1]):
        rows, columns = np.flatnonzero(scored[:, pattern]), np.flatnonzero(alike == pattern)
        starts = np.flatnonzero(tasks[rows][1:] != tasks[rows][:-1]) + 1
        strata = np.split(values[np.ix_(rows, columns)], starts)
        means[:, columns] = resampled_means(strata, resamples, random_stream(seed, position))
    return means


def _between_tasks(model: str, task_means: pd.Series, seed: int, resamples: int) -> dict[str, Any]:
    found = {name: part.to_numpy() for name, part in task_means.groupby(level="dimension")}
    row = {"model": model, "mean": np.nan, "low": np.nan, "high": np.nan, "n": len(task_means)}
    if len(found) == len(NAMES):
        interval = between_task_interval({name: found[name] for name in NAMES}, resamples, seed=seed)
        row |= {"mean": interval.mean, "low": interval.low, "high": interval.high}
    return {**row, "resampled": BETWEEN_TASKS}
