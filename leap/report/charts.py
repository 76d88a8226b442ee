"""The two kinds of chart that every model x dimension table is drawn as: bars for a few models, a heat map for many."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb

from leap.report.style import FAINT, FLOOR, GREY, INK, Look, clean, lightened, plain
from leap.statistics.means import MEAN
from leap.vlabench.dimensions import NAMES

GROUPS = (*NAMES, MEAN)
_PLACES = [*range(len(NAMES)), len(NAMES) + 0.25]  # the mean stands a little apart
_GROUP_WIDTH = 0.84
_NUMBERED = 9  # percent of a bar that a part must have for its number to fit


def draw_bars(
    axes: Axes,
    layers: Sequence[pd.DataFrame],
    looks: Mapping[str, Look],
    marks: pd.DataFrame,
    inches: float,
    intervals: tuple[pd.DataFrame, pd.DataFrame] | None = None,
) -> None:
    """Upright bars in one group a dimension, the layers upon one another, with the sum on top and "*" where `marks` is.

    A cell that is empty in any layer has no bar but "n/a". `inches` is the width of the axes, about. `intervals` are
    the lower and upper bounds of the sum, drawn where they are known.
    """
    width, total = _GROUP_WIDTH / len(looks), sum(layers)
    room = inches / len(GROUPS) / len(looks)  # of one bar
    upright = room < 0.35
    blank = " " if upright else ""
    texts: dict[str, Any] = {"ha": "center", "va": "bottom", "rotation": 90 if upright else 0}
    texts |= {"fontsize": min(8, 60 * room), "zorder": 4}
    texts["bbox"] = {"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.3}  # a line may run behind it
    for index, (model, look) in enumerate(looks.items()):
        for group, place in zip(GROUPS, _PLACES, strict=True):
            x, value = place + (index - (len(looks) - 1) / 2) * width, total.loc[model, group]
            star = "*" if marks.loc[model, group] else ""
            if pd.isna(value):
                axes.text(x, 0, f"{blank}n/a{star}", color=GREY, **texts)
                continue
            _draw_stack(axes, x, width * 0.92, [layer.loc[model, group] for layer in layers], look)
            if intervals is not None and pd.notna(high := intervals[1].loc[model, group]):
                axes.plot([x, x], [intervals[0].loc[model, group], high], color=INK, linewidth=0.9, alpha=0.7)
                value_at = max(value, high)
            else:
                value_at = value
            axes.text(x, value_at, f"{blank}{value:.1f}{star}", color=INK, **texts)
    axes.axvline((_PLACES[-2] + _PLACES[-1]) / 2, color=FAINT, linewidth=1)
    axes.margins(y=0.18 if upright else 0.1)
    axes.set_ylim(bottom=0)
    axes.set_xlim(_PLACES[0] - 0.55, _PLACES[-1] + 0.55)
    clean(axes, "y")


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


def label_groups(axes: Axes, labels: Sequence[str]) -> None:
    """Write a label under each group of bars."""
    axes.set_xticks(_PLACES, labels)


def draw_differences(
    axes: Axes, points: pd.DataFrame, texts: pd.DataFrame, looks: Mapping[str, Look], labels: Sequence[str]
) -> None:
    """Bars to the right of zero and to the left, in one group a dimension from top to bottom, each with its text."""
    height = _GROUP_WIDTH / len(points)
    for index, model in enumerate(points.index):
        for group, place in zip(GROUPS, _PLACES, strict=True):
            y, value = place + (index - (len(points) - 1) / 2) * height, points.loc[model, group]
            if pd.notna(value):
                look = looks[model]
                axes.barh(y, value, height * 0.9, color=look.colour, hatch=look.hatch, edgecolor="white", linewidth=0)
            right = pd.isna(value) or value >= 0
            axes.annotate(
                texts.loc[model, group],
                (0 if pd.isna(value) else value, y),
                (4 if right else -4, 0),
                textcoords="offset points",
                ha="left" if right else "right",
                va="center",
                fontsize=8.5,
                color=GREY if pd.isna(value) else INK,
            )
    axes.axvline(0, color=INK, linewidth=1)
    for above, below in pairwise(_PLACES):
        axes.axhline((above + below) / 2, color=FAINT, linewidth=1)
    clean(axes, "x")
    axes.set_yticks(_PLACES, labels)
    axes.set_ylim(_PLACES[-1] + 0.55, _PLACES[0] - 0.55)
    _leave_room_for_texts(axes, points)


def _leave_room_for_texts(axes: Axes, points: pd.DataFrame) -> None:
    low, high = min(0.0, points.min().min()), max(0.0, points.max().max())
    room = 0.2 * ((high - low) or 1.0)
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
                ink = "white" if _is_dark(*to_rgb(colour)) else INK
                axes.text(left + share / 2, place, f"{row[kind]}", ha="center", va="center", fontsize=7, color=ink)
            left += share
    axes.set_xlim(0, 100)
    axes.set_ylim(len(counts) - 0.5, -0.5)
    axes.set_yticks(range(len(counts)), [plain(name) for name in counts.index])
    axes.set_xticks([0, 50, 100], ["0", "50", "100 %"])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=9, labelcolor=INK)


def _is_dark(red: float, green: float, blue: float) -> bool:
    """Whether white is read better upon a colour than black."""
    return 0.3 * red + 0.59 * green + 0.11 * blue < 0.5


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
            red, green, blue, _ = cells.cmap(cells.norm(table.loc[model, group]))
            dark = pd.notna(table.loc[model, group]) and _is_dark(red, green, blue)
            ink = "white" if dark else INK
            axes.text(column + 0.5, row + 0.5, texts.loc[model, group], ha="center", va="center", fontsize=8, color=ink)
    axes.axvline(len(NAMES), color="white", linewidth=4)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=9, labeltop=True, labelbottom=False)
    axes.set_xticks([column + 0.5 for column in range(len(GROUPS))], labels)
    axes.set_yticks([row + 0.5 for row in range(len(table))], [plain(model) for model in table.index])
    axes.set_ylim(len(table), 0)
