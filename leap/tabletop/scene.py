"""A tabletop scene as plain parameters: what a renderer needs, what a task reasons about, what a file holds.

Frame: metres, origin at the middle of the table top; +x points away from the robot, +y to the robot's left, z up.
The robot's base stands behind the table's near edge and looks along +x, so "left" in an instruction means larger y,
"nearest to the robot" means smaller x. The first of the four camera views looks over the robot's shoulder.
"""

import hashlib
import json
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from leap.errors import LeapError
from leap.tabletop.catalogue import KINDS

TABLE_HALF_X, TABLE_HALF_Y = 0.30, 0.42  # the part of the table where objects may stand
ROBOT_X = -0.52  # where the robot's base stands, at y = 0
SHOULDER_CAMERA = ((-1.02, 0.0, 1.25), (-0.06, 0.0, 0.0))  # the first view: its place, and what it looks at
_GAP = 0.025  # metres of free table between two footprints
TABLES = ("oak", "walnut", "white", "slate", "birch")


@dataclass(frozen=True)
class PlacedObject:
    """One object: its catalogue name, the number drawn on it, its place (m) and its turn about z (rad)."""

    kind: str
    number: int
    x: float
    y: float
    yaw: float


@dataclass(frozen=True)
class Scene:
    """Everything that determines the images of one scene."""

    objects: tuple[PlacedObject, ...]
    table: str
    light_azimuth: float  # degrees
    light_height: float  # metres above the table
    camera_turn: float  # degrees by which the whole camera rig is turned

    def to_dict(self) -> dict:
        return asdict(self)

    @staticmethod
    def from_dict(fields: dict) -> "Scene":
        objects = tuple(PlacedObject(**fields_of_object) for fields_of_object in fields["objects"])
        return Scene(**{**fields, "objects": objects})

    def fingerprint(self) -> str:
        """sha256 of the scene's parameters; equal scenes give equal images."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()

    def find(self, kind: str) -> PlacedObject:
        """The only object of that kind. Raises LeapError where there is none, or more than one."""
        found = [placed for placed in self.objects if placed.kind == kind]
        if len(found) != 1:
            raise LeapError(f"the scene holds {len(found)} objects of kind {kind!r}, not one")
        return found[0]

    def number_of(self, kind: str) -> int:
        """The number drawn on the only object of that kind."""
        return self.find(kind).number

    def of_category(self, category: str) -> tuple[PlacedObject, ...]:
        """The objects of a category, in the scene's order."""
        return tuple(placed for placed in self.objects if KINDS[placed.kind].category == category)


def make_scene(kinds: Sequence[str], rng: random.Random) -> Scene:
    """Place one object of each kind without overlap, and number them 1..n in random order.

    The order of `kinds` does not matter to where an object ends up. Raises LeapError where they do not fit.
    """
    placed = _places(kinds, rng)
    numbers = rng.sample(range(1, len(kinds) + 1), len(kinds))
    objects = tuple(
        PlacedObject(kind, number, round(x, 4), round(y, 4), round(yaw, 4))
        for (kind, x, y, yaw), number in zip(placed, numbers, strict=True)
    )
    return Scene(
        objects=objects,
        table=rng.choice(TABLES),
        light_azimuth=round(rng.uniform(0, 360), 1),
        light_height=round(rng.uniform(1.4, 2.2), 2),
        camera_turn=round(rng.uniform(-6, 6), 1),
    )


def _places(kinds: Sequence[str], rng: random.Random) -> list[tuple[str, float, float, float]]:
    """Rejection sampling, the largest footprint first; a full table starts again."""
    largest_first = sorted(kinds, key=lambda kind: -KINDS[kind].radius)
    for _ in range(200):
        done: list[tuple[str, float, float, float]] = []
        for kind in largest_first:
            place = _free_place(kind, done, rng)
            if place is None:
                break
            done.append((kind, *place))
        if len(done) == len(kinds):
            return sorted(done, key=lambda item: list(kinds).index(item[0]))
    raise LeapError(f"{len(kinds)} objects do not fit on the demo's table: {', '.join(kinds)}")


def _free_place(
    kind: str, done: Iterable[tuple[str, float, float, float]], rng: random.Random
) -> tuple[float, float, float] | None:
    radius = KINDS[kind].radius
    for _ in range(60):
        x = rng.uniform(-TABLE_HALF_X + radius, TABLE_HALF_X - radius)
        y = rng.uniform(-TABLE_HALF_Y + radius, TABLE_HALF_Y - radius)
        if all(math.hypot(x - ox, y - oy) >= radius + KINDS[other].radius + _GAP for other, ox, oy, _ in done):
            return x, y, rng.uniform(-math.pi, math.pi)
    return None
