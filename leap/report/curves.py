"""Figures over training steps: the scores of a run's checkpoints, and its loss."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import ScalarFormatter
from pydantic import BaseModel

from leap.models.checkpoints import TRAINER_STATE, LogEntry, find_checkpoints, read_log
from leap.records.files import is_file
from leap.report.style import FLOOR, GREY, PALETTE, Look, clean, label, legend_above, new_figure, uncontrolled

_SMOOTHED_FROM = 100  # logged losses
_BASELINE: dict[str, Any] = {"color": GREY, "linewidth": 1.5, "linestyle": (0, (5, 3))}


class Loss(BaseModel):
    """The losses that a run logged up to `checkpoint`, by step, and its learning rates."""

    checkpoint: Path
    training: dict[int, float]
    validation: dict[int, float]
    learning_rates: dict[int, float] = {}

    @classmethod
    def of_log(cls, log: Iterable[LogEntry], checkpoint: Path) -> "Loss":
        """From the Trainer's log. An entry that is logged twice counts as it was last."""
        found: dict[str, dict[int, float]] = {"loss": {}, "eval_loss": {}, "learning_rate": {}}
        for entry in log:
            for name, values in found.items():
                if (value := getattr(entry, name)) is not None:
                    values[entry.step] = value
        training, validation, rates = found.values()
        return cls(checkpoint=checkpoint, training=training, validation=validation, learning_rates=rates)


def read_loss(run: Path) -> Loss | None:
    """The losses in the newest checkpoint of a run folder that has a log; None where there are none."""
    logged = [folder for folder in find_checkpoints(run) if is_file(folder / TRAINER_STATE)]
    if not logged:
        return None
    loss = Loss.of_log(map(LogEntry.model_validate, read_log(logged[-1])), logged[-1])
    return loss if loss.training or loss.validation else None


def training_loss(loss: Loss) -> Figure:
    """Loss over steps, a long log with its running mean; below it the learning rate, where the log has it."""
    rates = pd.Series(loss.learning_rates, dtype=float).sort_index()
    figure = new_figure(10, 6 if len(rates) else 5, f"Training loss up to {loss.checkpoint.name}")
    panels = figure.subplots(2, sharex=True, height_ratios=(4, 1)) if len(rates) else [figure.add_subplot()]
    _draw_losses(clean(panels[0], "both"), loss)
    panels[0].set_ylabel("loss per label token (nats)")
    if len(rates):
        clean(panels[1], "both").plot(rates, color=PALETTE[2], linewidth=1.8, marker="." if len(rates) < 3 else None)
        panels[1].set_ylabel("learning rate")
        panels[1].margins(x=0.01)
        panels[1].set_ylim(bottom=0)
        panels[1].yaxis.set_major_formatter(ScalarFormatter(useMathText=True))
        panels[1].ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    panels[-1].set_xlabel("training step")
    legend_above(figure, panels[0].get_lines())
    return figure


def training_reward(log: Iterable[Mapping[str, Any]], title: str) -> Figure | None:
    """What the responses of a run with rewards named right, over steps, and what the benchmark's subset has; below it
    their length. None for a log without rewards."""
    table = pd.DataFrame(log)
    if "reward" not in table:
        return None
    table = table.set_index("step").sort_index()
    figure = new_figure(10, 6, title)
    above, below = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    sampled = 100 * table.get("rewards/grounded/mean", table["reward"]).dropna().astype(float)
    clean(above, "both").plot(sampled, color=PALETTE[5], linewidth=0.8, marker=".", label="sampled responses")
    window = max(2, len(sampled) // 10)
    smooth = sampled.rolling(window, center=True, min_periods=1).mean()
    above.plot(smooth, color=PALETTE[0], linewidth=1.8, label=f"the same, mean of {window} log entries")
    if "eval_grounded" in table:
        validation = table["eval_grounded"].dropna().astype(float)
        above.plot(validation, color=PALETTE[1], linewidth=1.8, marker="o", label="the benchmark's subset, greedy")
    above.set_ylabel("grounded" if "rewards/grounded/mean" in table else "100 x reward")
    clean(below, "both").plot(table["completions/mean_length"].dropna().astype(float), color=PALETTE[2], linewidth=1.8)
    below.set_ylabel("tokens")
    below.set_ylim(bottom=0)
    below.set_xlabel("training step")
    legend_above(figure, above.get_lines())
    return figure


def _draw_losses(axes: Axes, loss: Loss) -> None:
    training, validation = (pd.Series(values, dtype=float).sort_index() for values in (loss.training, loss.validation))
    if len(training) > _SMOOTHED_FROM:
        window = len(training) // 40
        axes.plot(training, color=PALETTE[5], linewidth=0.6, alpha=0.7, label="training loss")
        smooth = training.rolling(window, center=True, min_periods=1).mean()
        axes.plot(smooth, color=PALETTE[0], linewidth=1.8, label=f"training loss, mean of {window} log entries")
    elif len(training):
        axes.plot(training, color=PALETTE[0], linewidth=1.8, marker=".", label="training loss")
    if len(validation):
        axes.plot(validation, color=PALETTE[3], linewidth=1.8, marker="o", markersize=4, label="validation loss")
    axes.margins(x=0.01)


def draw_curves(
    axes: Axes,
    scores: pd.DataFrame,
    marks: pd.Series,
    series: Mapping[str, Mapping[str, int]],
    looks: Mapping[str, Look],
    levels: tuple[float, float],
) -> None:
    """One dimension's scores (a row a model; mean, low, high) over the steps of each run, with the baseline and the
    floor as `levels`."""
    for level, style in zip(levels, (_BASELINE, {"color": FLOOR, "linewidth": 1.2}), strict=True):
        if not math.isnan(level):
            axes.axhline(level, **style)
    for run, steps in series.items():
        found, style = scores.loc[list(steps)], _run_style(run, steps, looks)
        axes.fill_between(list(steps.values()), found["low"], found["high"], color=style["color"], alpha=0.15, lw=0)
        axes.plot(list(steps.values()), found["mean"], **style)
        for model, step in steps.items():
            if marks[model] and pd.notna(found.loc[model, "mean"]):
                axes.annotate("*", (step, found.loc[model, "mean"]), (0, 2), textcoords="offset points", ha="center")
    clean(axes, "y")
    axes.tick_params(labelsize=8)
    axes.locator_params(axis="x", nbins=4)


def curve_lines(
    series: Mapping[str, Mapping[str, int]], looks: Mapping[str, Look], baseline: str | None
) -> list[Line2D]:
    """The entries of `draw_curves` in a legend."""
    lines = [Line2D([], [], label=label(run), **_run_style(run, steps, looks)) for run, steps in series.items()]
    return lines if baseline is None else [*lines, Line2D([], [], label=label(baseline), **_BASELINE)]


def _run_style(run: str, steps: Mapping[str, int], looks: Mapping[str, Look]) -> dict[str, Any]:
    """A run has the colour of its last checkpoint; a control's line is broken."""
    style = "--" if uncontrolled(run)[1] else "-"
    return {
        "color": looks[list(steps)[-1]].colour,
        "linestyle": style,
        "marker": "o",
        "markersize": 3,
        "linewidth": 1.5,
    }
