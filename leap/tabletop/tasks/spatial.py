"""Spatial: the object is described by its place, alone or relative to another object."""

import random
from dataclasses import dataclass

from leap.tabletop.scene import Scene, make_scene
from leap.tabletop.tasks import actions
from leap.tabletop.tasks.actions import Action
from leap.tabletop.tasks.episode import Episode, episode, lay_table
from leap.tabletop.tasks.relations import Relation, relations
from leap.tabletop.tasks.surface_forms import choose


@dataclass(frozen=True)
class PlaceTask:
    """Do the action with the only object of the category that stands in the described place."""

    name: str
    action: Action
    dimension: str = "Spatial"

    def make(self, rng: random.Random, phrasing: str) -> Episode:
        action = self.action
        containers = action.draw_containers(rng)
        scene, relation = self._scene_with_relation(rng, containers)
        described = choose(relation.templates, phrasing, rng)
        instruction = action.request(rng, phrasing, containers, object=described, it="it")
        references = (relation.reference,) if relation.reference else ()
        return episode(self, scene, instruction, action.moves(relation.target.kind, containers), references)

    def _scene_with_relation(self, rng: random.Random, containers: tuple[str, ...]) -> tuple[Scene, Relation]:
        """Draw scenes until one holds an unambiguous relation; nearly every one does."""
        category = self.action.category
        while True:
            scene = make_scene(lay_table(rng, containers, category, rivals=(3, 5)), rng)
            found = relations(scene, scene.of_category(category), self.action.noun, containers)
            if found:
                return scene, _draw(found, rng)


def _draw(found: list[Relation], rng: random.Random) -> Relation:
    """Relations to another object outnumber the plain orders, so choose between the two sorts first."""
    plain = [relation for relation in found if not relation.reference]
    relative = [relation for relation in found if relation.reference]
    return rng.choice(rng.choice([sort for sort in (plain, relative) if sort]))


TASKS = (
    PlaceTask("select_fruit_spatial", actions.PLACE_FRUIT),
    PlaceTask("select_chemistry_tube_spatial", actions.INSERT_TUBE),
    PlaceTask("select_poker_spatial", actions.LIFT_CARD),
    PlaceTask("select_book_spatial", actions.PULL_BOOK),
    PlaceTask("add_condiment_spatial", actions.ADD_CONDIMENT_AND_RETURN),
    PlaceTask("insert_bloom_flower", actions.INSERT_FLOWER),
    PlaceTask("select_drink_spatial", actions.PLACE_DRINK),
)
