"""How the things that hold other things look: dishes, boxes, racks, furniture and small appliances."""

import math
from collections.abc import Callable

import numpy as np

from leap.tabletop.appearance import textures
from leap.tabletop.appearance.look import Look, Paint
from leap.tabletop.appearance.meshes import revolve, smooth, sweep

STEEL = Paint(gloss=0.9, image=textures.sheen("#9aa1a8", "#eef1f4"))
BLACK = Paint("#1c1d20", 0.6)
PINE = Paint(gloss=0.15, image=textures.wood("#d9ae76", "#b07f47", 41), cube=True)
WHITE = Paint("#f3f5f5", 0.5)


def _plate(look: Look) -> None:
    porcelain = Paint("#fafaf7", 0.7)
    look.mesh(porcelain, revolve([(0, 0.003), (0.050, 0), (0.056, 0.004), (0.092, 0.015), (0.093, 0.018)], 40))
    look.mesh(porcelain, revolve([(0.093, 0.018), (0.060, 0.0085), (0.056, 0.006), (0, 0.006)], 40))
    for outer, height in ((0.0905, 0.0176), (0.0625, 0.0096)):
        inner = outer - 0.005
        look.mesh(Paint("#2f62b8", 0.5), revolve([(outer, height), (inner, height - 0.0012)], 40))


def _bowl(look: Look) -> None:
    outside = smooth([(0, 0.003), (0.030, 0), (0.034, 0.006), (0.060, 0.026), (0.075, 0.054), (0.078, 0.064)], 3)
    inside = smooth([(0.078, 0.064), (0.073, 0.062), (0.057, 0.030), (0.030, 0.012), (0, 0.009)], 3)
    look.mesh(Paint("#2a8c8a", 0.7), revolve(outside, 36))
    look.mesh(Paint("#f4efe0", 0.6), revolve(inside, 36))


def _basket(look: Look) -> None:
    straw, dark = Paint(gloss=0.05, image=textures.weave("#dba860", "#7c4f1f")), Paint("#a9743a", 0.1)
    look.mesh(straw, revolve([(0, 0.002), (0.074, 0), (0.098, 0.075)], 36))
    look.mesh(straw, revolve([(0.094, 0.075), (0.071, 0.006), (0, 0.006)], 36))
    angles = np.linspace(0, 2 * math.pi, 37)
    for wave in (0.0, math.pi):
        twist = 16 * angles + wave
        rope = np.c_[(0.097 + 0.003 * np.cos(twist)) * np.cos(angles), (0.097 + 0.003 * np.cos(twist)) * np.sin(angles),
                     0.076 + 0.003 * np.sin(twist)]  # fmt: skip
        look.mesh(dark, sweep(rope, 0.0042, 6))
    for side in (-1, 1):
        arch = np.radians(np.linspace(0, 180, 13))
        line = np.c_[0.034 * np.cos(arch), side * (0.096 + 0.004 * np.sin(arch)), 0.074 + 0.032 * np.sin(arch)]
        look.mesh(dark, sweep(line, 0.0045, 8))


def _box(look: Look) -> None:
    """An open cardboard box with its four flaps folded outwards."""
    board = Paint(gloss=0.0, image=textures.cardboard(), cube=True)
    inside = Paint("#a67b48", 0.0)
    x, y, tall = 0.078, 0.056, 0.080
    look.box(inside, (x, y, 0.002), (0, 0, 0.002))
    for side in (-1, 1):
        look.box(board, (x, 0.002, tall / 2), (0, side * y, tall / 2))
        look.box(board, (0.002, y, tall / 2), (side * x, 0, tall / 2))
        look.box(board, (x - 0.003, 0.015, 0.0012), (0, side * (y + 0.010), tall - 0.010), (side * -48, 0, 0))
        look.box(board, (0.013, y - 0.003, 0.0012), (side * (x + 0.008), 0, tall - 0.009), (0, side * 48, 0))
        tape = (0.014, 0.0006, 0.020)
        look.box(Paint("#e6d3a0", 0.5), tape, (0, side * (y + 0.002), 0.020))


def _tray(look: Look) -> None:
    x, y = 0.096, 0.064
    wood = Paint(gloss=0.3, image=textures.wood("#a8693a", "#70401d", 47), cube=True)
    look.box(wood, (x, y, 0.004), (0, 0, 0.004))
    for side in (-1, 1):
        look.box(wood, (x + 0.003, 0.003, 0.013), (0, side * y, 0.013))
        look.box(wood, (0.003, y, 0.017), (side * x, 0, 0.017))
        bow = ((0, -0.026, 0.031), (0.005, -0.018, 0.046), (0.005, 0.018, 0.046), (0, 0.026, 0.031))
        look.mesh(STEEL, sweep(smooth([(side * (x + out), along, up) for out, along, up in bow]), 0.0036, 8))


def _pan(look: Look) -> None:
    middle = (-0.034, 0, 0)
    outside = [(0, 0), (0.056, 0), (0.074, 0.034), (0.0755, 0.036), (0.0725, 0.036)]
    look.mesh(Paint("#b3252c", 0.7), revolve(outside, 36), middle)
    look.mesh(Paint("#2b2c2f", 0.5), revolve([(0.0725, 0.036), (0.054, 0.005), (0, 0.005)], 36), middle)
    look.mesh(Paint("#3b3c40", 0.5), revolve([(0.046, 0.0056), (0.043, 0.0056)], 36), middle)
    look.mesh(STEEL, sweep([(0.034, 0, 0.028), (0.052, 0, 0.034), (0.064, 0, 0.038)], 0.006, 8))
    line = smooth([(0.060, 0, 0.037), (0.090, 0, 0.044), (0.122, 0, 0.050)])
    look.mesh(BLACK, sweep(line, 0.0088, 10))
    look.ball(BLACK, 0.0088, (0.122, 0, 0.050))


def _vase(look: Look) -> None:
    outside = smooth([(0, 0.003), (0.030, 0), (0.034, 0.008), (0.050, 0.060), (0.045, 0.100), (0.024, 0.136),
                      (0.025, 0.152), (0.034, 0.170)], 3)  # fmt: skip
    glaze = textures.bands(("#f5f2ea", "#1f4fa3", "#f5f2ea", "#f5f2ea", "#2b66c0", "#f5f2ea", "#1f4fa3", "#1f4fa3",
                            "#f5f2ea", "#2b66c0", "#2b66c0", "#f5f2ea", "#f5f2ea", "#1f4fa3"))  # fmt: skip
    look.mesh(Paint(gloss=0.8, image=glaze), revolve(outside, 32))
    look.mesh(Paint("#16305f", 0.3), revolve(smooth([(0.034, 0.170), (0.022, 0.150), (0.018, 0.120), (0, 0.118)], 3)))


def _tube_rack(look: Look) -> None:
    """Two shelves between end boards; the upper one shows two rows of holes."""
    x, y = 0.088, 0.040
    look.box(PINE, (x, y, 0.005), (0, 0, 0.005))
    look.box(PINE, (x, y, 0.005), (0, 0, 0.063))
    for side in (-1, 1):
        look.box(PINE, (0.005, y, 0.036), (side * (x + 0.003), 0, 0.036))
    for k in range(5):
        for row in (-1, 1):
            place = (-0.068 + 0.034 * k, row * 0.019, 0.0683)
            look.drum(Paint("#8a5f30", 0.0), 0.0138, 0.0004, place)
            look.drum(Paint("#22170c", 0.0), 0.0118, 0.0008, place)


def _beaker(look: Look) -> None:
    glass, mark = Paint("#d5ebf24d", 1.0), Paint("#ffffff", 0.1)
    look.mesh(Paint("#bcd9e266", 0.8), revolve([(0, 0.001), (0.040, 0.001), (0.040, 0.006), (0, 0.006)], 28))
    wall = [(0, 0), (0.040, 0), (0.0435, 0.006), (0.0435, 0.104), (0.0475, 0.112)]
    look.mesh(glass, revolve(wall, 32))
    look.mesh(glass, revolve([(0.0460, 0.112), (0.0420, 0.104), (0.0420, 0.006)], 32))
    angles = np.linspace(0, 2 * math.pi, 33)
    rim = np.c_[0.047 * np.cos(angles), 0.047 * np.sin(angles), np.full(33, 0.112)]
    look.mesh(Paint("#eef7fac0", 1.0), sweep(rim, 0.0020, 6))
    for facing in range(0, 360, 90):
        x, y = math.sin(math.radians(facing)), -math.cos(math.radians(facing))
        for k in range(5):
            height = 0.022 + 0.016 * k
            look.panel(mark, 0.010 if k % 2 else 0.006, 0.0014, (0.0440 * x, 0.0440 * y, height), facing)


def _shelf(look: Look) -> None:
    """A bookcase that opens towards -y: two boards with slots for books, and a lower back."""
    x, y, tall = 0.112, 0.056, 0.200
    board = Paint(gloss=0.2, image=textures.wood("#cf9a62", "#a06a38", 53), cube=True)
    divider = Paint("#d9ab78", 0.1)
    look.box(Paint("#4d3219", 0.05), (x, 0.003, tall / 2), (0, y - 0.002, tall / 2))
    for side in (-1, 1):
        look.box(board, (0.005, y, tall / 2), (side * (x - 0.005), 0, tall / 2))
    for height in (0.008, 0.102, tall - 0.004):
        look.box(board, (x - 0.005, y, 0.005), (0, 0, height))
    for height in (0.055, 0.149):
        for k in range(3):
            look.box(divider, (0.0030, y - 0.005, 0.043), (-0.054 + 0.054 * k, 0.004, height))


def _fridge(look: Look) -> None:
    """A two-door fridge, 0.3 m tall, whose doors face -x (the robot, where it is not turned)."""
    x, y = 0.080, 0.092
    look.box(WHITE, (x, y, 0.143), (0, 0, 0.155))
    look.box(Paint("#41474d", 0.2), (x + 0.004, y - 0.006, 0.138), (-0.006, 0, 0.155))
    for low, high in ((0.016, 0.196), (0.202, 0.298)):
        look.box(WHITE, (0.010, y, (high - low) / 2), (-x - 0.012, 0, (low + high) / 2))
    for low, high in ((0.110, 0.180), (0.216, 0.262)):
        look.rod(STEEL, 0.0042, (-x - 0.031, 0.072, low), (-x - 0.031, 0.072, high))
        for end in (low + 0.004, high - 0.004):
            look.rod(STEEL, 0.0035, (-x - 0.020, 0.072, end), (-x - 0.031, 0.072, end))
    look.box(Paint("#2c6fd1", 0.5), (0.001, 0.018, 0.006), (-x - 0.0225, -0.050, 0.276))
    look.box(Paint("#c9d0d4", 0.4), (x, y, 0.0012), (0, 0, 0.299))
    for side in (-1, 1):
        for end in (-1, 1):
            look.drum(BLACK, 0.008, 0.006, (end * 0.068, side * 0.074, 0.006))


def _juicer(look: Look) -> None:
    """A motor base with a red button, and a glass jug with juice, handle and lid."""
    base = smooth([(0.066, 0), (0.067, 0.010), (0.058, 0.050), (0.047, 0.074), (0.044, 0.078)], 3)
    look.mesh(Paint("#d8dde1", 0.6), revolve([(0, 0), *base, (0, 0.078)], 32))
    look.mesh(BLACK, revolve([(0.0675, 0), (0.0675, 0.010), (0.064, 0.012)], 32))
    look.drum(BLACK, 0.018, 0.004, (-0.061, 0, 0.038), (0, -78, 0))
    look.drum(Paint("#e0202b", 0.7, glow=0.3), 0.013, 0.007, (-0.061, 0, 0.038), (0, -78, 0))
    juice = [(0.038, 0.080), (0.0434, 0.138), (0, 0.138)]
    look.mesh(Paint("#f7a21b", 0.8, glow=0.2), revolve(juice, 32))
    look.mesh(Paint("#dff0f566", 1.0), revolve([(0.0434, 0.138), (0.0495, 0.205), (0.0495, 0.208)], 32))
    look.mesh(BLACK, revolve([(0.051, 0.203), (0.051, 0.214), (0.046, 0.219), (0, 0.221)], 32))
    look.drum(BLACK, 0.018, 0.009, (0, 0, 0.229))
    handle = smooth([(0.044, 0, 0.190), (0.066, 0, 0.186), (0.070, 0, 0.150), (0.062, 0, 0.114), (0.040, 0, 0.108)])
    look.mesh(BLACK, sweep(handle, 0.0055, 8))


def _card_mat(look: Look) -> None:
    look.box(Paint("#14452b", 0.0), (0.096, 0.072, 0.0015), (0, 0, 0.0015))
    look.box(Paint(gloss=0.0, image=textures.card_mat()), (0.096, 0.072, 0.0004), (0, 0, 0.0032))


LOOKS: dict[str, Callable[[Look], None]] = {
    "plate": _plate,
    "bowl": _bowl,
    "basket": _basket,
    "box": _box,
    "tray": _tray,
    "pan": _pan,
    "vase": _vase,
    "tube_rack": _tube_rack,
    "beaker": _beaker,
    "shelf": _shelf,
    "fridge": _fridge,
    "juicer": _juicer,
    "card_mat": _card_mat,
}
