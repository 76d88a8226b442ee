"""How the fruits look."""

import math
from collections.abc import Callable

import numpy as np

from leap.tabletop.appearance import textures
from leap.tabletop.appearance.look import Look, Paint
from leap.tabletop.appearance.meshes import revolve, smooth, sweep

BROWN = Paint("#5b3a1e", 0.1)
LEAF = Paint("#3f8f35", 0.2)


def _apple(look: Look) -> None:
    profile = [(0, 0.006), (0.014, 0), (0.031, 0.012), (0.042, 0.042), (0.035, 0.068), (0.018, 0.077), (0, 0.066)]
    look.mesh(Paint(gloss=0.6, image=textures.apple_skin()), revolve(smooth(profile)))
    look.rod(BROWN, 0.0026, (0, 0, 0.066), (0.006, 0.002, 0.093))
    look.egg(LEAF, (0.017, 0.008, 0.002), (0.021, 0.004, 0.088), (0, -22, 10))


def _banana(look: Look) -> None:
    yellow = Paint(gloss=0.3, image=textures.ramp(("#5e4a17", "#c9b52f", "#f6d327", "#f8d92b", "#f3cf25", "#8d9a2c")))
    for shift, lift, turn in ((-0.014, 0.0, -7), (0.014, 0.002, 7)):
        arc = np.radians(np.linspace(-52, 52, 17))
        line = np.c_[0.085 * np.sin(arc), 0.085 * np.cos(arc) - 0.066, np.zeros(17)]
        radii = 0.0175 * np.array([0.34, 0.42, 0.68, 0.86, 0.95, 1, 1, 1, 1, 1, 1, 0.96, 0.88, 0.76, 0.52, 0.32, 0.26])
        look.mesh(yellow, sweep(line, radii, 12), (0, shift, 0.0175 + lift), (0, 0, turn))
        tip = math.radians(turn)
        x, y = 0.069, -0.017
        look.ball(BROWN, 0.0062, (x * math.cos(tip) - y * math.sin(tip), shift + x * math.sin(tip) + y, 0.018 + lift))


def _orange(look: Look) -> None:
    profile = [(0.0415 * math.sin(a), 0.040 - 0.040 * math.cos(a)) for a in np.linspace(0, math.pi, 15)]
    look.mesh(Paint(gloss=0.35, image=textures.pores("#f58a0c", "#e87806", count=260)), revolve(profile))
    look.drum(Paint("#5c7a2a", 0.1), 0.005, 0.0015, (0, 0, 0.0805))
    look.egg(LEAF, (0.018, 0.009, 0.0015), (0.017, 0, 0.083), (0, -8, 0))


def _lemon(look: Look) -> None:
    profile = [(0, -0.043), (0.007, -0.041), (0.012, -0.034), (0.026, -0.020), (0.0295, 0), (0.026, 0.020),
               (0.012, 0.034), (0.006, 0.040), (0, 0.041)]  # fmt: skip
    skin = Paint(gloss=0.35, image=textures.pores("#fbe01f", "#edc911", count=200))
    look.mesh(skin, revolve(smooth(profile, 3)), (0, 0, 0.0295), (0, 90, 0))


def _pear(look: Look) -> None:
    profile = [(0, 0.004), (0.016, 0), (0.037, 0.016), (0.041, 0.036), (0.031, 0.062), (0.019, 0.084),
               (0.013, 0.100), (0, 0.106)]  # fmt: skip
    skin = textures.ramp(("#c6cf4e", "#b2c63e", "#9dbb34", "#90b030"))
    look.mesh(Paint(gloss=0.4, image=skin), revolve(smooth(profile)))
    look.rod(BROWN, 0.0026, (0, 0, 0.103), (0.007, 0, 0.126))
    look.egg(LEAF, (0.016, 0.008, 0.0015), (0.020, 0, 0.118), (0, -20, 0))


def _watermelon(look: Look) -> None:
    angles = np.linspace(0, math.pi, 17)
    profile = [(0.066 * math.sin(a), -0.083 * math.cos(a)) for a in angles]
    look.mesh(Paint(gloss=0.45, image=textures.melon()), revolve(profile, 36), (0, 0, 0.066), (0, 90, 0))
    look.rod(LEAF, 0.0035, (0.081, 0, 0.066), (0.084, 0.004, 0.078))


def _grapes(look: Look) -> None:
    skin = Paint("#6a2585", 0.8)
    berry = revolve([(0.0125 * math.sin(a), -0.0125 * math.cos(a)) for a in np.linspace(0, math.pi, 8)], 12)
    rng = np.random.default_rng(4)
    for layer, rows in enumerate(((4, 5, 4, 3, 2, 1), (3, 4, 3, 2, 1), (2, 2, 1))):
        for row, count in enumerate(rows):
            for k in range(count):
                jitter = rng.uniform(-0.002, 0.002, 3)
                place = (0.040 - 0.019 * row - 0.008 * layer, (k - (count - 1) / 2) * 0.021, 0.0125 + 0.017 * layer)
                look.mesh(skin, berry, np.add(place, jitter * (1, 1, 0.5)))
    look.rod(BROWN, 0.003, (0.036, 0, 0.040), (0.056, 0.006, 0.052))
    look.egg(LEAF, (0.021, 0.017, 0.002), (0.034, -0.022, 0.050), (14, -8, 30))


LOOKS: dict[str, Callable[[Look], None]] = {
    "apple": _apple,
    "banana": _banana,
    "orange": _orange,
    "lemon": _lemon,
    "pear": _pear,
    "watermelon": _watermelon,
    "grapes": _grapes,
}
