"""A table on which exactly one object of a category has a fact: the ground of CommonSense and Semantic tasks."""

import random
from collections.abc import Iterable
from dataclasses import dataclass

from leap.tabletop.catalogue import kinds_of
from leap.tabletop.scene import Scene, make_scene
from leap.tabletop.tasks.actions import Action
from leap.tabletop.tasks.episode import lay_table


@dataclass(frozen=True)
class FactScene:
    """The fact that was drawn, the only object of the action's category that has it, its containers, the scene."""

    fact: str
    target: str
    containers: tuple[str, ...]
    scene: Scene


def make_fact_scene(action: Action, facts: Iterable[str], rng: random.Random) -> FactScene:
    """Draw a fact and an object that has it, and keep every other object with that fact off the table."""
    fact = rng.choice(list(facts))
    target = rng.choice([kind.name for kind in kinds_of(action.category) if fact in kind.properties])
    containers = action.draw_containers(rng)
    kinds = lay_table(rng, (target, *containers), action.category, lambda kind: fact not in kind.properties)
    return FactScene(fact, target, containers, make_scene(kinds, rng))
