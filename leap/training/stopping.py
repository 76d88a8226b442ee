"""Early stopping, and which checkpoint is the best: by the validation loss or a score, from the run's own log of it."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

Log = Sequence[dict[str, Any]]  # `log_history` of a Trainer's state
Metric = Literal["loss", "grounded", "total_score"]
BEST: dict[Metric, str] = {
    "loss": "lowest validation loss",
    "grounded": "highest grounded of the benchmark's subset",
    "total_score": "highest total_score of the benchmark's subset",
}


def own_log(log: Log, before: Mapping[str, Any], now: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The log of a run that goes on, where validation losses of other samples than this start's, and scores of other
    examples, have other names: they are neither compared with its own nor the best. `before` and `now` name the samples
    and examples as a checkpoint's marker does."""
    others = {}
    if before.get("held_out", now.get("held_out")) != now.get("held_out"):
        others["eval_loss"] = "eval_loss_of_other_rows"
    if before.get("benchmark") != now.get("benchmark"):
        others |= {f"eval_{name}": f"eval_{name}_of_other_examples" for name in ("grounded", "total_score")}
    return [{others.get(name, name): value for name, value in entry.items()} for entry in log]


def evaluations(log: Log, metric: Metric = "loss") -> dict[int, float]:
    """Step -> what was measured there, in the order of the steps."""
    return {entry["step"]: entry[f"eval_{metric}"] for entry in log if f"eval_{metric}" in entry}


def best_step(log: Log, among: Collection[int] | None = None, metric: Metric = "loss") -> int | None:
    """The step with the lowest loss, or the highest score (the first of equals), of those in `among`; None where none
    is known. A value that is no number is none.
    """
    sign = 1 if metric == "loss" else -1
    values = {
        step: sign * value
        for step, value in evaluations(log, metric).items()
        if math.isfinite(value) and (among is None or step in among)
    }
    return min(values, key=values.__getitem__) if values else None


def has_stopped(log: Log, patience: int | None, metric: Metric = "loss") -> bool:
    """Whether the last `patience` evaluations brought nothing better."""
    steps, best = list(evaluations(log, metric)), best_step(log, metric=metric)
    return patience is not None and best is not None and len(steps) - 1 - steps.index(best) >= patience
