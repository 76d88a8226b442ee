"""What all figures share: colours, hatches, labels, axes, titles, footnotes, and how a figure becomes files."""

import io
import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.typing import ColorType

from leap.cli import FIGURE_FORMATS
from leap.evaluation.settings import without_control
from leap.records.files import write_atomic
from leap.report.selection import find_series

DRAWN = ("png", "svg")  # unless others are asked for
DPI = 300
WIDTH = 9.5  # inches: on the 7 of a page's width the smallest text is still over 5 points
_TITLE_HEIGHT, _LEGEND_LINE = 0.38, 0.19  # inches
GREY, FAINT, INK = "#7f7f7f", "#e3e3e3", "#222222"
FLOOR = "#b00020"  # what never looking has
# Okabe and Ito, "Color Universal Design" (2008): told apart under every common colour blindness.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000")
# Of diagnoses: right, the right form with wrong ids (warm), other steps (cool), no plan of ids (dark), no plan (grey).
KIND_COLOURS = {
    "correct": "#009E73",
    "wrong object": "#F0A830",
    "wrong container": "#F7D98B",
    "wrong object and container": "#B87400",
    "wrong order": "#A9D6F5",
    "extra steps": "#56B4E9",
    "missing steps": "#0072B2",
    "wrong skill": "#1F3B63",
    "loop": "#CC79A7",
    "name instead of id": "#7A2E5D",
    "unreadable": "#4D4D4D",
    "refused": "#8C8C8C",
    "not answered": "#C9C9C9",
}
# Which other images a model was asked with -> its hatch, and what figures call it.
CONTROLS = {
    "swapped": ("///", "other scenes' images"),
    "blank": ("...", "blank images"),
    "absent": ("xxx", "no images"),
}
_PALEST = 0.45  # of a run's colour, in its first checkpoint


@dataclass(frozen=True)
class Look:
    """How a model is drawn."""

    colour: str
    hatch: str

    def patch(self, model: str) -> Patch:
        """Its entry in a legend."""
        return Patch(facecolor=self.colour, hatch=self.hatch, edgecolor="white", linewidth=0, label=label(model))


def looks(models: Iterable[str], baseline: str | None) -> dict[str, Look]:
    """One look a model for all figures: the baseline grey, the others in the palette's order. The checkpoints of a run
    (`find_series`) are shades of one colour, the last one its full colour; an image control is its model, hatched."""
    own = {model: (model, "") if model == baseline else uncontrolled(model) for model in models}
    series = find_series(dict.fromkeys(name for name, _ in own.values() if name != baseline))
    shades = {
        name: (run, _PALEST + (1 - _PALEST) * place / (len(steps) - 1))
        for run, steps in series.items()
        for place, name in enumerate(steps)
    }
    colours: dict[str, str] = {}
    found = {}
    for model, (name, hatch) in own.items():
        run, share = shades.get(name, (name, 1.0))
        if name != baseline:
            colours.setdefault(run, PALETTE[len(colours) % len(PALETTE)])
        found[model] = Look(GREY if name == baseline else lightened(colours[run], share), hatch)
    return found


def uncontrolled(model: str) -> tuple[str, str]:
    """(the model whose image control this is, the control's hatch); (itself, "") for any other model."""
    name, control = without_control(model)
    return name, CONTROLS[control][0] if control else ""


def label(model: str) -> str:
    """What figures call a model: a folder's name says nothing to who has not made it."""
    name, control = without_control(model)
    return plain(f"{name}, {CONTROLS[control][1]}" if control else model)


def lightened(colour: str, share: float = 0.45) -> str:
    """This share of a colour, the rest white."""
    return to_hex([share * part + 1 - share for part in to_rgb(colour)])


def is_dark(colour: ColorType) -> bool:
    """Whether white is read better upon a colour than black."""
    red, green, blue = to_rgb(colour)
    return 0.3 * red + 0.59 * green + 0.11 * blue < 0.5


def plain(text: object) -> str:
    """Text that matplotlib takes as it stands (a "$" would start a formula)."""
    return str(text).replace("$", r"\$")


def new_figure(width: float, height: float, title: str, *footnotes: str) -> Figure:
    """A figure (inches) of its own, outside pyplot's global state."""
    figure = Figure(figsize=(width, height))
    heading = figure.suptitle(title, x=0.01, y=1 - 0.1 / height, ha="left", va="top", fontsize=13, fontweight="bold")
    heading.set_in_layout(False)
    _keep_free(figure, _TITLE_HEIGHT)
    lines = [textwrap.fill(plain(footnote), int(width * 14.5)) for footnote in footnotes if footnote]
    if lines:
        figure.supxlabel("\n".join(lines), x=0.01, ha="left", fontsize=8, color=INK)
    return figure


def _keep_free(figure: Figure, height: float) -> None:
    """Keep the axes out of the upper `height` inches: the layout would put a title and a legend upon each other."""
    figure.set_layout_engine("constrained", rect=(0, 0, 1, 1 - height / figure.get_figheight()))


def clean(axes: Axes, grid: Literal["x", "y", "both"]) -> Axes:
    """Axes with nothing but what carries data; a faint grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(length=0, labelsize=9, labelcolor=INK)
    axes.grid(axis=grid, color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    return axes


def legend_above(figure: Figure, handles: Sequence[Any]) -> None:
    """A legend between the title and the axes, in as many columns as fit."""
    longest = max(len(handle.get_label()) for handle in handles)
    columns = max(1, int(figure.get_figwidth() * 13.5 / (longest + 7)))
    top = 1 - _TITLE_HEIGHT / figure.get_figheight()
    legend = figure.legend(
        handles=list(handles), loc="upper left", bbox_to_anchor=(0, top), ncols=columns, frameon=False, fontsize=9
    )
    legend.set_in_layout(False)
    _keep_free(figure, _TITLE_HEIGHT + 0.15 + _LEGEND_LINE * math.ceil(len(handles) / columns))


def save(figure: Figure, path: Path, formats: Sequence[str] = DRAWN) -> list[Path]:
    """Write <path>.png, .svg or .pdf; the same figure gives the same bytes. None is left in another format: it would be
    of other results."""
    written = []
    for name in formats:
        image, date = io.BytesIO(), {"png": "Software", "svg": "Date", "pdf": "CreationDate"}[name]
        with matplotlib.rc_context({"svg.hashsalt": path.name, "pdf.fonttype": 42}):  # 42: letters stay letters
            figure.savefig(image, format=name, dpi=DPI, facecolor="white", metadata={date: None})
        written.append(path.with_name(f"{path.name}.{name}"))
        write_atomic(written[-1], image.getvalue())
    remove(path, [name for name in FIGURE_FORMATS if name not in formats])
    return written


def remove(path: Path, formats: Sequence[str] = FIGURE_FORMATS) -> None:
    """Remove an older figure for which there is no data now."""
    for name in formats:
        path.with_name(f"{path.name}.{name}").unlink(missing_ok=True)
