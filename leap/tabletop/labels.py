"""Where the objects' numbers go in a view, and how they are drawn."""

from collections.abc import Mapping
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

LABEL_SHARE = 0.105  # a label's diameter as a share of the view's size
_LEAST_SHARE = 0.0002  # an object counts as visible in a view from this share of its pixels (12 of 240 x 240)
_OVERSAMPLE = 4


def visible_numbers(owners: np.ndarray) -> list[int]:
    """The objects' numbers that a view shows, smallest visible area first. `owners`: (h, w) int, 0 where no object."""
    counts = np.bincount(owners.ravel())
    enough = max(4, _LEAST_SHARE * owners.size)
    return [int(number) for number in np.argsort(counts, kind="stable") if number and counts[number] >= enough]


def place_labels(owners: np.ndarray) -> dict[int, tuple[int, int]]:
    """The (column, row) of every visible object's label, near the object's middle and apart from other labels.

    `owners`: (h, w) int, the number of the object that each pixel shows, 0 where none. A label moves aside from the
    middle of an object that it would hide, and from other objects. Small objects choose first, since a large one has
    more room to give way.
    """
    diameter = LABEL_SHARE * owners.shape[0]
    rows, columns = np.mgrid[0 : owners.shape[0] : 2, 0 : owners.shape[1] : 2]
    near_edge = np.minimum.reduce([rows, columns, owners.shape[0] - rows, owners.shape[1] - columns]) < diameter / 2
    seen = owners[::2, ::2]
    places: dict[int, tuple[int, int]] = {}
    crowded = 1e3 * near_edge
    for number in visible_numbers(owners):
        column, row = anchor(owners, number)
        cost = np.hypot(rows - row, columns - column) + crowded
        cost += 0.1 * (row - rows)  # rather below than above: the upper part of an object tells more
        own, others = seen == number, (seen > 0) & (seen != number)
        covered = _sums_around(own, int(0.4 * diameter / 2)) / max(1, own.sum())  # a small one may have odd pixels only
        cost += 1.6 * diameter * np.maximum(covered - 0.4, 0)
        cost += 3 * diameter * _sums_around(others, int(0.4 * diameter / 2)) / (0.4 * diameter) ** 2
        best = int(cost.argmin())
        places[number] = (int(columns.flat[best]), int(rows.flat[best]))
        gap = np.hypot(rows - rows.flat[best], columns - columns.flat[best])
        crowded += np.where(gap < 1.04 * diameter, 1e4 - 100 * gap, 0)
    return places


def _sums_around(mask: np.ndarray, reach: int) -> np.ndarray:
    """(h, w) number of true pixels within `reach` rows and columns of each pixel of a (h, w) mask."""
    padded = np.pad(mask.astype(int), ((reach + 1, reach), (reach + 1, reach))).cumsum(0).cumsum(1)
    side = 2 * reach + 1
    return padded[side:, side:] - padded[:-side, side:] - padded[side:, :-side] + padded[:-side, :-side]


def anchor(owners: np.ndarray, number: int) -> tuple[int, int]:
    """The (column, row) of the object's pixel that is nearest to the middle of its visible pixels."""
    rows, columns = np.nonzero(owners == number)
    best = np.hypot(rows - rows.mean(), columns - columns.mean()).argmin()
    return int(columns[best]), int(rows[best])


def draw_labels(image: Image.Image, owners: np.ndarray, places: Mapping[int, tuple[int, int]]) -> Image.Image:
    """A copy of one view with its numbers; a label that had to move off its object gets a line to it."""
    out = image.copy()
    draw_lines(out, owners, places)
    diameter = round(LABEL_SHARE * owners.shape[0])
    for number, (column, row) in places.items():
        drawn = disc(number, diameter)
        out.paste(drawn, (column - diameter // 2, row - diameter // 2), drawn)
    return out


def draw_lines(image: Image.Image, owners: np.ndarray, places: Mapping[int, tuple[int, int]]) -> None:
    """Draw white lines on one view, from each label that had to move off its object to that object."""
    draw = ImageDraw.Draw(image)
    width = max(1, round(LABEL_SHARE * owners.shape[0]) // 12)
    for number, (column, row) in places.items():
        if owners[row, column] != number:
            draw.line((column, row, *anchor(owners, number)), "white", width)


@cache
def disc(number: int, diameter: int) -> Image.Image:
    """White digits on a dark disc with a white rim (diameter x diameter, RGBA)."""
    size = diameter * _OVERSAMPLE
    image = Image.new("RGBA", (size, size), (255, 255, 255, 0))
    draw = ImageDraw.Draw(image)
    draw.ellipse((0, 0, size - 1, size - 1), "#ffffff")
    rim = 0.055 * size
    draw.ellipse((rim, rim, size - 1 - rim, size - 1 - rim), "#14213d")
    height = size * (0.74 if number < 10 else 0.60)
    font = ImageFont.load_default(height)
    middle = (size / 2, size / 2)
    draw.text(middle, str(number), "#ffffff", font, anchor="mm", stroke_width=height / 22, stroke_fill="#ffffff")
    return image.resize((diameter, diameter), Image.Resampling.LANCZOS)
