"""How the flowers look: each stands in a small puck of floral foam."""

import math
from collections.abc import Callable

import numpy as np

from leap.tabletop.appearance.look import Look, Paint
from leap.tabletop.appearance.meshes import revolve, smooth, sweep

STEM = Paint("#3c8a35", 0.2)
LEAF = Paint("#4a9e3f", 0.3)


def _puck(look: Look) -> None:
    look.mesh(Paint("#2f6b3a", 0.0), revolve([(0, 0), (0.027, 0), (0.027, 0.010), (0.024, 0.013), (0, 0.013)], 20))


def _stem(look: Look, height: float, radius: float = 0.0034) -> None:
    """A foam puck, and a slightly bent stem that ends above the origin."""
    _puck(look)
    line = smooth([(0, 0, 0.008), (0.006, -0.003, height / 2), (0, 0, height)], 4)
    look.mesh(STEM, sweep(line, radius, 8))


def _leaf(look: Look, height: float, facing: float, length: float = 0.024, rise: float = -38) -> None:
    x, y = math.cos(math.radians(facing)), math.sin(math.radians(facing))
    look.egg(LEAF, (length, 0.010, 0.002), (0.75 * length * x, 0.75 * length * y, height), (0, rise, facing))


def _ring(
    look: Look, paint: Paint, count: int, halves: tuple[float, float, float], reach: float, height: float, rise: float,
    start: float = 0.0,
) -> None:  # fmt: skip
    """Petals (ellipsoids) round the z axis; `rise` degrees lifts their tips, 90 makes them upright."""
    for k in range(count):
        angle = start + 360 * k / count
        place = (reach * math.cos(math.radians(angle)), reach * math.sin(math.radians(angle)), height)
        look.egg(paint, halves, place, (0, -rise, angle))


def _rose(look: Look) -> None:
    _stem(look, 0.125)
    _leaf(look, 0.060, 30)
    _leaf(look, 0.082, 190)
    _leaf(look, 0.048, 270, 0.020)
    _ring(look, STEM, 5, (0.014, 0.004, 0.0015), 0.012, 0.121, 20)
    dark, red, pale = Paint("#a00d22", 0.3), Paint("#c8152e", 0.3), Paint("#e0314a", 0.3)
    look.egg(dark, (0.013, 0.013, 0.017), (0, 0, 0.142))
    _ring(look, pale, 6, (0.017, 0.015, 0.0025), 0.021, 0.134, 46)
    _ring(look, red, 5, (0.017, 0.014, 0.0025), 0.0145, 0.143, 68, 30)
    _ring(look, dark, 4, (0.013, 0.010, 0.002), 0.0075, 0.151, 82, 10)
    _ring(look, red, 3, (0.008, 0.007, 0.002), 0.0035, 0.156, 84, 50)


def _tulip(look: Look) -> None:
    _stem(look, 0.125, radius=0.004)
    _leaf(look, 0.052, 20, 0.046, -62)
    _leaf(look, 0.048, 200, 0.042, -58)
    pink, deep = Paint("#ee5f9c", 0.4), Paint("#d93f85", 0.4)
    look.egg(deep, (0.020, 0.020, 0.021), (0, 0, 0.142))
    _ring(look, pink, 3, (0.032, 0.018, 0.006), 0.0155, 0.150, 84)
    _ring(look, deep, 3, (0.030, 0.017, 0.005), 0.0165, 0.149, 82, 60)


def _head(look: Look, middle: tuple[float, float, float], tilt: float, facing: float, petals: Paint, heart: Paint,
          count: int, size: float, core: float) -> None:  # fmt: skip
    """A flat flower head of radius `size` whose axis is tilted from z by `tilt` degrees towards `facing`."""
    t, f = math.radians(tilt), math.radians(facing)
    turn = np.array([[math.cos(f) * math.cos(t), -math.sin(f), math.cos(f) * math.sin(t)],
                     [math.sin(f) * math.cos(t), math.cos(f), math.sin(f) * math.sin(t)],
                     [-math.sin(t), 0, math.cos(t)]])  # fmt: skip
    for k in range(count):
        angle = 2 * math.pi * k / count
        reach = turn @ (math.cos(angle), math.sin(angle), 0.12)
        inner, outer = np.add(middle, core * 0.7 * reach), np.add(middle, size * reach)
        width = 2.4 * size / count
        along = (outer - inner) / np.linalg.norm(outer - inner)
        yaw, pitch = math.degrees(math.atan2(along[1], along[0])), -math.degrees(math.asin(along[2]))
        roll = math.degrees(math.atan2(*_flatness(turn[:, 2], yaw, pitch)))
        look.egg(
            petals, (float(np.linalg.norm(outer - inner)) / 2, width, 0.0022), (inner + outer) / 2, (roll, pitch, yaw)
        )
    look.egg(heart, (core, core, core * 0.4), np.add(middle, 0.003 * turn[:, 2]), (0, tilt, facing))


def _flatness(axis: np.ndarray, yaw: float, pitch: float) -> tuple[float, float]:
    """(sine, cosine) of the roll that lays a petal flat on a head with that axis."""
    y, p = math.radians(yaw), math.radians(pitch)
    side = np.array([-math.sin(y), math.cos(y), 0])
    up = np.array([math.cos(y) * math.sin(p), math.sin(y) * math.sin(p), math.cos(p)])
    return -float(axis @ side), float(axis @ up)


def _sunflower(look: Look) -> None:
    _stem(look, 0.140, radius=0.0045)
    _leaf(look, 0.060, 90, 0.030)
    _leaf(look, 0.080, 250, 0.028)
    look.ball(STEM, 0.010, (0, 0, 0.140))
    _head(look, (0.004, 0, 0.147), 35, 0, Paint("#f7b50c", 0.2), Paint("#f7b50c", 0.2), 15, 0.050, 0.018)
    _head(look, (0.006, 0, 0.149), 35, 0, Paint("#ffcb1f", 0.2), Paint("#4a2a12", 0.1), 13, 0.042, 0.022)


def _daisy(look: Look) -> None:
    _stem(look, 0.120)
    _leaf(look, 0.040, 60, 0.020)
    white, gold = Paint("#ffffff", 0.2), Paint("#f6c21a", 0.2)
    for top, side, facing in (((0.016, 0.010, 0.112), 0.55, 20), ((-0.018, 0.010, 0.096), 0.5, 150)):
        look.mesh(STEM, sweep(smooth(np.array([(0, 0, 0.030), np.multiply(top, (side, side, 0.7)), top])), 0.0024, 8))
        _head(look, top, 38, facing, white, gold, 11, 0.024, 0.0085)
    _head(look, (0, 0, 0.125), 18, 270, white, gold, 12, 0.028, 0.0095)


def _lavender(look: Look) -> None:
    _puck(look)
    bud = revolve(smooth([(0, -0.0065), (0.0048, -0.002), (0.0042, 0.003), (0, 0.0075)], 2), 8)
    tones = (Paint("#7a5cc0", 0.1), Paint("#9a7edb", 0.1))
    for spike in range(5):
        angle = spike * 2 * math.pi / 5
        lean = 0.0 if spike == 4 else 0.020
        tip = np.array([lean * math.cos(angle), lean * math.sin(angle), 0.150 - 0.006 * (spike % 3)])
        look.mesh(STEM, sweep(smooth(np.array([(0, 0, 0.008), tip * (0.3, 0.3, 0.5), tip])), 0.0018, 6))
        for row in range(7):
            middle = tip * (1 - 0.035 * (6 - row), 1 - 0.035 * (6 - row), 1) - (0, 0, 0.0085 * (6 - row))
            for k in range(3):
                turn = k * 2 * math.pi / 3 + row
                place = np.add(middle, (0.0052 * math.cos(turn), 0.0052 * math.sin(turn), 0))
                look.mesh(tones[(row + k) % 2], bud, place)


LOOKS: dict[str, Callable[[Look], None]] = {
    "rose": _rose,
    "tulip": _tulip,
    "sunflower": _sunflower,
    "daisy": _daisy,
    "lavender": _lavender,
}
