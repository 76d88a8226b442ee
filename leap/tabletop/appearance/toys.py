"""How the toys look."""

import math
from collections.abc import Callable

import numpy as np

from leap.tabletop.appearance import textures
from leap.tabletop.appearance.look import Look, Paint
from leap.tabletop.appearance.meshes import extrude, revolve, smooth

BLACK = Paint("#17181b", 0.5)
CHROME = Paint(gloss=0.9, image=textures.sheen("#9aa0a7", "#f4f6f8"))
GOLD = Paint("#e0b23a", 0.8)


def _ball(look: Look) -> None:
    profile = [(0.048 * math.sin(a), 0.048 - 0.048 * math.cos(a)) for a in np.linspace(0, math.pi, 19)]
    look.mesh(Paint(gloss=0.4, image=textures.football()), revolve(profile, 32))


def _wheel(look: Look, radius: float, half: float, x: float, y: float, hub: Paint, tyre: Paint = BLACK) -> None:
    """A wheel on the table that turns about y, with a hub on its outer side."""
    look.drum(tyre, radius, half, (x, y, radius), (90, 0, 0))
    look.drum(hub, 0.55 * radius, half + 0.0012, (x, y, radius), (90, 0, 0))


def _toy_car(look: Look) -> None:
    blue, glass = Paint("#1f7fe0", 0.8), Paint("#1d2c38", 1.0)
    body = [(-0.070, 0.012), (0.070, 0.012), (0.072, 0.026), (0.060, 0.036), (0.030, 0.040), (-0.066, 0.041),
            (-0.071, 0.034)]  # fmt: skip
    look.mesh(blue, extrude(body, 0.064))
    look.mesh(glass, extrude([(-0.050, 0.040), (0.036, 0.040), (0.014, 0.063), (-0.036, 0.063)], 0.056))
    look.mesh(blue, extrude([(-0.0375, 0.0615), (0.0155, 0.0615), (0.010, 0.067), (-0.033, 0.067)], 0.058))
    for x in (-0.010, 0.0):
        look.box(blue, (0.003, 0.0285, 0.012), (x, 0, 0.052))
    look.box(Paint("#f4f6fa", 0.5), (0.036, 0.008, 0.0006), (-0.010, 0, 0.0672))
    for side in (-1, 1):
        look.ball(Paint("#fff3b0", 0.9, glow=0.4), 0.0075, (0.066, side * 0.022, 0.027))
        look.box(Paint("#d3202a", 0.6, glow=0.3), (0.002, 0.008, 0.004), (-0.0705, side * 0.021, 0.031))
        for x in (-0.042, 0.042):
            _wheel(look, 0.017, 0.0065, x, side * 0.029, CHROME)
    look.box(CHROME, (0.004, 0.030, 0.004), (0.069, 0, 0.015))


def _toy_train(look: Look) -> None:
    red, green, roof = Paint("#c7202a", 0.6), Paint("#1f7a43", 0.7), Paint("#23262c", 0.5)
    look.box(red, (0.072, 0.026, 0.006), (0, 0, 0.024))
    look.rod(green, 0.0235, (-0.020, 0, 0.053), (0.064, 0, 0.053), flat=True)
    look.rod(BLACK, 0.0245, (0.062, 0, 0.053), (0.070, 0, 0.053), flat=True)
    for x in (-0.004, 0.026, 0.054):
        look.rod(GOLD, 0.0243, (x, 0, 0.053), (x + 0.004, 0, 0.053), flat=True)
    look.ball(Paint("#fff0a0", 0.9, glow=0.4), 0.008, (0.068, 0, 0.056))
    look.box(red, (0.026, 0.028, 0.032), (-0.045, 0, 0.060))
    for side in (-1, 1):
        look.box(Paint("#bfe3f2", 0.9), (0.014, 0.001, 0.013), (-0.045, side * 0.0285, 0.070))
        for x in (-0.050, -0.010, 0.030):
            _wheel(look, 0.0165, 0.005, x, side * 0.029, GOLD)
        look.rod(CHROME, 0.0025, (-0.050, side * 0.0365, 0.0165), (0.030, side * 0.0365, 0.0165))
    look.box(roof, (0.031, 0.032, 0.004), (-0.045, 0, 0.096))
    chimney = revolve([(0.0085, 0.070), (0.0085, 0.090), (0.014, 0.105), (0.0105, 0.105), (0, 0.100)], 20)
    look.mesh(BLACK, chimney, (0.050, 0, 0))
    look.egg(GOLD, (0.011, 0.011, 0.013), (0.014, 0, 0.076))
    look.mesh(BLACK, extrude([(0.070, 0.006), (0.084, 0.006), (0.072, 0.026), (0.070, 0.026)], 0.046))


def _rubber_duck(look: Look) -> None:
    yellow, beak = Paint("#fbd21c", 0.6), Paint("#f07a12", 0.5)
    body = [(0, 0.004), (0.026, 0), (0.040, 0.014), (0.041, 0.030), (0.030, 0.046), (0.012, 0.054), (0, 0.055)]
    look.mesh(yellow, revolve(smooth(body)))
    look.egg(yellow, (0.042, 0.034, 0.024), (-0.006, 0, 0.027))
    look.egg(yellow, (0.022, 0.016, 0.012), (-0.043, 0, 0.044), (0, 38, 0))
    look.mesh(yellow, revolve([(0.029 * math.sin(a), -0.029 * math.cos(a)) for a in np.linspace(0, math.pi, 13)], 24),
              (0.017, 0, 0.076))  # fmt: skip
    look.egg(beak, (0.016, 0.014, 0.0045), (0.045, 0, 0.073), (0, -8, 0))
    look.egg(beak, (0.013, 0.012, 0.004), (0.043, 0, 0.067), (0, 10, 0))
    for side in (-1, 1):
        look.ball(Paint("#ffffff", 0.6), 0.0065, (0.039, side * 0.0145, 0.085))
        look.ball(BLACK, 0.0042, (0.0435, side * 0.0155, 0.0855))
        look.egg(Paint("#f2bd10", 0.5), (0.024, 0.007, 0.014), (-0.010, side * 0.036, 0.034), (0, 18, 0))


def _teddy_bear(look: Look) -> None:
    fur = Paint(gloss=0.0, image=textures.speckle("#b97b42", "#8f5a2b", 21), cube=True)
    pale, dark = Paint("#e6c393", 0.0), Paint("#24160d", 0.6)
    look.egg(fur, (0.034, 0.037, 0.043), (-0.008, 0, 0.043))
    look.egg(pale, (0.010, 0.025, 0.029), (0.0185, 0, 0.043))
    look.ball(fur, 0.034, (0, 0, 0.108))
    look.egg(pale, (0.017, 0.018, 0.014), (0.025, 0, 0.100))
    look.egg(dark, (0.006, 0.008, 0.005), (0.040, 0, 0.106))
    look.egg(Paint("#c9262f", 0.4), (0.010, 0.016, 0.006), (0.024, 0.014, 0.074), (20, 0, 0))
    look.egg(Paint("#c9262f", 0.4), (0.010, 0.016, 0.006), (0.024, -0.014, 0.074), (-20, 0, 0))
    look.ball(Paint("#a81c25", 0.4), 0.006, (0.029, 0, 0.074))
    for side in (-1, 1):
        look.ball(dark, 0.0045, (0.0285, side * 0.0135, 0.117))
        look.egg(fur, (0.008, 0.015, 0.015), (0, side * 0.028, 0.135))
        look.egg(pale, (0.004, 0.009, 0.009), (0.007, side * 0.028, 0.135))
        look.egg(fur, (0.014, 0.014, 0.030), (0.010, side * 0.041, 0.062), (side * 28, -35, 0))
        look.egg(fur, (0.027, 0.0165, 0.0165), (0.027, side * 0.028, 0.0165), (0, 0, side * 16))
        look.egg(pale, (0.004, 0.012, 0.012), (0.0535, side * 0.035, 0.018), (0, 0, side * 16))


def _spinning_top(look: Look) -> None:
    stripes = textures.bands(("#e63329", "#f6c51d", "#2b9bd8", "#3fae49", "#e63329", "#f7f2e4", "#8b4bb0"))
    profile = [(0, 0), (0.004, 0.006), (0.016, 0.020), (0.040, 0.040), (0.042, 0.047), (0.030, 0.056), (0.010, 0.066)]
    lean = (0, 12, 0)
    look.mesh(Paint(gloss=0.8, image=stripes), revolve(smooth(profile)), turn=lean)
    look.rod(Paint("#caa05a", 0.4), 0.0048, (0.0130, 0, 0.062), (0.0216, 0, 0.1015))
    look.ball(Paint("#e63329", 0.7), 0.0075, (0.0220, 0, 0.1035))


LOOKS: dict[str, Callable[[Look], None]] = {
    "ball": _ball,
    "toy_car": _toy_car,
    "toy_train": _toy_train,
    "rubber_duck": _rubber_duck,
    "teddy_bear": _teddy_bear,
    "spinning_top": _spinning_top,
}
