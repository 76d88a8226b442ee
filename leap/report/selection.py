"""The best checkpoint of a run: which one it is, and what it scores on examples that it was not chosen on.

The best of many equally good checkpoints is the luckiest one, so its score on the examples that chose it is too high.
"""

import random
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from leap.errors import LeapError
from leap.evaluation.setting_differences import Difference
from leap.evaluation.settings import without_control
from leap.report.results import TOTAL, dimension_means
from leap.statistics.comparison import holm, paired_permutation
from leap.statistics.intervals import Interval, mean_of_dimensions_interval
from leap.statistics.means import MEAN, score_table
from leap.vlabench.dimensions import NAMES

COLUMNS = ("checkpoints", "best", "chosen_on", "score", "low", "high", "n", "dimensions")
COMPARED = ("difference", "difference_low", "difference_high", "p_holm")
_CHECKPOINT = re.compile(r"(?P<run>(?:.+-)?checkpoint-)(?P<step>\d+)(?P<kind>(?:_.*)?)")


def find_series(models: Iterable[str]) -> dict[str, dict[str, int]]:
    """Run -> model -> step, for every run with three checkpoints or more; a run is named "checkpoint-N" or the like."""
    series: dict[str, dict[str, int]] = {}
    for model in models:
        if match := _CHECKPOINT.fullmatch(model):
            series.setdefault(f"{match['run']}N{match['kind']}", {})[model] = int(match["step"])
    return {run: dict(sorted(steps.items(), key=lambda one: one[1])) for run, steps in series.items() if len(steps) > 2}


def selection_notes(scores: pd.DataFrame, score: str = TOTAL) -> list[str]:
    """A sentence on the best checkpoint of each run in which one could be chosen."""
    means = dimension_means(scores, score)[MEAN].dropna()
    return [
        f"{found.idxmax()} is the best of {len(found)} ({run}, {score} {found.max():.1f}), chosen on the examples that "
        "it is scored on, so that it looks better than it is; draw_evaluation_results.py "
        f"--select_on {score} chooses on one half of them and scores on the other"
        for run, steps in _sweeps(means.index).items()
        for found in [means.loc[list(steps)]]
    ]


def select_checkpoints(
    scores: pd.DataFrame,
    score: str,
    baseline: str | None = None,
    unlike: Mapping[tuple[str, str], Sequence[Difference]] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """A row a run, with `COLUMNS`: its best checkpoint by the mean on one half of the examples, that mean, and the mean
    of the `n` others, of so many dimensions, with its 95 % interval. With a baseline, `COMPARED` too: how far it lies
    above the baseline on those, and p of the paired permutation test, with Holm's correction over the runs, not over
    the checkpoints, which chose on other examples. p is empty where the two were asked or scored in other ways
    (`unlike`).

    Only examples that all of a run's checkpoints have are used; means are of the dimensions that have some in both
    halves. The baseline is no candidate. Raises LeapError where there is no run to choose from, or no half.
    """
    table = score_table(scores, score).dropna(axis="columns", how="all")
    runs = _sweeps(model for model in table.columns if model != baseline)
    if not runs:
        raise LeapError(f"no run has three checkpoints with a {score}: there is none to choose")
    compared = baseline in table.columns
    rows = {run: _select(table[list(steps)].dropna(), run, score, seed) for run, steps in runs.items()}
    if compared:
        for row, held in rows.values():
            refused = any(one.matters for name in NAMES for one in (unlike or {}).get((row["best"], name), ()))
            row |= _compare(held, table[baseline], refused, seed)
    found = pd.DataFrame([row for row, _ in rows.values()], pd.Index(rows, name="run"))
    if compared:
        found["p_holm"] = holm(found["p_holm"])
    return found[[*COLUMNS, *(COMPARED if compared else ())]]


def first_half(index: pd.MultiIndex, seed: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which of the examples (dimension, task, example; sorted) are in the half that is chosen on: half of each task, an
    odd one by chance. It depends on the task's examples and the seed alone."""
    chosen = np.zeros(len(index), dtype=bool)
    places: dict[tuple[str, str], list[int]] = {}
    for place, (dimension, task, _) in enumerate(index):
        places.setdefault((dimension, task), []).append(place)
    for (dimension, task), found in places.items():
        rng = random.Random(f"{seed}/{dimension}/{task}")
        chosen[rng.sample(found, (len(found) + rng.randrange(2)) // 2)] = True
    return chosen


def _sweeps(models: Iterable[str]) -> dict[str, dict[str, int]]:
    """The runs from which somebody would choose: nobody does by how checkpoints do without their images."""
    return {run: steps for run, steps in find_series(models).items() if not without_control(run)[1]}


def _select(known: pd.DataFrame, run: str, score: str, seed: int) -> tuple[dict[str, Any], pd.Series]:
    """The row of a run, and its best checkpoint's scores on the other half."""
    half = first_half(known.index, seed)
    one, other = known[half], known[~half]
    both = [name for name in NAMES if all(name in part.index.unique("dimension") for part in (one, other))]
    if not both:
        raise LeapError(
            f"{run}: too few examples have a {score} of all its checkpoints: there are no two halves of a dimension"
        )
    means = one.groupby(level="dimension").mean().loc[both].mean()
    held = other.loc[both, means.idxmax()]
    found = _interval(held, seed)
    values = (known.shape[1], means.idxmax(), means.max(), found.mean, found.low, found.high, found.n, len(both))
    return dict(zip(COLUMNS, values, strict=True)), held


def _compare(held: pd.Series, baseline: pd.Series, refused: bool, seed: int) -> dict[str, float]:
    differences = (held - baseline.reindex(held.index)).dropna()
    if differences.empty:
        return dict.fromkeys(COMPARED, float("nan"))
    found = _interval(differences, seed)
    # Every dimension weighs alike, as in the mean.
    weighted = differences / differences.groupby(level="dimension").transform("size")
    p = float("nan") if refused else paired_permutation(weighted, np.zeros(len(weighted)), seed=seed)
    return dict(zip(COMPARED, (found.mean, found.low, found.high, p), strict=True))


def _interval(values: pd.Series, seed: int) -> Interval:
    tasks: dict[str, list[Any]] = {}
    for (dimension, _), found in values.groupby(level=["dimension", "task"]):
        tasks.setdefault(dimension, []).append(found.to_numpy())
    return mean_of_dimensions_interval(tasks, seed=seed)
