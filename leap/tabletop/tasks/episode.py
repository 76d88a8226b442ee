"""One benchmark example before rendering, and what every kind of task needs in order to make one."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from leap.preparation.build.phrasing import sentence
from leap.tabletop.catalogue import KINDS, ObjectKind
from leap.tabletop.scene import Scene
from leap.tabletop.tasks.reference_plan import Move, plain_steps, skill_sequence

MIN_OBJECTS, MAX_OBJECTS = 5, 8


@dataclass(frozen=True)
class Episode:
    """One benchmark example before rendering.

    `dimension` is the canonical name, `task` one of upstream's task names in it. `skill_sequence` holds the numbers
    drawn in the image of that very scene; `steps` is the same plan in plain language. `targets` are the kinds that
    the answer depends on: what the plan touches, in its order, then what a description refers to.
    """

    dimension: str
    task: str
    scene: Scene
    instruction: str
    skill_sequence: list[dict]
    steps: tuple[str, ...]
    targets: tuple[str, ...]


class TaskMaker(Protocol):
    """Makes the episodes of one task."""

    @property
    def name(self) -> str: ...

    @property
    def dimension(self) -> str: ...

    def make(self, rng: random.Random, phrasing: str) -> Episode: ...


def episode(
    maker: TaskMaker, scene: Scene, instruction: str, moves: Sequence[Move], references: Sequence[str] = ()
) -> Episode:
    """Write the plan in both forms and tidy the instruction."""
    touched = [kind for _, kind in moves if kind]
    return Episode(
        dimension=maker.dimension,
        task=maker.name,
        scene=scene,
        instruction=sentence(instruction),
        skill_sequence=skill_sequence(scene, moves),
        steps=plain_steps(moves),
        targets=tuple(dict.fromkeys([*touched, *references])),
    )


def lay_table(
    rng: random.Random,
    needed: Sequence[str],
    category: str,
    allowed: Callable[[ObjectKind], bool] = lambda kind: True,
    rivals: tuple[int, int] = (2, 4),
) -> list[str]:
    """The kinds in a scene: what the task needs, distractors of its category, now and then others; 5 to 8 in all.

    `allowed` keeps away whatever would be a second right answer; `rivals` is how many distractors, from and to.
    """
    free = [kind for kind in KINDS.values() if kind.name not in needed and allowed(kind)]
    same = [kind.name for kind in free if kind.category == category]
    room = MAX_OBJECTS - len(needed)
    drawn = rng.sample(same, min(rng.randint(*rivals), len(same), room))
    missing = max(0, MIN_OBJECTS - len(needed) - len(drawn))
    extra = min(max(missing, rng.choice((0, 0, 1, 2))), room - len(drawn))
    others = [kind.name for kind in free if kind.category not in (category, "container")]
    return [*needed, *drawn, *rng.sample(others, extra)]
