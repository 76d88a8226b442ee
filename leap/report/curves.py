"""Figures over training steps: the scores of a run's checkpoints, and its loss."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import ScalarFormatter
from pydantic import BaseModel

from leap.models.checkpoints import TRAINER_STATE, LogEntry, find_checkpoints, read_log
from leap.records.files import is_file
from leap.report.charts import GROUPS
from leap.report.style import GREY, PALETTE, clean, legend_above, looks, new_figure, plain, uncontrolled

_CHECKPOINT = re.compile(r"(?P<run>(?:.+-)?checkpoint-)(?P<step>\d+)(?P<kind>(?:_.*)?)")
_SMOOTHED_FROM = 100  # logged losses


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


def find_series(models: Iterable[str]) -> dict[str, dict[str, int]]:
    """Run -> model -> step, for every run with three checkpoints or more; a run is named "checkpoint-N" or the like."""
    series: dict[str, dict[str, int]] = {}
    for model in models:
        if match := _CHECKPOINT.fullmatch(model):
            series.setdefault(f"{match['run']}N{match['kind']}", {})[model] = int(match["step"])
    return {run: dict(sorted(steps.items(), key=lambda one: one[1])) for run, steps in series.items() if len(steps) > 2}


def checkpoint_curves(
    figure: Figure,
    means: pd.DataFrame,
    marks: pd.DataFrame,
    series: Mapping[str, Mapping[str, int]],
    baseline: str | None,
) -> None:
    """One panel a dimension, one line a run, and the baseline as a level."""
    colours = {run: look.colour for run, look in looks(series, None).items()}
    panels = figure.subplots(2, 4, sharex=True)
    for axes, group in zip(panels.flat, GROUPS, strict=False):
        if baseline is not None:
            axes.axhline(means.loc[baseline, group], color=GREY, linewidth=1.5, linestyle=(0, (5, 3)))
        for run, steps in series.items():
            values, style = means.loc[list(steps), group], "--" if uncontrolled(run)[1] else "-"
            axes.plot(steps.values(), values, style, color=colours[run], marker="o", markersize=3.5, linewidth=1.6)
            for model, step in steps.items():
                if marks.loc[model, group] and pd.notna(values[model]):
                    axes.annotate("*", (step, values[model]), (0, 2), textcoords="offset points", ha="center")
        clean(axes, "y").set_title(group, loc="left", fontsize=11)
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("training step", fontsize=9)
    for axes in panels[:, 0]:
        axes.set_ylabel("total score (official, max 80)", fontsize=9)
    panels.flat[-1].set_axis_off()
    lines = [Line2D([], [], color=colours[run], marker="o", markersize=3.5, label=plain(run)) for run in series]
    level = [] if baseline is None else [Line2D([], [], color=GREY, linestyle=(0, (5, 3)), label=plain(baseline))]
    legend_above(figure, [*lines, *level])
