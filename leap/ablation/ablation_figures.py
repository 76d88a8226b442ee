"""An ablation's figures. A method that is missing stands in the legend as such, and is drawn nowhere, never at 0."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullLocator

from leap.ablation.effect_tables import BASE, Findings, Outcome
from leap.ablation.runs import FULL, label
from leap.report.charts import GROUPS
from leap.report.figures import TOTAL_LABEL
from leap.report.style import GREY, INK, clean, legend_above, looks, new_figure
from leap.statistics.means import MEAN

_THIN = "Thin bars: 95 % bootstrap interval of the mean over seeds, examples resampled within each task. "
_SEEDS = (
    "Thick bars: 95 % interval over seeds (Student's t); small dots: single seeds.",
    "One seed each: there is no interval over seeds, so another seed may change a score by more than the bars show.",
)
_HIGHEST = 80  # of the official total score


@dataclass(frozen=True)
class _Axis:
    """What stands along an axis: a value of each outcome."""

    title: str
    value: Callable[[Outcome], float | None]
    log: bool


WEIGHTS = _Axis("trainable parameters", lambda one: one.weights, True)
SIZE = _Axis("checkpoint on disk (weights)", lambda one: one.megabytes and one.megabytes * 1e6, True)


def hours_axis(findings: Findings) -> _Axis:
    """Hours of training, minutes where none took one, with the device's name where all runs had the same one."""
    devices = sorted({one.device for one in findings.outcomes if one.device})
    minutes = all(one.hours is None or one.hours < 1 for one in findings.outcomes)
    unit = "minutes" if minutes else "hours"
    if devices and not any("CPU" in device for device in devices):
        unit = f"GPU-{unit}"
    scale = 60 if minutes else 1
    where = devices[0] if len(devices) == 1 else "several kinds of device" if devices else ""
    return _Axis(
        f"{unit} of training" + (f"\n({where})" if where else ""), lambda one: one.hours and one.hours * scale, False
    )


def colours(findings: Findings) -> dict[str, str]:
    """Full fine-tuning black, the presets in the palette's order."""
    presets = [method for method in findings.methods if method != label(FULL)]
    return {method: look.colour for method, look in looks(presets, None).items()} | {label(FULL): INK}


def score_by_cost(findings: Findings, dimensions: pd.DataFrame) -> Figure:
    """The mean of six dimensions against trainable parameters, hours and checkpoint size, one panel each."""
    figure = new_figure(13, 5.2, "Score against cost", *_footnotes(findings))
    panels = figure.subplots(1, 3, sharey=True)
    for axes, axis in zip(panels, (WEIGHTS, hours_axis(findings), SIZE), strict=True):
        _draw_scores(axes, axis, findings, dimensions, MEAN)
        axes.set_xlabel(axis.title, fontsize=9)
    panels[0].set_ylabel(f"{TOTAL_LABEL}, mean of six", fontsize=9)
    legend_above(figure, _legend(findings))
    return figure


def score_by_dimension(findings: Findings, dimensions: pd.DataFrame) -> Figure:
    """Each dimension against trainable parameters."""
    figure = new_figure(14, 7.5, "Score against trainable parameters, by dimension", *_footnotes(findings))
    panels = figure.subplots(2, 4, sharex=True)
    for axes, name in zip(panels.flat, GROUPS, strict=False):
        _draw_scores(axes, WEIGHTS, findings, dimensions, name)
        axes.set_title("mean of six" if name == MEAN else name, loc="left", fontsize=11)
        axes.tick_params(labelbottom=True)
        axes.set_xlabel(WEIGHTS.title, fontsize=9)
    for axes in panels[:, 0]:
        axes.set_ylabel(TOTAL_LABEL, fontsize=9)
    panels.flat[-1].set_axis_off()
    legend_above(figure, _legend(findings))
    return figure


def _footnotes(findings: Findings) -> tuple[str, ...]:
    several = any(len(findings.scored(method)) > 1 for method in findings.methods)
    missing = "Missing or incomplete: " + "; ".join(findings.missing) if findings.missing else ""
    return (_THIN + _SEEDS[0 if several else 1], missing)


def _draw_scores(axes: Axes, axis: _Axis, findings: Findings, dimensions: pd.DataFrame, name: str) -> None:
    rows = dimensions[dimensions["dimension"] == name].set_index("method")
    if not math.isnan(rows.loc[BASE, "mean"]):
        axes.axhline(rows.loc[BASE, "mean"], color=GREY, linewidth=1.5, linestyle=(0, (5, 3)))
    places: list[float] = []
    for method, colour in colours(findings).items():
        runs = findings.scored(method) if method in findings.methods else []
        known = {run.model: value for run in runs if (value := axis.value(run)) is not None}
        if not known or math.isnan(rows.loc[method, "mean"]):
            continue
        place = fmean(known.values())
        places.append(place)
        row = rows.loc[method]
        if not math.isnan(row["seed_low"]):
            _bar(axes, place, row["seed_low"], row["seed_high"], colour, 4)
            seeds = [findings.mean(model, name) for model in known]
            axes.plot(list(known.values()), seeds, ".", color=colour, markersize=4, alpha=0.8)
        _bar(axes, place, row["low"], row["high"], colour, 1.4)
        axes.plot([place], [row["mean"]], "o", color=colour, markersize=8, markeredgecolor="white", zorder=3)
    clean(axes, "y")
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, -2), min(high, _HIGHEST + 2))  # where an interval over seeds leaves the scale
    _scale(axes, axis, places)


def _bar(axes: Axes, place: float, low: float, high: float, colour: str, width: float) -> None:
    if not math.isnan(low):
        axes.plot([place, place], [low, high], color=colour, linewidth=width, alpha=0.35 if width > 2 else 1)


def _scale(axes: Axes, axis: _Axis, places: Sequence[float]) -> None:
    if not places:
        axes.text(0.5, 0.5, "nothing yet", transform=axes.transAxes, ha="center", color=GREY)
        axes.set_xticks([])
        return
    if axis.log:
        axes.set_xscale("log")
        axes.set_xlim(min(places) / 1.6, max(places) * 1.6)
        decades = math.log10(max(places) / min(places) * 2.56)
        axes.xaxis.set_major_locator(LogLocator(subs=(1,) if decades > 2.5 else (1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(EngFormatter("B" if axis is SIZE else ""))
    else:
        axes.set_xlim(0, max(places) * 1.12)


def _legend(findings: Findings) -> list[Line2D]:
    lines = [
        Line2D([], [], color=GREY, linestyle=(0, (5, 3)), label=BASE)
        if findings.base_state == "complete"
        else Line2D([], [], color="none", label=f"{BASE} ({findings.base_state})")
    ]
    for method, colour in colours(findings).items():
        if method in findings.methods:
            scored, wanted = len(findings.scored(method)), len(findings.last(method))
            state = "" if scored == wanted else f" ({scored} of {wanted} seeds)" if scored else " (missing)"
            fill = colour if scored else "none"
            look: dict[str, Any] = {"markerfacecolor": fill, "markeredgecolor": colour, "markersize": 7}
            lines.append(Line2D([], [], marker="o", linestyle="", label=f"{method}{state}", **look))
    return lines


def losses(findings: Findings) -> Figure:
    """The training losses of all runs upon one another, one colour a method; each a running mean of a twentieth."""
    figure = new_figure(
        10,
        5.5,
        "Training loss",
        "Every run sees the same rows in the same order, for each seed. " + _smoothed(findings),
    )
    axes = clean(figure.add_subplot(), "both")
    handles, shown = [], colours(findings)
    for method in findings.methods:
        logs = [one.loss for one in findings.last(method) if one.loss]
        for log in logs:
            values = pd.Series(log.training, dtype=float).sort_index()
            smooth = values.rolling(_window(len(values)), center=True, min_periods=1).mean()
            axes.plot(smooth, color=shown[method], linewidth=1.6, alpha=0.85 if len(logs) == 1 else 0.6)
        missing = (
            "" if len(logs) == len(findings.last(method)) else f" ({len(logs)} of {len(findings.last(method))} runs)"
        )
        handles.append(Line2D([], [], color=shown[method], label=method + (missing if logs else " (missing)")))
    axes.set_xlabel("training step")
    axes.set_ylabel("loss per label token (nats), log scale")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.margins(x=0.01)
    legend_above(figure, handles)
    return figure


def _window(entries: int) -> int:
    return max(1, entries // 20)


def _smoothed(findings: Findings) -> str:
    entries = max((len(one.loss.training) for one in findings.outcomes if one.loss), default=0)
    window = _window(entries)
    return f"Each line is the running mean of {window} log entries." if window > 1 else ""


def full_gain(findings: Findings, gains: pd.DataFrame) -> Figure:
    """What full fine-tuning gains over each preset on each dimension, with intervals; filled: significant."""
    presets = [method for method in findings.methods if method in set(gains["baseline"])]
    tested = gains["p"].notna().any()
    note = "Thin: 95 % bootstrap interval of the paired difference, examples resampled within each task. " + (
        "Thick: 95 % interval over seeds. Filled: p below 0.025 by Welch's t-test of the runs, with Holm's correction: "
        "of the mean over the presets, of the dimensions over presets and dimensions together."
        if tested
        else "One seed each says nothing of how another seed would do, so nothing is tested."
    )
    figure = new_figure(
        11, 2.6 + 0.2 * max(2, len(presets)) * len(GROUPS), "What full fine-tuning gains over each preset", note
    )
    axes = clean(figure.add_subplot(), "x")
    shown = colours(findings)
    for index, preset in enumerate(presets):
        rows = gains[gains["baseline"] == preset].set_index("dimension")
        for place, name in enumerate(GROUPS):
            _draw_gain(axes, place + 0.7 * ((index + 0.5) / len(presets) - 0.5), rows.loc[name], shown[preset])
    axes.axvline(0, color=INK, linewidth=1)
    axes.set_yticks(range(len(GROUPS)), ["mean of six" if name == MEAN else name for name in GROUPS])
    axes.set_ylim(len(GROUPS) - 0.5, -0.5)
    axes.set_xlabel(f"points of {TOTAL_LABEL} by which full fine-tuning lies above the preset")
    legend_above(figure, [Line2D([], [], color=shown[one], marker="o", label=one) for one in presets])
    return figure


def _draw_gain(axes: Axes, place: float, row: Mapping[str, float], colour: str) -> None:
    if math.isnan(row["difference"]):
        axes.text(0, place, " n/a", color=GREY, fontsize=8, va="center")
        return
    if not math.isnan(row["low"]):
        axes.plot([row["low"], row["high"]], [place, place], color=colour, linewidth=1.4)
    if not math.isnan(row["seed_low"]):
        axes.plot([row["seed_low"], row["seed_high"]], [place, place], color=colour, linewidth=4, alpha=0.35)
    fill = colour if row["significant"] else "white"
    axes.plot([row["difference"]], [place], "o", markerfacecolor=fill, markeredgecolor=colour, markersize=6)
