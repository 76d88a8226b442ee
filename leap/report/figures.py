"""Figures of an evaluation: a bar for each of a few models, a row of a heat map for each of many.

What has no score is a gap or "n/a", never 0. A result with unscored examples has an asterisk and a footnote.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from leap.report.charts import GROUPS, draw_bars, draw_differences, draw_floor, draw_heat_map, draw_shares, label_groups
from leap.report.curves import Loss, checkpoint_curves, find_series, training_loss
from leap.report.results import (
    BLIND,
    TOTAL,
    blind_means,
    dimension_means,
    incomplete_note,
    incomplete_results,
    unlike_note,
)
from leap.report.style import FLOOR, GREY, KIND_COLOURS, Look, legend_above, lightened, looks, new_figure, plain, save
from leap.report.tables import improvement
from leap.statistics.means import MEAN, summarise
from leap.vlabench.dimensions import NAMES
from leap.vlabench.grounding import GROUNDED

FIGURES = ("total_scores", "diagnosis", "metrics", "stacked", "improvement", "checkpoints", "training_loss")
TOTAL_LABEL = "total score (official, max 80)"
_HEADLINES = {TOTAL_LABEL: TOTAL, "grounded (max 100)": GROUNDED}
_MOST = {TOTAL: 80 * 1.13, GROUNDED: 100 * 1.13}  # with room for a number over a full bar
_BARS_UP_TO = 8  # models; more are a heat map
_KINDS_NOTE = (
    "Percent of the examples, with their number. Each has one kind, the first that holds of: no answer, a refusal, no "
    "plan, right, a loop, names instead of ids, another order, more or fewer steps, other ids, other skills."
)
_METRICS = {
    "Skill match": "skill_match_score",
    "Entity match": "entity_match_score",
    "Skill with entity": "skill_with_entity_match_score",
    "Exact match": "exact_match_score",
}
_PARTS = {"0.4 x skill match": "skill_match_score", "0.4 x entity match": "entity_match_score"}


@dataclass(frozen=True)
class Evaluation:
    """What the figures draw: `read_scores`, `read_counts`, `read_blind`, `read_kinds`, the model that the others are
    compared with, if any, and a note beside them: `unlike_settings_note`, `unfinished_note`."""

    scores: pd.DataFrame
    counts: pd.DataFrame
    blind: pd.DataFrame
    kinds: pd.DataFrame
    baseline: str | None
    note: str = ""

    def means(self, score: str) -> pd.DataFrame:
        """Models x `GROUPS`."""
        return dimension_means(self.scores, score, self.counts["model"])

    def intervals(self, score: str) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Models x `GROUPS`: the lower and the upper bounds of the means, 95 %."""
        found = summarise(self.scores.dropna(subset=[score]), score).set_index(["model", "dimension"])
        low, high = (found[bound].unstack().reindex(index=list(self.looks)) for bound in ("low", "high"))
        return low, high

    @cached_property
    def looks(self) -> dict[str, Look]:
        return looks(self.means("total_score").index, self.baseline)

    @cached_property
    def marks(self) -> pd.DataFrame:
        """Models x `GROUPS`: whether examples are, or may be, unscored."""
        return incomplete_results(self.counts)

    @property
    def many(self) -> bool:
        return len(self.looks) > _BARS_UP_TO

    @property
    def comparable(self) -> bool:
        """Whether another model has a dimension in common with the baseline."""
        if self.baseline is None:
            return False
        points, _ = improvement(self.means("total_score"), self.baseline)
        return bool(points.drop(self.baseline).notna().any(axis=None))

    @property
    def footnote(self) -> str:
        note = incomplete_note(self.counts)
        return ". ".join(part for part in (f"* {note}" if note else "", self.note) if part)

    def group_labels(self, lines: bool = True) -> list[str]:
        """Each dimension with the number of examples behind its means, in two lines or in one."""
        sizes = self.scores.groupby(["dimension", "model"]).size().groupby("dimension").agg(["min", "max"])
        ranges = {name: f"{low}" if low == high else f"{low}-{high}" for name, low, high in sizes.itertuples()}
        label = "{}\nn = {}" if lines else "{} (n = {})"
        return [
            *(label.format(name, ranges.get(name, 0)) for name in NAMES),
            "mean\nof six" if lines else "mean of six",
        ]


def draw_figures(evaluation: Evaluation, loss: Loss | None, folder: Path, names: Sequence[str] = FIGURES) -> list[Path]:
    """Write every figure of these for which there is data, and remove an older one for which there is none now."""
    series = find_series(evaluation.looks)
    diagnosed = evaluation.kinds["correct"].notna().any()
    figures: dict[str, Callable[[], Figure] | None] = {
        "total_scores": lambda: total_scores(evaluation),
        "diagnosis": (lambda: diagnosis(evaluation)) if diagnosed else None,
        "metrics": lambda: metrics(evaluation),
        "stacked": lambda: stacked(evaluation),
        "improvement": (lambda: improvement_figure(evaluation)) if evaluation.comparable else None,
        "checkpoints": (lambda: checkpoints(evaluation, series)) if series else None,
        "training_loss": (lambda: training_loss(loss)) if loss else None,
    }
    written = []
    for name in names:
        path, draw = folder / f"{name}.png", figures[name]
        if draw is None:
            path.unlink(missing_ok=True)
        else:
            save(draw(), path)
            written.append(path)
    return written


def total_scores(evaluation: Evaluation) -> Figure:
    """The two headline scores of each model on each dimension, with intervals, and what never looking has of them."""
    title = "Total score and grounded score by dimension"
    known = evaluation.scores.notna().any()  # results that are older than `grounded` lack it
    scores = {label: score for label, score in _HEADLINES.items() if score == TOTAL or known[score]}
    floors = {score: blind_means(evaluation.blind, score) for score in scores.values()}
    if evaluation.many:
        return _heat_maps(
            evaluation, title, {label: evaluation.means(score) for label, score in scores.items()}, floors
        )
    notes = evaluation.footnote, "Bars: mean with its 95 % interval (examples resampled within each task)."
    figure = new_figure(12, 1.4 + 3.6 * len(scores), title, *notes)
    panels = figure.subplots(len(scores), 1, squeeze=False)[:, 0]
    for axes, (label, score) in zip(panels, scores.items(), strict=True):
        means, bounds = evaluation.means(score), evaluation.intervals(score)
        draw_bars(axes, [means], evaluation.looks, evaluation.marks, 11.5, bounds)
        draw_floor(axes, floors[score].loc["floor"])
        axes.set_ylim(0, _MOST[score])
        label_groups(axes, evaluation.group_labels())
        axes.set_ylabel(label)
    floor = Line2D([], [], color=FLOOR, linewidth=1.6, label="floor: a planner that never looks")
    drawn = any(table.notna().any(axis=None) for table in floors.values())
    legend_above(figure, [*_model_patches(evaluation), *([floor] if drawn else [])])
    return figure


def diagnosis(evaluation: Evaluation) -> Figure:
    """Why responses are right or wrong: each model's examples by their kind, for each dimension and all together."""
    models = list(evaluation.looks)
    by_group = {name: evaluation.kinds[evaluation.kinds["dimension"] == name] for name in NAMES}
    groups = {**by_group, "all": evaluation.kinds}
    counts = {
        name: rows.groupby("model")[list(KIND_COLOURS)].sum().reindex(models, fill_value=0)
        for name, rows in groups.items()
    }
    figure = new_figure(15, 1.9 + 0.27 * max(len(models), 2), "Why responses are right or wrong", _KINDS_NOTE)
    panels = figure.subplots(1, len(groups), sharey=True)
    for axes, (name, found) in zip(panels, counts.items(), strict=True):
        draw_shares(axes, found, KIND_COLOURS)
        axes.set_title(f"{name} (n = {int(found.sum(axis=1).max())})", loc="left", fontsize=9)
    there = sum(found.sum() for found in counts.values())
    legend_above(figure, [Patch(color=colour, label=kind) for kind, colour in KIND_COLOURS.items() if there[kind]])
    return figure


def metrics(evaluation: Evaluation) -> Figure:
    """The four official metrics beside one another."""
    title = "Official metrics by dimension (percent of the reference plan)"
    tables = {name: evaluation.means(score) for name, score in _METRICS.items()}
    if evaluation.many:
        return _heat_maps(evaluation, title, tables)
    figure = new_figure(14, 8, title, evaluation.footnote)
    panels = figure.subplots(2, 2, sharex=True)
    for axes, (name, means) in zip(panels.flat, tables.items(), strict=True):
        draw_bars(axes, [means], evaluation.looks, evaluation.marks, 6.5)
        label_groups(axes, evaluation.group_labels())
        axes.set_title(name, loc="left", fontsize=11)
    for axes in panels[:, 0]:
        axes.set_ylabel("mean score (max 100)")
    legend_above(figure, _model_patches(evaluation))
    return figure


def stacked(evaluation: Evaluation) -> Figure:
    """The total score in the two parts that it is the sum of."""
    title = "Total score in its two official parts"
    parts = {name: 0.4 * evaluation.means(score) for name, score in _PARTS.items()}
    if evaluation.many:
        return _heat_maps(evaluation, title, {f"{name} (max 40)": part for name, part in parts.items()})
    figure = new_figure(12, 5.5, title, evaluation.footnote)
    axes = figure.add_subplot()
    draw_bars(axes, list(parts.values()), evaluation.looks, evaluation.marks, 11.5)
    label_groups(axes, evaluation.group_labels())
    axes.set_ylabel(TOTAL_LABEL)
    dark, light = parts
    shades = [Patch(color=GREY, label=f"dark: {dark}"), Patch(color=lightened(GREY), label=f"light: {light}")]
    legend_above(figure, [*_model_patches(evaluation), *shades])
    return figure


def improvement_figure(evaluation: Evaluation) -> Figure:
    """How far every other model lies above the baseline, in points of the total score and in percent."""
    assert evaluation.baseline is not None
    points, percent = (
        table.drop(evaluation.baseline) for table in improvement(evaluation.means("total_score"), evaluation.baseline)
    )
    marks = evaluation.marks | evaluation.marks.loc[evaluation.baseline]
    texts = pd.DataFrame(
        {g: [_signed(points.loc[m, g], percent.loc[m, g], marks.loc[m, g]) for m in points.index] for g in GROUPS},
        points.index,
    )
    title = f"Total score against {plain(evaluation.baseline)}: difference in points (and in percent)"
    footnotes = (evaluation.footnote, unlike_note(evaluation.scores, evaluation.baseline))
    if evaluation.many:
        figure = new_figure(12, 1.7 + 0.26 * len(points), title, *footnotes)
        farthest = points.abs().max().max()
        labels = evaluation.group_labels()
        draw_heat_map(figure.add_subplot(), points, texts, "RdBu", (-farthest, farthest), labels)
        return figure
    figure = new_figure(11, 2.5 + 0.22 * max(len(points), 2) * len(GROUPS), title, *footnotes)
    axes = figure.add_subplot()
    draw_differences(axes, points, texts, evaluation.looks, [*NAMES, MEAN])
    axes.set_xlabel("difference in total score (official, max 80), points")
    legend_above(figure, [evaluation.looks[model].patch(model) for model in points.index])
    return figure


def checkpoints(evaluation: Evaluation, series: Mapping[str, Mapping[str, int]]) -> Figure:
    """The total score over the steps of each run that has three checkpoints or more."""
    title = "Total score over training"
    figure = new_figure(14, 7, title, evaluation.footnote)
    means = evaluation.means("total_score")
    checkpoint_curves(figure, means, evaluation.marks, series, evaluation.baseline)
    return figure


def _heat_maps(
    evaluation: Evaluation,
    title: str,
    tables: Mapping[str, pd.DataFrame],
    blind: Mapping[str, pd.DataFrame] | None = None,
) -> Figure:
    """A heat map for each table; `blind` are rows below them, by score."""
    count, footnotes = len(tables), [evaluation.footnote, "Darker is higher, within each table."]
    width = 11 if count == 1 else 2 + 3.4 * count
    rows = len(evaluation.looks) + (len(BLIND) if blind else 0)
    figure = new_figure(width, 2.2 + 0.26 * rows, title, *footnotes)
    panels = figure.subplots(1, count, sharey=True, squeeze=False)[0]
    below = list((blind or {}).values()) or [None] * count
    for axes, (name, models), extra in zip(panels, tables.items(), below, strict=True):
        means = models if extra is None else pd.concat([models, extra])
        texts = means.map("{:.1f}".format, na_action="ignore").astype(object).fillna("n/a")
        texts.loc[models.index] += evaluation.marks.replace({True: "*", False: ""})
        limits = (means.min().min(), means.max().max())
        draw_heat_map(axes, means, texts, "Blues", limits, evaluation.group_labels(lines=count == 1))
        axes.set_title(name, loc="left", fontsize=11, pad=10)
        if count > 1:
            axes.tick_params(axis="x", labelrotation=90)
    return figure


def _model_patches(evaluation: Evaluation) -> list[Patch]:
    return [look.patch(model) for model, look in evaluation.looks.items()]


def _signed(points: float, percent: float, marked: bool) -> str:
    star = "*" if marked else ""
    if pd.isna(points):
        return f"n/a{star}"
    # Adding 0 makes a rounded -0 positive.
    return f"{round(points, 1) + 0:+.1f}{star}" + ("" if pd.isna(percent) else f" ({round(percent, 1) + 0:+.1f}%)")
