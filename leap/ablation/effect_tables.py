"""What an ablation found, as tables: a row a run, a row a method, and what full fine-tuning gains over each preset.

A run's scores are the evaluation's. A method's are the means of its seeds, example by example, so that intervals over
examples and over tasks are those of the mean of its seeds; the interval over seeds is Student's.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd

from leap.ablation.ablation_plan import PlannedRun
from leap.ablation.runs import FULL, label
from leap.ablation.stages import Places, evaluated_models
from leap.errors import LeapError
from leap.evaluation.manifest import read_manifest
from leap.models.checkpoints import MARKER, adapter_base, is_same_model, small_files, weight_files, weights_hash
from leap.report.curves import Loss, read_loss
from leap.report.results import (
    dimension_means,
    read_counts,
    read_scores,
    unlike_note,
    unlike_settings,
    unlike_settings_note,
)
from leap.statistics.comparison import compare, run_verdicts
from leap.statistics.intervals import student_interval
from leap.statistics.means import MEAN, summarise, summarise_between_tasks
from leap.training.training_report import read_report
from leap.vlabench.dimensions import DIMENSIONS, NAMES
from leap.vlabench.grounding import GROUNDED

BASE = "base model"
SCORE = "total_score"
COSTS = ("weights", "hours", "megabytes")


@dataclass(frozen=True)
class Outcome:
    """One checkpoint of a run. None: not known, since the run is missing."""

    method: str  # as a person reads it
    run: str
    seed: int
    step: int
    model: str  # the name of its results
    weights: int  # that learn
    share: float  # of all weights, in percent
    hours: float | None  # of one device, times the ranks
    megabytes: float | None  # of the weights in the checkpoint
    device: str | None
    loss: Loss | None
    state: str  # complete, incomplete, not evaluated, not trained


@dataclass(frozen=True)
class Findings:
    """Every checkpoint that was asked for, in the order of the methods; the scores of those that have some."""

    outcomes: list[Outcome]
    scores: pd.DataFrame  # leap.report.results.read_scores, the base model's under `base`
    means: pd.DataFrame  # models x dimensions and "mean"; NaN where a dimension was not run
    base: str  # the base model's name in the scores
    base_state: str
    notes: list[str] = field(default_factory=list)  # on results that were made otherwise than the others
    alike: bool = True  # whether nothing but the models can have made a difference
    grounded: pd.DataFrame = field(default_factory=pd.DataFrame)  # as means, of what does not come without looking

    @property
    def methods(self) -> list[str]:
        return list(dict.fromkeys(one.method for one in self.outcomes))

    def last(self, method: str) -> list[Outcome]:
        """The last checkpoint of each of a method's runs."""
        step = max(one.step for one in self.outcomes)
        return [one for one in self.outcomes if one.method == method and one.step == step]

    def scored(self, method: str) -> list[Outcome]:
        """Those with a score on all six dimensions."""
        return [one for one in self.last(method) if not math.isnan(self.mean(one.model))]

    def mean(self, model: str, dimension: str = MEAN) -> float:
        return float(self.means.loc[model, dimension]) if model in self.means.index else math.nan

    def grounded_mean(self, model: str) -> float:
        return float(self.grounded.loc[model, MEAN]) if model in self.grounded.index else math.nan

    @property
    def missing(self) -> list[str]:
        """Each checkpoint without complete results, and why."""
        found = [f"{one.model}: {one.state}" for one in self.outcomes if one.state != "complete"]
        return [*found, *([f"{BASE}: {self.base_state}"] if self.base_state != "complete" else [])]


def collect(planned: Sequence[PlannedRun], places: Places) -> Findings:
    """Read what training and evaluation left; nothing is computed anew. Results of other models are left out."""
    root, results = planned[0].run.root, places.results
    (base,) = places.named([planned[0].run.model])
    models = [
        name for name, folder in evaluated_models(planned, places).items() if _are_of(results, name, folder, root)
    ]
    counts, scores = read_counts(results, models), read_scores(results, models) if models else pd.DataFrame()
    if scores.empty:
        scores = pd.DataFrame(columns=["dimension", "model", "task", "example", SCORE])
    means, grounded = (
        dimension_means(scores, score, models) if models and score in scores else pd.DataFrame(columns=[*NAMES, MEAN])
        for score in (SCORE, GROUNDED)
    )
    outcomes = [
        _outcome(one, step, next(iter(places.named([one.checkpoint(step)]))), counts)
        for one in planned
        for step in one.steps
    ]
    notes = [note for note in (unlike_note(scores, base), unlike_settings_note(results, models, base)) if note]
    alike = not any(one.matters for found in unlike_settings(results, models, base).values() for one in found)
    return Findings(outcomes, scores, means, base, _evaluated(base, counts), notes, alike, grounded)


def _are_of(results: Path, name: str, folder: Path, root: Path) -> bool:
    """Whether there are results, all of them of this model, and not of another that once had its name."""
    found = [made for dimension in DIMENSIONS if (made := read_manifest(results / dimension.name / name))]
    try:
        base = adapter_base(folder, root)
        model = weights_hash(folder, base), small_files(folder, base)
    except LeapError:  # the evaluation says what is wrong with it
        return False
    return bool(found) and all(is_same_model(made.get("model", {}), *model) for made in found)


def _outcome(one: PlannedRun, step: int, model: str, counts: pd.DataFrame) -> Outcome:
    folder, trained = one.checkpoint(step), (one.checkpoint(step) / MARKER).is_file()
    report = read_report(one.run.output)
    return Outcome(
        method=label(one.ablation.method),
        run=one.ablation.name,
        seed=one.ablation.seed,
        step=step,
        model=model,
        weights=one.costs.trained,
        share=100 * one.share,
        hours=_hours(report, step) if trained else None,
        megabytes=sum(file.stat().st_size for file in weight_files(folder)) / 1e6 if trained else None,
        device=report.get("environment", {}).get("device"),
        loss=read_loss(one.run.output) if trained else None,
        state=_evaluated(model, counts) if trained else "not trained",
    )


def _hours(report: dict[str, Any], step: int) -> float | None:
    """Of training up to `step`, as the report of its speed has it; what a kill lost is not in it."""
    sessions = report.get("throughput", {}).get("sessions", [])
    steps, seconds = (sum(session[name] for session in sessions) for name in ("steps", "seconds"))
    return seconds / steps * step * report["environment"].get("processes", 1) / 3600 if steps else None


def _evaluated(model: str, counts: pd.DataFrame) -> str:
    rows = counts[counts["model"] == model]
    if rows.empty:
        return "not evaluated"
    whole = len(rows) == len(NAMES) and bool((rows["examples"] == rows["scored"]).fillna(False).all())
    return "complete" if whole else "incomplete"


def run_table(findings: Findings) -> pd.DataFrame:
    """A row a checkpoint: seed, what it cost, its score on each dimension. What is missing is empty."""
    rows = [
        {
            "method": one.method,
            "run": one.run,
            "seed": one.seed,
            "step": one.step,
            "state": one.state,
            "weights": one.weights,
            "share_percent": one.share,
            "hours": one.hours,
            "megabytes": one.megabytes,
            "last_loss": _last_loss(one),
            **{name: findings.mean(one.model, name) for name in (*NAMES, MEAN)},
            GROUNDED: findings.grounded_mean(one.model),
        }
        for one in findings.outcomes
    ]
    return pd.DataFrame(rows).astype(dict.fromkeys(("hours", "megabytes", "last_loss"), "float64"))


def _last_loss(one: Outcome) -> float | None:
    """The mean of the last tenth of the logged training losses."""
    values = [loss for step, loss in sorted(one.loss.training.items()) if step <= one.step] if one.loss else []
    return fmean(values[-max(1, len(values) // 10) :]) if values else None


def method_scores(findings: Findings) -> pd.DataFrame:
    """`read_scores` with a method in each model's place: the mean over its seeds of every example that all of them
    have. Methods without a seed that was scored on all six dimensions are left out."""
    parts = [findings.scores[findings.scores["model"] == findings.base].assign(model=BASE)]
    for method in findings.methods:
        models = [one.model for one in findings.scored(method)]
        own = findings.scores[findings.scores["model"].isin(models)]
        groups = own.groupby(["dimension", "task", "example"])[SCORE].agg(["mean", "count"])
        whole = groups[groups["count"] == len(models)] if models else groups
        parts.append(whole["mean"].rename(SCORE).reset_index().assign(model=method))
    return pd.concat([part for part in parts if len(part)] or parts[:1])[[*parts[0].columns[:4], SCORE]]


def dimension_table(findings: Findings) -> pd.DataFrame:
    """Method x dimension (and "mean"), long: mean, its interval over examples, over seeds, and over tasks (of "mean").

    A method that is missing has its rows, and NaN in them.
    """
    scores = method_scores(findings)
    found = summarise(scores, SCORE).set_index(["model", "dimension"]) if len(scores) else pd.DataFrame()
    between = summarise_between_tasks(scores, SCORE).set_index("model") if len(scores) else pd.DataFrame()
    rows = []
    for method in [BASE, *findings.methods]:
        seeds = [] if method == BASE else findings.scored(method)
        for name in (*NAMES, MEAN):
            row: dict[str, Any] = {"method": method, "dimension": name, "seeds": len(seeds)}
            one = found.loc[(method, name)] if (method, name) in found.index else {}
            row |= {key: one[key] if len(one) else math.nan for key in ("mean", "low", "high")}
            row["seed_low"], row["seed_high"] = student_interval([findings.mean(run.model, name) for run in seeds])
            tasks = between.loc[method] if name == MEAN and method in between.index else {}
            row |= {f"task_{key}": tasks[key] if len(tasks) else math.nan for key in ("mean", "low", "high")}
            row["seed_mean"] = fmean([findings.mean(run.model, name) for run in seeds]) if seeds else math.nan
            rows.append(row)
    return pd.DataFrame(rows)


def method_table(findings: Findings, dimensions: pd.DataFrame) -> pd.DataFrame:
    """A row a method: what it costs (means over its seeds) beside its mean score with the intervals, and the mean of
    its runs' `grounded` with the interval over seeds."""
    means = dimensions[dimensions["dimension"] == MEAN].set_index("method")
    rows = []
    for method in [BASE, *findings.methods]:
        runs = [] if method == BASE else findings.last(method)
        row: dict[str, Any] = {"method": method, "seeds": len(findings.scored(method)) if runs else None}
        row |= {"of_seeds": len(runs) if runs else None, "share_percent": runs[0].share if runs else None}
        row |= {name: _known_mean([getattr(one, name) for one in runs]) for name in COSTS}
        row["last_loss"] = _known_mean([_last_loss(one) for one in runs])
        row |= means.loc[method].drop(["dimension", "seeds"]).to_dict()
        models = [findings.base] if method == BASE else [one.model for one in findings.scored(method)]
        grounded = [findings.grounded_mean(model) for model in models]
        row[GROUNDED] = fmean(grounded) if grounded else math.nan
        row["grounded_low"], row["grounded_high"] = student_interval(grounded)
        rows.append(row)
    table = pd.DataFrame(rows)
    return table.astype({"seeds": "Int64", "of_seeds": "Int64", "weights": "Float64"}).astype({"weights": "Int64"})


def _known_mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def gain_table(findings: Findings) -> pd.DataFrame:
    """What full fine-tuning gains over each preset, a row a dimension: `compare`'s columns on the examples, but p from
    the runs (`run_verdicts`, with seed_low and seed_high), and NaN for methods of one seed: two methods with one run
    each differ by their seeds as well, and no number of examples tells the two apart. Empty where full fine-tuning has
    no scores, or no preset has.
    """
    scores, full = method_scores(findings), label(FULL)
    there = set(scores["model"])
    others = [method for method in findings.methods if method != full and method in there]
    if full not in there or not others:
        return pd.DataFrame()
    table = pd.concat([compare(scores, full, other, SCORE) for other in others], ignore_index=True)
    runs = {
        method: findings.means.loc[[run.model for run in findings.scored(method)]].reset_index(drop=True)
        for method in (full, *others)
    }
    tested = run_verdicts(runs, full)
    tested["significant"] &= findings.alike
    kept = table.drop(columns=["p", "p_holm", "significant"])
    return kept.merge(tested, on=["baseline", "dimension"], validate="1:1")
