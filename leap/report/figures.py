"""Figures of an evaluation: a bar for each of a few models, a row of a heat map for each of many.

What has no score is a gap or "n/a", never 0. A result with unscored examples has an asterisk and a footnote.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from leap.report.charts import (
    GROUPS,
    Bounds,
    draw_bars,
    draw_differences,
    draw_floor,
    draw_heat_map,
    draw_means,
    draw_shares,
)
from leap.report.curves import Loss, curve_lines, draw_curves, training_loss
from leap.report.results import (
    BLIND,
    TOTAL,
    blind_means,
    dimension_means,
    incomplete_note,
    incomplete_results,
    read_blind,
    read_counts,
    read_kinds,
    read_scores,
    unlike_note,
    unlike_settings,
    unlike_settings_note,
)
from leap.report.selection import find_series
from leap.report.style import (
    DRAWN,
    FLOOR,
    GREY,
    KIND_COLOURS,
    WIDTH,
    Look,
    label,
    legend_above,
    lightened,
    looks,
    new_figure,
    remove,
    save,
)
from leap.report.tables import improvement
from leap.report.unfinished import unfinished_note
from leap.statistics.comparison import TIE
from leap.statistics.means import MEAN, paired_differences, summarise
from leap.vlabench.dimensions import NAMES
from leap.vlabench.grounding import GROUNDED

FIGURES = ("total_scores", "diagnosis", "metrics", "stacked", "improvement", "checkpoints", "training_loss")
TOTAL_LABEL = "total score (official, max 80)"
_HEADLINES = {TOTAL_LABEL: TOTAL, "grounded (max 100)": GROUNDED}
_MOST = {TOTAL: 80, GROUNDED: 100}
_INTERVALS = "Lines: 95 % bootstrap intervals, examples resampled within each task."
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
    compared with, if any, a note beside them (`unlike_settings_note`, `unfinished_note`), and the (model, dimension) of
    `unlike_settings`: a difference between two that were not asked alike is no percentage of an improvement."""

    scores: pd.DataFrame
    counts: pd.DataFrame
    blind: pd.DataFrame
    kinds: pd.DataFrame
    baseline: str | None
    note: str = ""
    unlike: Collection[tuple[str, str]] = ()

    @classmethod
    def of_results(cls, results: Path, models: Sequence[str], baseline: str | None) -> "Evaluation":
        """All of it, of these models in a folder of results."""
        notes = unlike_settings_note(results, models, baseline), unfinished_note(results, models)
        return cls(
            read_scores(results, models),
            read_counts(results, models),
            read_blind(results, models),
            read_kinds(results, models),
            baseline,
            "; ".join(filter(None, notes)),
            unlike_settings(results, models, baseline),
        )

    def means(self, score: str) -> pd.DataFrame:
        """Models x `GROUPS`."""
        return dimension_means(self.scores, score, self.counts["model"])

    def intervals(self, score: str) -> Bounds:
        """Models x `GROUPS`: the lower and the upper bounds of the means, 95 %."""
        return _bounds(summarise(self.scores.dropna(subset=[score]), score), self.looks)

    def floors(self, score: str) -> pd.Series:
        """`GROUPS`: what a planner that never looks has."""
        return blind_means(self.blind, score).loc["floor"]

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
        means = self.means(TOTAL)
        return bool((means - means.loc[self.baseline]).drop(self.baseline).notna().any(axis=None))

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


def draw_figures(
    evaluation: Evaluation,
    loss: Loss | None,
    folder: Path,
    names: Sequence[str] = FIGURES,
    formats: Sequence[str] = DRAWN,
) -> list[Path]:
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
        draw = figures[name]
        if draw is None:
            remove(folder / name)
        else:
            written += save(draw(), folder / name, formats)
    return written


def total_scores(evaluation: Evaluation) -> Figure:
    """The two headline scores of each model on each dimension, with intervals, and what never looking has of them."""
    title = "Total score and grounded score by dimension"
    scores = _known_headlines(evaluation)
    if evaluation.many:
        return _heat_maps_with_means(evaluation, title, scores)
    figure = new_figure(WIDTH, 1.6 + 3.1 * len(scores), title, evaluation.footnote, _INTERVALS)
    panels = figure.subplots(len(scores), 1, squeeze=False)[:, 0]
    for axes, (name, score) in zip(panels, scores.items(), strict=True):
        _draw_scores(axes, evaluation, [evaluation.means(score)], score, name, _MOST[score])
        draw_floor(axes, evaluation.floors(score))
    legend_above(figure, [*_model_patches(evaluation), *_floor_line(evaluation)])
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
    figure = new_figure(
        _names_width(evaluation) + 9, 2.2 + 0.25 * max(len(models), 2), "Why responses are right or wrong", _KINDS_NOTE
    )
    panels = figure.subplots(1, len(groups), sharey=True)
    for axes, (name, found) in zip(panels, counts.items(), strict=True):
        draw_shares(axes, found, KIND_COLOURS)
        axes.set_title(f"{name}\nn = {int(found.sum(axis=1).max())}", loc="left", fontsize=9)
    panels[0].set_xlabel("% of the examples", loc="left", fontsize=8.5)
    there = sum(found.sum() for found in counts.values())
    legend_above(figure, [Patch(color=colour, label=kind) for kind, colour in KIND_COLOURS.items() if there[kind]])
    return figure


def metrics(evaluation: Evaluation) -> Figure:
    """The four official metrics, one below the other, on one scale."""
    title = "Official metrics by dimension (percent of the reference plan)"
    if evaluation.many:
        tables = {name: (evaluation.means(score), 100.0) for name, score in _METRICS.items()}
        return _heat_maps(evaluation, title, tables)
    figure = new_figure(WIDTH, 10.5, title, evaluation.footnote, _INTERVALS)
    panels = figure.subplots(len(_METRICS), 1)
    for axes, (name, score) in zip(panels, _METRICS.items(), strict=True):
        _draw_scores(axes, evaluation, [evaluation.means(score)], score, f"{name} (max 100)", 100)
    legend_above(figure, _model_patches(evaluation))
    return figure


def stacked(evaluation: Evaluation) -> Figure:
    """The total score in the two parts that it is the sum of."""
    title = "Total score in its two official parts"
    parts = {name: 0.4 * evaluation.means(score) for name, score in _PARTS.items()}
    if evaluation.many:
        return _heat_maps(evaluation, title, {f"{name} (max 40)": (part, 40.0) for name, part in parts.items()})
    figure = new_figure(WIDTH, 5, title, evaluation.footnote, _INTERVALS)
    _draw_scores(figure.add_subplot(), evaluation, list(parts.values()), TOTAL, TOTAL_LABEL, _MOST[TOTAL])
    dark, light = parts
    shades = [Patch(color=GREY, label=f"dark: {dark}"), Patch(color=lightened(GREY), label=f"light: {light}")]
    legend_above(figure, [*_model_patches(evaluation), *shades])
    return figure


def improvement_figure(evaluation: Evaluation) -> Figure:
    """How far every other model lies above the baseline on the examples that both have, in points of the total score;
    in percent too where the baseline is not 0 and both were asked alike."""
    assert evaluation.baseline is not None
    rows = paired_differences(evaluation.scores, evaluation.baseline)
    others = {model: look for model, look in evaluation.looks.items() if model != evaluation.baseline}
    bounds, points = _bounds(rows, others), _wide(rows, "mean", others)
    of_all, percent = (
        table.loc[list(others)]
        for table in improvement(evaluation.means(TOTAL), evaluation.baseline, evaluation.unlike)
    )
    percent = percent.where((of_all - points).abs() < TIE)  # of other examples it would be of another difference
    marks = evaluation.marks | evaluation.marks.loc[evaluation.baseline]
    numbers = [*bounds] if evaluation.many else [percent]
    texts = pd.DataFrame(
        {
            g: [_signed(points.loc[m, g], marks.loc[m, g], *(n.loc[m, g] for n in numbers)) for m in others]
            for g in GROUPS
        },
        list(others),
    )
    title = f"Total score against {label(evaluation.baseline)}: difference in points"
    notes = (evaluation.footnote, unlike_note(evaluation.scores, evaluation.baseline))
    if evaluation.many:
        note = "In brackets the 95 % interval of the difference in pairs, examples resampled within each task."
        figure = new_figure(_names_width(evaluation) + 10.5, 2 + 0.24 * len(points), title, *notes, note)
        farthest = points.abs().max().max() or 1.0
        labels = evaluation.group_labels()
        draw_heat_map(figure.add_subplot(), points, texts, "RdBu", (-farthest, farthest), labels)
        return figure
    in_percent = f" In brackets: percent of {label(evaluation.baseline)}." if percent.notna().any(axis=None) else ""
    height = 2.4 + 0.17 * max(len(points), 2) * len(GROUPS)
    figure = new_figure(
        WIDTH, height, title, *notes, _INTERVALS.replace("intervals", "intervals of the paired difference") + in_percent
    )
    axes = figure.add_subplot()
    draw_differences(axes, points, bounds, texts, evaluation.looks, [*NAMES, "mean\nof six"])
    axes.set_xlabel("difference in total score (official, max 80), points", fontsize=9)
    legend_above(figure, [look.patch(model) for model, look in others.items()])
    return figure


def checkpoints(evaluation: Evaluation, series: Mapping[str, Mapping[str, int]]) -> Figure:
    """The headline scores over the steps of each run that has three checkpoints or more, with their intervals."""
    scores = _known_headlines(evaluation)
    note = "Bands: 95 % bootstrap intervals, examples resampled within each task."
    figure = new_figure(WIDTH + 4.5, 1.8 + 2.4 * len(scores), "Scores over training", evaluation.footnote, note)
    panels = figure.subplots(len(scores), len(GROUPS), sharex=True, sharey="row", squeeze=False)
    level = evaluation.baseline
    for row, (name, score) in zip(panels, scores.items(), strict=True):
        means, bounds, floors = evaluation.means(score), evaluation.intervals(score), evaluation.floors(score)
        for axes, group in zip(row, GROUPS, strict=True):
            levels = (means.loc[level, group] if level else math.nan, floors[group])
            part = pd.DataFrame({"mean": means[group], "low": bounds[0][group], "high": bounds[1][group]})
            draw_curves(axes, part, evaluation.marks[group], series, evaluation.looks, levels)
        row[0].set_ylabel(name, fontsize=9)
        row[0].set_ylim(0, _MOST[score])
    for axes, title in zip(panels[0], [*NAMES, "mean of six"], strict=True):
        axes.set_title(title, loc="left", fontsize=9.5)
    for axes in panels[-1]:
        axes.set_xlabel("training step", fontsize=9)
    legend_above(figure, [*curve_lines(series, evaluation.looks, level), *_floor_line(evaluation)])
    return figure


def _known_headlines(evaluation: Evaluation) -> dict[str, str]:
    """Results that are older than `grounded` lack it."""
    known = evaluation.scores.notna().any()
    return {name: score for name, score in _HEADLINES.items() if score == TOTAL or known[score]}


def _draw_scores(
    axes: Axes, evaluation: Evaluation, layers: Sequence[pd.DataFrame], score: str, name: str, most: float
) -> None:
    labels = evaluation.group_labels()
    draw_bars(axes, layers, evaluation.looks, evaluation.marks, evaluation.intervals(score), labels, most)
    axes.set_ylabel(name, fontsize=9)


def _heat_maps(evaluation: Evaluation, title: str, tables: Mapping[str, tuple[pd.DataFrame, float]]) -> Figure:
    """A heat map for each table, each with the maximum of its score."""
    note = "White is 0, the darkest blue the score's maximum."
    width, height = _names_width(evaluation) + 2.9 * len(tables), 2.4 + 0.22 * len(evaluation.looks)
    figure = new_figure(width, height, title, evaluation.footnote, note)
    panels = figure.subplots(1, len(tables), sharey=True, squeeze=False)[0]
    for axes, (name, (means, most)) in zip(panels, tables.items(), strict=True):
        _draw_heat_map(axes, evaluation, name, means, most)
    return figure


def _heat_maps_with_means(evaluation: Evaluation, title: str, scores: Mapping[str, str]) -> Figure:
    """A heat map for each score with what never looking has below it; beside it the means with their intervals."""
    rows = len(evaluation.looks) + len(BLIND)
    notes = "White is 0, the darkest blue the score's maximum.", f"Dots: the mean of six. {_INTERVALS}"
    width, height = _names_width(evaluation) + 4.6 * len(scores), 2.4 + 0.22 * rows
    figure = new_figure(width, height, title, evaluation.footnote, *notes)
    panels = figure.subplots(1, 2 * len(scores), sharey=True, width_ratios=[3, 1.5] * len(scores))
    for place, (name, score) in enumerate(scores.items()):
        means, blind = evaluation.means(score), blind_means(evaluation.blind, score)
        table = pd.concat([means, blind])
        _draw_heat_map(panels[2 * place], evaluation, name, table, _MOST[score])
        low, high = (bound[MEAN].reindex(table.index) for bound in evaluation.intervals(score))
        draw_means(panels[2 * place + 1], means[MEAN], (low, high), blind.loc["floor", MEAN], _MOST[score])
    if entries := _floor_line(evaluation):
        legend_above(figure, entries)
    return figure


def _floor_line(evaluation: Evaluation) -> list[Line2D]:
    """The floor's entry in a legend, where it is known."""
    known = any(evaluation.floors(score).notna().any() for score in _MOST)
    line = Line2D([], [], color=FLOOR, linewidth=1.6, label="floor: a planner that never looks")
    return [line] if known else []


def _names_width(evaluation: Evaluation) -> float:
    """Inches that the models' names take on the left of a figure."""
    return 0.3 + 0.068 * max(len(label(model)) for model in evaluation.looks)


def _draw_heat_map(axes: Axes, evaluation: Evaluation, name: str, means: pd.DataFrame, most: float) -> None:
    texts = means.map("{:.1f}".format, na_action="ignore").astype(object).fillna("n/a")
    texts.loc[evaluation.marks.index] += evaluation.marks.replace({True: "*", False: ""})
    draw_heat_map(axes, means, texts, "Blues", (0, most), evaluation.group_labels(lines=False))
    axes.set_title(name, loc="left", fontsize=10, pad=8)
    axes.tick_params(axis="x", labelrotation=90)


def _bounds(rows: pd.DataFrame, models: Iterable[str]) -> Bounds:
    return _wide(rows, "low", models), _wide(rows, "high", models)


def _wide(rows: pd.DataFrame, column: str, models: Iterable[str]) -> pd.DataFrame:
    """Models x `GROUPS`, of rows as `summarise` gives them."""
    return rows.pivot(index="model", columns="dimension", values=column).reindex(index=list(models), columns=GROUPS)


def _model_patches(evaluation: Evaluation) -> list[Patch]:
    return [look.patch(model) for model, look in evaluation.looks.items()]


def _signed(points: float, marked: bool, *numbers: float) -> str:
    """A difference, and in brackets its percentage or its two bounds, where they are known."""
    star = "*" if marked else ""
    if pd.isna(points):
        return f"n/a{star}"
    shown = [f"{round(number, 1) + 0:+.1f}" for number in (points, *numbers)]  # adding 0 makes a rounded -0 positive
    if any(map(pd.isna, numbers)):
        return shown[0] + star
    brackets = f" ({shown[1]}%)" if len(numbers) == 1 else f" [{', '.join(shown[1:])}]"
    return shown[0] + star + brackets
