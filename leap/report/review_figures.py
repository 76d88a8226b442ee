"""Figures of a blind review: final scores, criteria, improvement over the baseline, agreement, pairs.

One panel a judge: judges are never averaged. What is unscored is a gap with an asterisk, never a low score.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from leap.judge import review_summary
from leap.judge.criteria import CRITERIA, DESCRIBED
from leap.progress import rounded
from leap.report.results import model_order
from leap.report.review_page import review_tables
from leap.report.style import (
    DRAWN,
    FAINT,
    GREY,
    INK,
    Look,
    clean,
    is_dark,
    label,
    legend_above,
    looks,
    new_figure,
    plain,
    remove,
    save,
)
from leap.statistics.comparison import ALPHA

FIGURES = ("final_scores", "criteria", "improvement", "agreement", "pairs")
_SCALE = (0.8, 5.2)  # of scores from 1 to 5
_LABELS = {criterion.name: criterion.label for criterion in DESCRIBED}
_SAMPLES_DRAWN = 60
_MANY, _CLOSE = 12, 0.5  # so many models stand closer, to fit on a page
_MARKERS = dict(zip(CRITERIA, cycle(("o", "s", "D", "^", "v", "P")), strict=False))


@dataclass(frozen=True)
class ReviewFigures:
    """What is drawn: `read_scores`, the table of pairs if there is one, and the baseline, if it was judged."""

    scores: pd.DataFrame
    pairs: pd.DataFrame | None
    baseline: str | None

    @cached_property
    def tables(self) -> dict[str, pd.DataFrame]:
        return review_tables(self.scores, self.pairs, self.baseline)

    @cached_property
    def models(self) -> list[str]:
        return list(self.scores["model_name"].unique())

    @cached_property
    def judges(self) -> list[str]:
        return list(self.scores["judge"].unique())

    @cached_property
    def looks(self) -> dict[str, Look]:
        return looks(model_order(self.models), self.baseline)

    @cached_property
    def footnotes(self) -> tuple[str, ...]:
        unscored = int(self.tables["counts"]["unscored"].sum())
        left_out = f"* {unscored} verdicts are missing or unusable; they are left out." if unscored else ""
        return left_out, "Bars: 95 % intervals over samples (Student's t). " + review_summary.power_note(self.scores)

    def labels(self, judge: str) -> list[str]:
        """Models, with an asterisk where this judge's verdicts are incomplete."""
        counts = self.tables["counts"]
        unscored = counts[counts["judge"] == judge].set_index("model_name")["unscored"]
        return [f"{label(model)}{' *' if unscored.get(model, 0) else ''}" for model in self.models]


def draw_review(figures: ReviewFigures, folder: Path, formats: Sequence[str] = DRAWN) -> list[Path]:
    """Write every figure for which there is data, and remove an older one for which there is none now."""
    drawn: dict[str, Figure | None] = {
        "final_scores": final_scores(figures),
        "criteria": criteria(figures),
        "improvement": improvement(figures) if len(figures.tables["comparisons"]) else None,
        "agreement": agreement(figures) if figures.tables["agreement"]["value"].notna().any() else None,
        "pairs": pairs(figures) if len(figures.tables["pairs"]) else None,
    }
    written = []
    for name in FIGURES:
        path, figure = folder / f"blind10_{name}", drawn[name]
        if figure is None:
            remove(path)
        else:
            written += save(figure, path, formats)
    return written


def final_scores(figures: ReviewFigures) -> Figure:
    """Each model's mean final score with its interval over the scores of the single samples."""
    samples = review_summary.sample_scores(figures.scores)

    def panel(axes: Axes, judge: str) -> None:
        means = _of(figures.tables["means"], judge, "final_score")
        for place, model in enumerate(figures.models):
            part = samples[(samples["judge"] == judge) & (samples["model_name"] == model)]
            _draw_samples(axes, part["final_score"].dropna().to_numpy(), place)
            _draw_mean(axes, means.loc[model], place, figures.looks[model].colour)
        _score_axis(axes)
        axes.set_xlabel("final score: mean of the criteria (1 to 5)")

    note = "Small dots: samples, their repeats averaged."
    return _panels(figures, "Blind review: final score", panel, 0.55, (*figures.footnotes, note))


def criteria(figures: ReviewFigures) -> Figure:
    """The criteria of each model, one under the other."""
    offsets = np.linspace(-0.27, 0.27, len(CRITERIA))

    def panel(axes: Axes, judge: str) -> None:
        for offset, criterion in zip(offsets, CRITERIA, strict=True):
            means = _of(figures.tables["means"], judge, criterion)
            for place, model in enumerate(figures.models):
                colour, marker = figures.looks[model].colour, _MARKERS[criterion]
                _draw_mean(axes, means.loc[model], place + offset, colour, marker, text=False)
        _score_axis(axes)
        axes.set_xlabel("mean score (1 to 5, higher is better)")

    figure = _panels(figures, "Blind review: criteria", panel, 0.75, figures.footnotes)
    handles = [
        Line2D([], [], color=INK, marker=_MARKERS[name], linestyle="none", label=_LABELS[name]) for name in CRITERIA
    ]
    legend_above(figure, handles)
    return figure


def improvement(figures: ReviewFigures) -> Figure:
    """How far each model's final score lies above the baseline's on the same samples."""
    assert figures.baseline is not None
    table = figures.tables["comparisons"]
    others = [model for model in figures.models if model != figures.baseline]
    values = table[["low", "high", "difference"]]
    left, right = min(0.0, values.min().min()), max(0.0, values.max().max())
    room = (right - left) or 1.0

    def panel(axes: Axes, judge: str) -> None:
        rows = table[table["judge"] == judge].set_index("model_name").reindex(others)
        for place, model in enumerate(others):
            row = rows.loc[model]
            if pd.isna(row["difference"]):
                axes.text(0, place, " n/a", color=GREY, va="center", fontsize=9)
                continue
            _draw_mean(axes, row.rename({"difference": "mean"}), place, figures.looks[model].colour, text=False)
            counts = f"{row['difference']:+.2f}{' †' if row['p_holm'] < ALPHA else ''}   {row['wins']:.0f} won, "
            counts += f"{row['losses']:.0f} lost, {row['ties']:.0f} even"
            end = row["difference"] if pd.isna(row["high"]) else row["high"]
            axes.annotate(counts, (end, place), (7, 0), textcoords="offset points", va="center", fontsize=8)
        axes.axvline(0, color=INK, linewidth=1)
        axes.set_xlim(left - 0.05 * room, right + 0.95 * room)  # on the right stand the texts
        axes.set_xlabel("difference in final score, points of 1 to 5")

    title = f"Blind review: improvement over {label(figures.baseline)}"
    note = f"† differs at {ALPHA:g}: paired permutation test, Holm's correction over the models."
    return _panels(figures, title, panel, 0.4, (*figures.footnotes, note), others)


def agreement(figures: ReviewFigures) -> Figure:
    """How far repeats and judges agree, and how the rubric ranks plans beside them."""
    table = figures.tables["agreement"].dropna(subset=["value"]).reset_index(drop=True)
    groups = list(dict.fromkeys(zip(table["between"], table["statistic"], strict=True)))
    note = "Bars: 95 % bootstrap intervals, whole samples resampled; none where all scores are alike in many resamples."
    height = 1.6 + 0.24 * len(table) + 0.35 * len(groups)
    figure = new_figure(11, height, "Blind review: agreement (1 is perfect, 0 is chance)", note)
    axes = figure.add_subplot()
    places, labels, place = [], [], 0.0
    for between, statistic in groups:
        title = plain(f"{between}: {statistic}")
        beside = axes.get_yaxis_transform()
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        axes.text(0.01, place, title, fontsize=9, fontweight="bold", va="center", transform=beside, bbox=box)
        place += 1
        for row in table[(table["between"] == between) & (table["statistic"] == statistic)].to_dict("records"):
            point = pd.Series(row).rename({"value": "mean"})
            _draw_mean(axes, point, place, INK)
            places.append(place)
            labels.append(_LABELS.get(row["criterion"], "final score"))
            place += 1
        place += 0.3
    axes.axvline(0, color=INK, linewidth=1)
    clean(axes, "x")
    axes.set_yticks(places, labels)
    axes.set_ylim(place - 0.3, -0.8)
    axes.set_xlim(min(-0.05, table[["value", "low"]].min().min() - 0.05), 1.08)
    return figure


def pairs(figures: ReviewFigures) -> Figure:
    """Won, even and lost samples of every pair of models, and each judge's position bias below."""
    table, bias = figures.tables["pairs"], figures.tables["position_bias"]
    notes = [_bias_note(row) for row in bias.to_dict("records")]
    figure = new_figure(11, 2.2 + 0.42 * len(table) + 0.2 * len(notes), "Blind review: pairs in both orders", *notes)
    axes = figure.add_subplot()
    many = table["judge"].nunique() > 1
    for place, row in enumerate(table.to_dict("records")):
        left = 0
        one, other = (figures.looks[row[name]] for name in ("model_a", "model_b"))
        for name, look in {"wins": one, "ties": Look(FAINT, ""), "losses": other}.items():
            axes.barh(place, row[name], 0.7, left, color=look.colour, hatch=look.hatch, edgecolor="white", linewidth=0)
            if row[name]:
                ink = "white" if is_dark(look.colour) else INK
                box = {"facecolor": look.colour, "edgecolor": "none", "pad": 1.5}
                middle = left + row[name] / 2
                axes.text(middle, place, row[name], ha="center", va="center", fontsize=9, color=ink, bbox=box)
            left += row[name]
        axes.text(left, place, f"  {_p(row['p_sign'])}", va="center", fontsize=8.5, color=INK)
    names = [
        f"{label(row['model_a'])} against {label(row['model_b'])}" + (f"\n{plain(row['judge'])}" if many else "")
        for row in table.to_dict("records")
    ]
    clean(axes, "x")
    axes.set_yticks(range(len(table)), names)
    axes.set_ylim(len(table) - 0.5, -0.5)
    axes.set_xlim(0, table["pairs"].max() * 1.15)
    axes.set_xlabel("samples (p: exact sign test, ties left out)")
    even = Patch(facecolor=FAINT, label="even, or the orders disagree")
    legend_above(figure, [*(look.patch(model) for model, look in figures.looks.items()), even])
    return figure


def _bias_note(row: Mapping[str, Any]) -> str:
    return (
        f"{row['judge']}: {row['consistent']} of {row['asked']} comparisons came out alike in both orders; the plan "
        f"shown first won both times in {row['first']}, the second in {row['second']} ({_p(row['p'])})."
    )


def _p(value: float) -> str:
    """ "p = 0.012", "p < 0.001" """
    shown = rounded(value, 3)
    return f"p {shown}" if shown.startswith("<") else f"p = {shown}"


def _panels(
    figures: ReviewFigures,
    title: str,
    draw: Callable[[Axes, str], None],
    row_height: float,
    footnotes: Sequence[str],
    models: Sequence[str] | None = None,
) -> Figure:
    """One panel a judge, side by side up to three; models from top to bottom."""
    shown = figures.models if models is None else list(models)
    columns = min(len(figures.judges), 3)
    rows = -(-len(figures.judges) // columns)
    row_height *= _CLOSE if len(shown) > _MANY else 1
    height = 1.6 + rows * (0.9 + row_height * max(len(shown), 2))
    figure = new_figure(9 if columns == 1 else 1 + 5.5 * columns, height, title, *footnotes)
    grid = figure.subplots(rows, columns, sharey=False, squeeze=False).ravel()
    for axes, judge in zip(grid, figures.judges, strict=False):
        clean(axes, "x")
        draw(axes, judge)
        labels = dict(zip(figures.models, figures.labels(judge), strict=True))
        axes.set_yticks(range(len(shown)), [labels[model] for model in shown])
        axes.set_ylim(len(shown) - 0.45, -0.55)
        axes.set_title(plain(judge), loc="left", fontsize=10)
    for axes in grid[len(figures.judges) :]:
        axes.remove()
    return figure


def _of(means: pd.DataFrame, judge: str, measure: str) -> pd.DataFrame:
    return means[(means["judge"] == judge) & (means["measure"] == measure)].set_index("model_name")


def _draw_mean(axes: Axes, row: pd.Series, place: float, colour: str, marker: str = "o", text: bool = True) -> None:
    """A mean with its interval, and the number above it; "n/a" where there is none."""
    if pd.isna(row["mean"]):
        axes.text(1, place, "n/a", color=GREY, va="center", fontsize=8)
        return
    if pd.notna(row["low"]):
        axes.plot([row["low"], row["high"]], [place, place], color=colour, linewidth=2.2, solid_capstyle="round")
    axes.plot(row["mean"], place, marker, color=colour, markersize=6, markeredgecolor="white", zorder=3)
    if text:
        at = (row["mean"], place)
        axes.annotate(f"{row['mean']:.2f}", at, (0, 7), textcoords="offset points", ha="center", fontsize=8.5)


def _draw_samples(axes: Axes, values: np.ndarray, place: float) -> None:
    """Equal values stand one below the other under the mean, so that all are seen; hundreds would hide each other."""
    if len(values) > _SAMPLES_DRAWN:
        return
    seen: dict[float, int] = {}
    for value in np.round(values, 2):
        seen[value] = seen.get(value, 0) + 1
        axes.plot(value, place + 0.12 + 0.045 * seen[value], ".", color=GREY, markersize=3.5)


def _score_axis(axes: Axes) -> None:
    axes.set_xlim(*_SCALE)
    axes.set_xticks(range(1, 6))
