"""The two kinds of chart that every model x dimension table is drawn as: bars for a few models, a heat map for many."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke

from leap.report.style import FAINT, FLOOR, GREY, INK, Look, clean, is_dark, label, lightened
from leap.statistics.means import MEAN
from leap.vlabench.dimensions import NAMES

GROUPS = (*NAMES, MEAN)
_PLACES = [*range(len(NAMES)), len(NAMES) + 0.25]  # the mean stands a little apart
_GROUP_WIDTH = 0.84
_LEVEL_UP_TO = 3  # bars in a group whose numbers fit below them side by side
_NUMBERED = 15  # percent of a bar that a part must have for its number to fit


Bounds = tuple[pd.DataFrame, pd.DataFrame]
"""Lower and upper bounds, each models x `GROUPS`; NaN where they are not known."""


def draw_bars(
    axes: Axes,
    layers: Sequence[pd.DataFrame],
    looks: Mapping[str, Look],
    marks: pd.DataFrame,
    bounds: Bounds,
    labels: Sequence[str],
    most: float,
) -> None:
    """Upright bars in one group a dimension, the layers upon one another, on an axis up to the score's maximum, with
    the sum's interval. The sums stand under the bars, where no line runs through them, with "*" where `marks` is; a
    cell that is empty in any layer has no bar but "n/a"."""
    width, total = _GROUP_WIDTH / len(looks), sum(layers)
    upright = len(looks) > _LEVEL_UP_TO
    texts: dict[str, Any] = {"ha": "center", "va": "top", "rotation": 90 if upright else 0, "fontsize": 7.5}
    texts |= {"xytext": (0, -3), "textcoords": "offset points", "annotation_clip": False}
    for index, (model, look) in enumerate(looks.items()):
        for group, place in zip(GROUPS, _PLACES, strict=True):
            x, value = place + (index - (len(looks) - 1) / 2) * width, total.loc[model, group]
            star = "*" if marks.loc[model, group] else ""
            if pd.isna(value):
                axes.annotate(f"n/a{star}", (x, 0), color=GREY, **texts)
                continue
            _draw_stack(axes, x, width * 0.92, [layer.loc[model, group] for layer in layers], look)
            low, high = (bound.loc[model, group] for bound in bounds)
            draw_interval(axes, (x, x), (low, high), "_")
            axes.annotate(f"{value:.1f}{star}", (x, 0), color=INK, **texts)
    axes.axvline((_PLACES[-2] + _PLACES[-1]) / 2, color=FAINT, linewidth=1)
    axes.set_ylim(0, most)
    axes.set_xlim(_PLACES[0] - 0.55, _PLACES[-1] + 0.55)
    clean(axes, "y")
    axes.set_xticks(_PLACES, labels)
    axes.tick_params(axis="x", pad=28 if upright else 14)


def draw_interval(axes: Axes, x: tuple[float, float], y: tuple[float, float], cap: str) -> None:
    """A line between two bounds, with a white rim that parts it from a bar of any colour; none where one is NaN."""
    if not any(map(math.isnan, (*x, *y))):
        rim = [withStroke(linewidth=2.2, foreground="white")]
        line: dict[str, Any] = {"color": INK, "linewidth": 0.9, "marker": cap, "markersize": 3.5, "zorder": 4}
        axes.plot(x, y, path_effects=rim, clip_on=False, **line)


def _draw_stack(axes: Axes, x: float, width: float, parts: Sequence[float], look: Look) -> None:
    colours = [look.colour, lightened(look.colour)]
    bottom = 0.0
    for part, colour in zip(parts, colours, strict=False):
        axes.bar(x, part, width, bottom, color=colour, hatch=look.hatch, edgecolor="white", linewidth=0)
        bottom += part


def draw_floor(axes: Axes, floors: pd.Series) -> None:
    """A line across each group at what a planner that never looks has there; none where it is not known."""
    for group, place in zip(GROUPS, _PLACES, strict=True):
        if pd.notna(floors[group]):
            ends = [place - _GROUP_WIDTH / 2, place + _GROUP_WIDTH / 2]
            axes.plot(ends, [floors[group]] * 2, color=FLOOR, linewidth=1.6, solid_capstyle="butt", zorder=3)


def draw_means(axes: Axes, means: pd.Series, bounds: tuple[pd.Series, pd.Series], floor: float, most: float) -> None:
    """Beside a heat map: the mean of each of its rows as a dot with its interval, and the floor as a line."""
    for row, model in enumerate(means.index):
        draw_interval(axes, (bounds[0][model], bounds[1][model]), (row + 0.5, row + 0.5), "|")
        axes.plot(means[model], row + 0.5, "o", color=INK, markersize=3.5, zorder=5)
    if pd.notna(floor):
        axes.axvline(floor, color=FLOOR, linewidth=1.2)
    clean(axes, "x").set_xlim(0, most)
    axes.set_xticks([0, most / 2, most])
    axes.tick_params(labelleft=False, labelsize=8)


def draw_differences(
    axes: Axes,
    points: pd.DataFrame,
    bounds: Bounds,
    texts: pd.DataFrame,
    looks: Mapping[str, Look],
    labels: Sequence[str],
) -> None:
    """Bars to the right of zero and to the left, in one group a dimension from top to bottom, each with its interval
    and its text behind it."""
    height = _GROUP_WIDTH / len(points)
    for index, model in enumerate(points.index):
        for group, place in zip(GROUPS, _PLACES, strict=True):
            y, value = place + (index - (len(points) - 1) / 2) * height, points.loc[model, group]
            low, high = (bound.loc[model, group] for bound in bounds)
            if pd.notna(value):
                look = looks[model]
                axes.barh(y, value, height * 0.9, color=look.colour, hatch=look.hatch, edgecolor="white", linewidth=0)
                draw_interval(axes, (low, high), (y, y), "|")
            right = pd.isna(value) or value >= 0
            ends = [end for end in (0.0, value, low, high) if pd.notna(end)]
            axes.annotate(
                texts.loc[model, group],
                (max(ends) if right else min(ends), y),
                (4 if right else -4, 0),
                textcoords="offset points",
                ha="left" if right else "right",
                va="center",
                fontsize=7.5,
                color=GREY if pd.isna(value) else INK,
            )
    axes.axvline(0, color=INK, linewidth=1)
    for above, below in pairwise(_PLACES):
        axes.axhline((above + below) / 2, color=FAINT, linewidth=1)
    clean(axes, "x")
    axes.set_yticks(_PLACES, labels)
    axes.set_ylim(_PLACES[-1] + 0.55, _PLACES[0] - 0.55)
    _leave_room_for_texts(axes, pd.concat([points, *bounds]))


def _leave_room_for_texts(axes: Axes, drawn: pd.DataFrame) -> None:
    low, high = min(0.0, drawn.min().min()), max(0.0, drawn.max().max())
    room = 0.22 * ((high - low) or 1.0)
    axes.set_xlim(low - (room if low < 0 else 0.02 * room), high + room)


def draw_shares(axes: Axes, counts: pd.DataFrame, colours: Mapping[str, str]) -> None:
    """A bar to the right for each row, 100 % long, in parts of these columns and colours; "n/a" for one without any.
    Parts that are long enough have their number."""
    for place, (_, row) in enumerate(counts.iterrows()):
        total, left = row.sum(), 0.0
        if not total:
            axes.text(1, place, "n/a", va="center", fontsize=8, color=GREY)
            continue
        for kind, colour in colours.items():
            share = 100 * float(row[kind]) / float(total)
            axes.barh(place, share, 0.8, left, color=colour, edgecolor="white", linewidth=0.4)
            if share >= _NUMBERED:
                ink = "white" if is_dark(colour) else INK
                axes.text(left + share / 2, place, f"{row[kind]}", ha="center", va="center", fontsize=7, color=ink)
            left += share
    axes.set_xlim(0, 100)
    axes.set_ylim(len(counts) - 0.5, -0.5)
    axes.set_yticks(range(len(counts)), [label(name) for name in counts.index])
    axes.set_xticks([0, 50, 100], ["0", "50", "100"])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=8.5, labelcolor=INK)


def draw_heat_map(
    axes: Axes,
    table: pd.DataFrame,
    texts: pd.DataFrame,
    colours: str,
    limits: tuple[float, float],
    labels: Sequence[str],
) -> None:
    """Coloured cells with their texts, the first model on top; an empty cell is grey."""
    axes.set_facecolor(FAINT)
    cells = axes.pcolormesh(
        table.to_numpy(float), cmap=colours, vmin=limits[0], vmax=limits[1], edgecolors="white", linewidth=1
    )
    for row, model in enumerate(table.index):
        for column, group in enumerate(GROUPS):
            value = table.loc[model, group]
            dark = pd.notna(value) and is_dark(cells.cmap(cells.norm(value)))
            ink = "white" if dark else INK
            axes.text(
                column + 0.5, row + 0.5, texts.loc[model, group], ha="center", va="center", fontsize=7.5, color=ink
            )
    axes.axvline(len(NAMES), color="white", linewidth=4)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=8.5, labeltop=True, labelbottom=False)
    axes.set_xticks([column + 0.5 for column in range(len(GROUPS))], labels)
    axes.set_yticks([row + 0.5 for row in range(len(table))], [label(model) for model in table.index])
    axes.set_ylim(len(table), 0)
