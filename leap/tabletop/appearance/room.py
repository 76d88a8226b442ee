"""How the table, the floor and the robot look."""

import numpy as np

from leap.tabletop.appearance import textures
from leap.tabletop.appearance.look import Look, Paint
from leap.tabletop.appearance.meshes import revolve, smooth
from leap.tabletop.scene import ROBOT_X

TABLE_TOP = (0.40, 0.54, 0.015)  # half sizes in metres; its upper side is at z = 0
FLOOR = -0.72  # metres
TABLE_PAINTS = {
    "oak": Paint(gloss=0.15, image=textures.wood("#d3a874", "#b5864f", 61, planks=6, size=512)),
    "walnut": Paint(gloss=0.2, image=textures.wood("#8a5f40", "#5f3d27", 67, planks=5, size=512)),
    "white": Paint("#e9e8e4", 0.25),
    "slate": Paint(gloss=0.15, image=textures.speckle("#6d757d", "#596068", 71, grain=200, size=256)),
    "birch": Paint(gloss=0.15, image=textures.wood("#ead7b4", "#d6bd92", 73, planks=4, size=512)),
}
_SHELL, _JOINT = Paint("#f1f3f4", 0.6), Paint("#3a3f46", 0.5)


def furniture(look: Look) -> None:
    """The table's apron and legs (its top is a geom of its own, since its material changes)."""
    wood = Paint(gloss=0.2, image=textures.wood("#6b4b33", "#4b3222", 79), cube=True)
    x, y = TABLE_TOP[0] - 0.05, TABLE_TOP[1] - 0.05
    look.box(wood, (x, y, 0.03), (0, 0, -0.06))
    for side in (-1, 1):
        for end in (-1, 1):
            look.box(wood, (0.028, 0.028, -FLOOR / 2 - 0.02), (end * x, side * y, FLOOR / 2))


def robot(look: Look) -> None:
    """A seven-joint arm with a two-finger gripper on a pedestal, folded so that it hides nothing on the table."""
    look.rod(Paint("#4a5058", 0.4), 0.075, (ROBOT_X, 0, FLOOR), (ROBOT_X, 0, -0.03), flat=True)
    look.drum(_JOINT, 0.095, 0.012, (ROBOT_X, 0, -0.03))
    foot = smooth([(0.080, -0.02), (0.078, 0.01), (0.060, 0.06), (0.056, 0.12)])
    look.mesh(_SHELL, revolve([*foot, (0.056, 0.13), (0, 0.13)]), (ROBOT_X, 0, 0))
    look.drum(_JOINT, 0.0565, 0.008, (ROBOT_X, 0, 0.138))
    shoulder, elbow, wrist = (ROBOT_X, 0, 0.195), (ROBOT_X - 0.135, 0, 0.350), (ROBOT_X + 0.04, 0, 0.320)
    look.rod(_SHELL, 0.055, (ROBOT_X, 0, 0.150), shoulder)
    _joint(look, shoulder, 0.058, 0.066)
    _link(look, shoulder, elbow, 0.046)
    _joint(look, elbow, 0.047, 0.056)
    _link(look, elbow, wrist, 0.040)
    _joint(look, wrist, 0.041, 0.049)
    _gripper(look, wrist, (ROBOT_X + 0.09, 0, 0.190))


def _joint(look: Look, middle: tuple[float, float, float], radius: float, half: float) -> None:
    """A hinge across the arm (about y) with dark caps."""
    for reach, thick, paint in ((half, radius, _SHELL), (half + 0.006, 0.78 * radius, _JOINT)):
        look.drum(paint, thick, reach, middle, (90, 0, 0))


def _link(look: Look, start: tuple[float, ...], end: tuple[float, ...], radius: float) -> None:
    """A white limb with a dark ring in its middle, where a roll joint sits."""
    look.rod(_SHELL, radius, start, end)
    a, b = np.asarray(start), np.asarray(end)
    look.rod(_JOINT, radius + 0.002, a + 0.47 * (b - a), a + 0.55 * (b - a), flat=True)


def _gripper(look: Look, wrist: tuple[float, ...], tip: tuple[float, ...]) -> None:
    """Flange, hand and two parallel fingers, from the wrist towards `tip`."""
    start, end = np.asarray(wrist), np.asarray(tip)
    lean = float(np.degrees(np.arctan2(start[0] - end[0], start[2] - end[2])))

    def place(share: float, aside: float = 0.0) -> np.ndarray:
        return start + share * (end - start) + (0, aside, 0)

    look.rod(_SHELL, 0.032, place(0), place(0.42))
    look.rod(_JOINT, 0.033, place(0.42), place(0.52), flat=True)
    look.box(_SHELL, (0.022, 0.066, 0.024), place(0.68), (0, lean, 0))
    for side in (-1, 1):
        look.box(_JOINT, (0.009, 0.008, 0.030), place(1.02, side * 0.030), (0, lean, 0))
        look.box(Paint("#d9dcdf", 0.4), (0.007, 0.004, 0.010), place(1.22, side * 0.026), (0, lean, 0))
