"""What all figures share: colours, hatches, axes, titles, footnotes, and how a figure becomes a file."""

import io
import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from leap.evaluation.settings import ImageControl
from leap.records.files import write_atomic

DPI = 200
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
_CONTROL_HATCHES = dict(
    zip((f"_{control}" for control in get_args(ImageControl) if control != "none"), ("///", "...", "xxx"), strict=True)
)


@dataclass(frozen=True)
class Look:
    """How a model is drawn."""

    colour: str
    hatch: str

    def patch(self, label: str) -> Patch:
        """Its entry in a legend."""
        return Patch(facecolor=self.colour, hatch=self.hatch, edgecolor="white", linewidth=0, label=plain(label))


def looks(models: Iterable[str], baseline: str | None) -> dict[str, Look]:
    """The baseline grey, the others in the palette's order; an image control hatched in the colour of its model."""
    colours: dict[str, str] = {} if baseline is None else {baseline: GREY}
    found = {}
    for model in models:
        own, hatch = (model, "") if model == baseline else uncontrolled(model)
        colour = colours.setdefault(own, PALETTE[(len(colours) - (baseline is not None)) % len(PALETTE)])
        found[model] = Look(colour, hatch)
    return found


def uncontrolled(model: str) -> tuple[str, str]:
    """(the model whose image control this is, the control's hatch); (itself, "") for any other model."""
    for suffix, hatch in _CONTROL_HATCHES.items():
        if model.endswith(suffix):
            return model.removesuffix(suffix), hatch
    return model, ""


def lightened(colour: str) -> tuple[float, ...]:
    """The colour of a bar's second part."""
    return tuple(0.45 * part + 0.55 for part in to_rgb(colour))


def plain(text: object) -> str:
    """Text that matplotlib takes as it stands (a "$" would start a formula)."""
    return str(text).replace("$", r"\$")


def new_figure(width: float, height: float, title: str, *footnotes: str) -> Figure:
    """A figure (inches) of its own, outside pyplot's global state."""
    figure = Figure(figsize=(width, height))
    heading = figure.suptitle(title, x=0.01, y=1 - 0.1 / height, ha="left", va="top", fontsize=13, fontweight="bold")
    heading.set_in_layout(False)
    _keep_free(figure, _TITLE_HEIGHT)
    lines = [textwrap.fill(plain(footnote), int(width * 15)) for footnote in footnotes if footnote]
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
    columns = max(1, int(figure.get_figwidth() * 11 / (longest + 6)))
    top = 1 - _TITLE_HEIGHT / figure.get_figheight()
    legend = figure.legend(
        handles=list(handles), loc="upper left", bbox_to_anchor=(0, top), ncols=columns, frameon=False, fontsize=9
    )
    legend.set_in_layout(False)
    _keep_free(figure, _TITLE_HEIGHT + 0.15 + _LEGEND_LINE * math.ceil(len(handles) / columns))


def save(figure: Figure, path: Path) -> None:
    """Write a PNG; the same figure gives the same bytes."""
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=DPI, facecolor="white", metadata={"Software": None})
    write_atomic(path, image.getvalue())
