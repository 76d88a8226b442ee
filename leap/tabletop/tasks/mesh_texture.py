"""M&T (upstream: mesh and texture): the instruction names the object, the scene holds look-alikes of its category."""

import random
from dataclasses import dataclass

from leap.tabletop.catalogue import kinds_of
from leap.tabletop.scene import make_scene
from leap.tabletop.tasks import actions
from leap.tabletop.tasks.actions import Action
from leap.tabletop.tasks.episode import Episode, episode, lay_table
from leap.tabletop.tasks.surface_forms import called, pronoun


@dataclass(frozen=True)
class NamedObjectTask:
    """Do the action with the object that is named."""

    name: str
    action: Action
    dimension: str = "M&T"

    def make(self, rng: random.Random, phrasing: str) -> Episode:
        action = self.action
        target = rng.choice(kinds_of(action.category)).name
        containers = action.draw_containers(rng)
        scene = make_scene(lay_table(rng, (target, *containers), action.category), rng)
        slots = {"object": called(target), "it": pronoun(target)}
        instruction = action.request(rng, phrasing, containers, long=False, **slots)
        return episode(self, scene, instruction, action.moves(target, containers))


TASKS = (
    NamedObjectTask("select_poker", actions.LIFT_CARD),
    NamedObjectTask("select_drink", actions.LIFT_DRINK),
    NamedObjectTask("select_book", actions.PULL_BOOK),
    NamedObjectTask("select_toy", actions.PLACE_TOY),
    NamedObjectTask("select_fruit", actions.PLACE_FRUIT),
    NamedObjectTask("add_condiment", actions.ADD_CONDIMENT),
    NamedObjectTask("insert_flower", actions.INSERT_FLOWER),
    NamedObjectTask("select_chemistry_tube", actions.LIFT_TUBE),
)
