"""Semantic: somebody tells of a wish, and only one object in the scene answers it."""

import random
from dataclasses import dataclass

from leap.preparation.build.phrasing import expand
from leap.tabletop.tasks import actions
from leap.tabletop.tasks.actions import Action
from leap.tabletop.tasks.by_fact import make_fact_scene
from leap.tabletop.tasks.episode import Episode, episode
from leap.tabletop.tasks.semantic_requests import REQUESTS
from leap.tabletop.tasks.surface_forms import choose

FRAMES = (
    "{wish} [Please |]{do}.",
    "{wish} [Could|Can|Would] you {do}?",
    "{wish} So [please |]{do}.",
    "{wish} I'd be [glad|grateful] if you could {do}.",
    "{wish} [Look at the table|Look around], then {do}.",
    "{wish} Would you [be so kind as to|kindly] {do}?",
    "[Hi|Hello|Hey], robot! {wish} [Please |]{do}.",
    "{wish} [Help me out|Do me a favour]: {do}.",
    "[Please |]{do}. {wish}",
    "{wish} [I need you to|I want you to] {do}.",
    "{wish} [Think about it|Choose well], then {do}.",
    "{wish} Work out what would help, then {do}.",
    "[Listen|Robot, listen]! {wish} [Now |]{do}.",
    "{wish} [It's up to you to choose|The choice is yours]: {do}.",
)

WISHED_FOR = "the [[right|best] {noun}|{noun} [I need|for this|that I mean|I'm after]|[most suitable|obvious] {noun}]"


@dataclass(frozen=True)
class RequestTask:
    """Do the action with the only object that fulfils a wish of `leap.tabletop.tasks.semantic_requests`."""

    name: str
    action: Action
    dimension: str = "Semantic"

    def make(self, rng: random.Random, phrasing: str) -> Episode:
        requests, action = REQUESTS[self.action.category], self.action
        drawn = make_fact_scene(action, requests, rng)
        request = choose(requests[drawn.fact], phrasing, rng)
        frame = choose(FRAMES, phrasing, rng)
        slots = {**action.slots(drawn.containers), "wish": request, "object": WISHED_FOR, "it": "it"}
        return episode(self, drawn.scene, expand(frame, rng, **slots), action.moves(drawn.target, drawn.containers))


TASKS = (
    RequestTask("select_book_semantic", actions.PULL_BOOK),
    RequestTask("add_condiment_semantic", actions.ADD_CONDIMENT),
    RequestTask("select_chemistry_tube_semantic", actions.LIFT_TUBE),
    RequestTask("select_toy_semantic", actions.PLACE_TOY),
    RequestTask("select_poker_semantic", actions.LIFT_CARD),
    RequestTask("select_fruit_semantic", actions.PLACE_FRUIT),
    RequestTask("insert_flower_semantic", actions.INSERT_FLOWER),
    RequestTask("select_drink_semantic", actions.PULL_DRINK),
)
