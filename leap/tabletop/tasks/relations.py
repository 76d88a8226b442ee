"""Places as words: which object of a scene is "the leftmost drink" beyond doubt.

The frame is the robot's (see `leap.tabletop.scene`): left is larger y, near is smaller x. A relation counts only where
it holds by a clear margin on the table and in the first camera view, however the camera rig is turned.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from leap.tabletop.catalogue import KINDS
from leap.tabletop.scene import ROBOT_X, SHOULDER_CAMERA, PlacedObject, Scene
from leap.tabletop.tasks.surface_forms import the

MARGIN = 0.04  # metres by which a relation must hold
_TURNS = tuple(math.radians(degrees) for degrees in (-6, 0, 6))  # the camera rig's turns: both extremes and none


def _vanishing_x() -> float:
    """Metres: where, for the view over the shoulder, all columns of the image meet on the table plane.

    That is where the line through the camera along the image's upward direction passes through the table.
    """
    (x, _, z), (target_x, _, target_z) = SHOULDER_CAMERA
    return x - z * (z - target_z) / (target_x - x)


_VANISHING_X = _vanishing_x()
_NTH = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
_NEAREST = "[nearest|closest]"

_Comparison = Callable[[PlacedObject, PlacedObject], bool]


@dataclass(frozen=True)
class Relation:
    """A description that is true of `target` alone among the candidates; `reference` is the other kind in it, or ""."""

    target: PlacedObject
    templates: tuple[str, ...]
    reference: str = ""


def clearly_left(one: PlacedObject, other: PlacedObject) -> bool:
    """Larger y by the margin, on the table and in the first view alike."""
    seen = (_seen(one, turn)[1] - _seen(other, turn)[1] for turn in _TURNS)
    return one.y - other.y >= MARGIN and all(shift >= MARGIN for shift in seen)


def clearly_nearer(one: PlacedObject, other: PlacedObject) -> bool:
    """Smaller x by the margin, for every turn of the cameras, and closer to the robot's base by the margin too."""
    seen = (_seen(other, turn)[0] - _seen(one, turn)[0] for turn in _TURNS)
    reach = math.hypot(other.x - ROBOT_X, other.y) - math.hypot(one.x - ROBOT_X, one.y)
    return reach >= MARGIN and all(shift >= MARGIN for shift in seen)


def _seen(placed: PlacedObject, turn: float) -> tuple[float, float]:
    """Depth and sideways place (m) in the first view when the rig is turned: perspective draws far things together."""
    x = math.cos(turn) * placed.x + math.sin(turn) * placed.y
    y = math.cos(turn) * placed.y - math.sin(turn) * placed.x
    return x, y / (1 - x / _VANISHING_X)


def relations(scene: Scene, candidates: Sequence[PlacedObject], noun: str, used: Sequence[str]) -> list[Relation]:
    """Every unambiguous relation, in a fixed order; `used` are the action's own containers, never a reference."""
    found = [*_orders(candidates, noun)]
    for reference in scene.objects:
        if reference.kind not in used:
            found += _to_reference(reference, [each for each in candidates if each != reference], noun)
    return found


def _orders(candidates: Sequence[PlacedObject], noun: str) -> Iterator[Relation]:
    """Places in the row from left to right, and the two ends of the one from near to far."""
    for target in candidates:
        others = [each for each in candidates if each != target]
        left = sum(clearly_left(each, target) for each in others)
        right = sum(clearly_left(target, each) for each in others)
        if left + right == len(others):
            yield Relation(target, _row_templates(left, "left", noun))
            yield Relation(target, _row_templates(right, "right", noun))
        if all(clearly_nearer(target, each) for each in others):
            yield Relation(target, _near_templates(noun))
        if all(clearly_nearer(each, target) for each in others):
            yield Relation(target, _far_templates(noun))


def _row_templates(before: int, side: str, noun: str) -> tuple[str, ...]:
    if before == 0:
        return (
            f"the {side}most {noun}",
            f"the {noun} [furthest|farthest] to the {side}",
            f"the {noun} that has no other {noun} to the {side} of it",
            f"the {noun} that is [furthest|farthest] to your {side}",
        )
    return (
        f"the {_NTH[before]} {noun} from the {side}",
        f"the {noun} that is {_NTH[before]} from the {side}",
        f"the {noun} that comes {_NTH[before]} when you count the {noun}s from the {side}",
        f"the {_NTH[before]} {noun}, counted from your {side},",
    )


def _near_templates(noun: str) -> tuple[str, ...]:
    return (
        f"the {noun} {_NEAREST} to the robot",
        f"the {noun} that is {_NEAREST} to [you|your base]",
        f"the {noun} that is the least far from [you|the robot]",
        f"the {noun} with the shortest distance to the robot",
    )


def _far_templates(noun: str) -> tuple[str, ...]:
    return (
        f"the {noun} [farthest|furthest] from the robot",
        f"the {noun} that is [farthest|furthest] away from [you|your base]",
        f"the {noun} that is behind all the other {noun}s",
        f"the most distant {noun}, as the robot sees it,",
    )


def _to_reference(reference: PlacedObject, candidates: list[PlacedObject], noun: str) -> Iterator[Relation]:
    """Relations that exactly one candidate has to the reference, every other candidate clearly not having it."""
    name = _reference_name(reference.kind, noun)
    sides: tuple[tuple[_Comparison, _Comparison, tuple[str, ...]], ...] = (
        (clearly_left, _swapped(clearly_left), _side_templates("left", name, noun)),
        (_swapped(clearly_left), clearly_left, _side_templates("right", name, noun)),
        (clearly_nearer, _swapped(clearly_nearer), _depth_templates(name, noun)),
    )
    for holds, fails, templates in sides:
        having = [each for each in candidates if holds(each, reference)]
        if len(having) == 1 and all(fails(each, reference) for each in candidates if each != having[0]):
            yield Relation(having[0], templates, reference.kind)
    nearest = _clearly_nearest(reference, candidates)
    if nearest:
        yield Relation(nearest, _closest_templates(name, noun), reference.kind)


def _swapped(comparison: _Comparison) -> _Comparison:
    return lambda one, other: comparison(other, one)


def _reference_name(kind: str, noun: str) -> str:
    if KINDS[kind].category == "book" == noun:
        return f"the {kind.split('_')[0]} [one|book]"
    return the(kind)


def _clearly_nearest(reference: PlacedObject, candidates: Sequence[PlacedObject]) -> PlacedObject | None:
    """The candidate closest to the reference by the margin, from centre to centre as well as from edge to edge."""
    if len(candidates) < 2:
        return None

    def centre(each: PlacedObject) -> float:
        return math.hypot(each.x - reference.x, each.y - reference.y)

    def edge(each: PlacedObject) -> float:
        return centre(each) - KINDS[each.kind].radius

    for target in candidates:
        others = [each for each in candidates if each != target]
        if all(distance(each) - distance(target) >= MARGIN for distance in (centre, edge) for each in others):
            return target
    return None


def _side_templates(side: str, name: str, noun: str) -> tuple[str, ...]:
    return (
        f"the {noun} [to the {side} of|that is to the {side} of] {name}",
        f"the {noun} [left|right] of {name}".replace("[left|right]", side),
        f"the {noun} on the {side}-hand side of {name}",
        f"the only {noun} that is further {side} than {name}",
    )


def _depth_templates(name: str, noun: str) -> tuple[str, ...]:
    return (
        f"the {noun} that is [nearer|closer] to the robot than {name}",
        f"the {noun} that is [nearer|closer] to you than {name} is",
        f"the only {noun} on your side of {name}",
        f"the only {noun} that is less far from the robot than {name}",
    )


def _closest_templates(name: str, noun: str) -> tuple[str, ...]:
    return (
        f"the {noun} {_NEAREST} to {name}",
        f"the {noun} that is {_NEAREST} to {name}",
        f"the {noun} with the shortest distance to {name}",
        f"the {noun} {_NEAREST} of all to {name}",
    )
