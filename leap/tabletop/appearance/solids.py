"""How the books, playing cards, solution tubes and material blocks look."""

from collections.abc import Callable
from functools import partial

import numpy as np

from leap.tabletop.appearance import textures
from leap.tabletop.appearance.look import Look, Paint
from leap.tabletop.appearance.meshes import revolve, smooth

_BOOKS = {
    "red_book": ("#b51f2b", "#f3d27a", "ROME"),
    "blue_book": ("#1f4fae", "#f0e3b2", "SEA"),
    "green_book": ("#1d7a43", "#f3d98a", "TREES"),
    "yellow_book": ("#efbf12", "#5b3a10", "SUN"),
    "purple_book": ("#6b2f96", "#f0d9a0", "STARS"),
}
_CARDS = {
    "ace_of_spades": ("A", "spades"),
    "king_of_hearts": ("K", "hearts"),
    "queen_of_diamonds": ("Q", "diamonds"),
    "ten_of_clubs": ("10", "clubs"),
    "seven_of_hearts": ("7", "hearts"),
    "two_of_spades": ("2", "spades"),
}
_SOLUTIONS = {"red": "#e0182d", "blue": "#1552d8", "green": "#17a04a", "yellow": "#f4d60e", "purple": "#8420b5"}


def _book(look: Look, colour: str, trim: str, words: str) -> None:
    """A standing book: covers along x, its spine at -x, leaves that show on top and at the fore edge."""
    half_width, half_thick, tall = 0.066, 0.021, 0.165
    cloth = Paint(colour, 0.2)
    leaves = Paint(gloss=0.0, image=textures.pages(), cube=True)
    look.box(leaves, (half_width - 0.004, half_thick - 0.003, tall / 2 - 0.004), (0.001, 0, tall / 2))
    cover = Paint(gloss=0.2, image=textures.book_cover(colour, trim, words))
    for side in (-1, 1):
        look.box(cloth, (half_width, 0.0022, tall / 2), (0, side * (half_thick - 0.0022), tall / 2))
        look.panel(cover, half_width, tall / 2, (0, side * half_thick, tall / 2), 0 if side < 0 else 180)
    look.box(cloth, (0.003, half_thick, tall / 2), (-half_width, 0, tall / 2))
    spine = Paint(gloss=0.2, image=textures.book_spine(colour, trim))
    look.panel(spine, half_thick, tall / 2, (-half_width - 0.003, 0, tall / 2), 270)


def _card(look: Look, rank: str, suit: str) -> None:
    """A card that lies face up, its upper edge towards +x."""
    half_long, half_short = 0.050, 0.033
    look.box(Paint("#f4f4f0", 0.1), (half_short, half_long, 0.0012), (0, 0, 0.0012), (0, 0, -90))
    face = Paint(gloss=0.1, image=textures.card_face(rank, suit))
    look.box(face, (half_short, half_long, 0.0004), (0, 0, 0.0026), (0, 0, -90))


def _solution(look: Look, colour: str) -> None:
    """A stoppered test tube in a small foot."""
    foot = [(0, 0), (0.025, 0), (0.025, 0.005), (0.016, 0.010), (0.0145, 0.030), (0.0115, 0.030), (0.0115, 0.012)]
    look.mesh(Paint("#eceff2", 0.4), revolve(foot, 24))
    # The liquid fills the tube to its outer side: glass in front of it would wash its colour out.
    liquid = smooth([(0, 0.008), (0.008, 0.010), (0.0122, 0.020), (0.0122, 0.060), (0.0122, 0.098)], 3)
    look.mesh(Paint(colour, 0.9, glow=0.2), revolve([*liquid, (0, 0.098)], 18))
    glass = [(0.0122, 0.098), (0.0122, 0.126), (0.0138, 0.128), (0.0138, 0.131)]
    look.mesh(Paint("#e4f1f666", 1.0), revolve(glass, 18))
    look.mesh(Paint("#b98a55", 0.1), revolve([(0.0105, 0.120), (0.0125, 0.143), (0, 0.144)], 16))


def _block(look: Look, paint: Paint) -> None:
    """A cube, 62 mm a side."""
    half = 0.031
    look.box(paint, (half, half, half), (0, 0, half))


def _gold_block(look: Look) -> None:
    gold = Paint(gloss=1.0, image=textures.sheen("#b57e0a", "#ffe27a"), cube=True)
    _block(look, gold)
    look.box(Paint("#f7cf52", 1.0), (0.020, 0.020, 0.001), (0, 0, 0.062))


def _foam_block(look: Look) -> None:
    _block(look, Paint(gloss=0.0, image=textures.pores("#f6e08a", "#cfae4e", 2), cube=True))


def _ice_block(look: Look) -> None:
    frost = Paint("#ffffffd0", 0.2)
    look.rod(frost, 0.0022, (-0.012, 0.008, 0.014), (0.012, -0.006, 0.046))
    look.rod(frost, 0.0022, (-0.006, -0.014, 0.040), (0.016, 0.012, 0.020))
    for x, y, z in np.random.default_rng(3).uniform((-0.022, -0.022, 0.01), (0.022, 0.022, 0.052), (9, 3)):
        look.ball(frost, 0.0028, (x, y, z))
    _block(look, Paint("#a5ddf5a0", 1.0, image=textures.sheen("#9fd6f2", "#ffffff"), cube=True))


def _mirror_block(look: Look) -> None:
    glass = Paint("#dfe8ee", 1.0, image=textures.sheen("#56707f", "#f4fbff"), cube=True)
    look.box(glass, (0.0305, 0.0305, 0.0305), (0, 0, 0.0305))
    look.box(Paint("#aebcc6", 1.0, mirror=0.75), (0.028, 0.028, 0.0005), (0, 0, 0.0615))
    frame = Paint("#2b3036", 0.6)
    for a in (-0.0295, 0.0295):
        look.box(frame, (0.0310, 0.0016, 0.0016), (0, a, 0.0605))
        look.box(frame, (0.0016, 0.0310, 0.0016), (a, 0, 0.0605))
        for b in (-0.0295, 0.0295):
            look.box(frame, (0.0016, 0.0016, 0.031), (a, b, 0.031))


def _steel_block(look: Look) -> None:
    steel = Paint(gloss=1.0, image=textures.sheen("#6f777f", "#d9dfe4", 0.22), cube=True)
    _block(look, steel)
    for x in (-0.022, 0.022):
        for y in (-0.022, 0.022):
            look.drum(Paint("#565d64", 0.8), 0.0042, 0.0012, (x, y, 0.062))


LOOKS: dict[str, Callable[[Look], None]] = {
    **{name: partial(_book, colour=c, trim=t, words=w) for name, (c, t, w) in _BOOKS.items()},
    **{name: partial(_card, rank=rank, suit=suit) for name, (rank, suit) in _CARDS.items()},
    **{f"{name}_solution": partial(_solution, colour=colour) for name, colour in _SOLUTIONS.items()},
    "steel_block": _steel_block,
    "wood_block": partial(_block, paint=Paint(gloss=0.1, image=textures.wood("#dcae74", "#a9743c", 31), cube=True)),
    "foam_block": _foam_block,
    "stone_block": partial(_block, paint=Paint(gloss=0.1, image=textures.speckle("#a9a69f", "#5f5d5a", 5), cube=True)),
    "gold_block": _gold_block,
    "rubber_block": partial(_block, paint=Paint(gloss=0.1, image=textures.speckle("#2c2c2e", "#141415", 6), cube=True)),
    "ice_block": _ice_block,
    "mirror_block": _mirror_block,
}
