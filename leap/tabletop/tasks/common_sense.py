"""CommonSense: the instruction gives a well-known fact instead of the name; one object in the scene fits it."""

import random
from dataclasses import dataclass

from leap.preparation.build.phrasing import expand
from leap.tabletop.catalogue import kinds_of
from leap.tabletop.scene import make_scene
from leap.tabletop.tasks import actions
from leap.tabletop.tasks.actions import Action
from leap.tabletop.tasks.by_fact import make_fact_scene
from leap.tabletop.tasks.episode import Episode, episode, lay_table
from leap.tabletop.tasks.facts import FACTS
from leap.tabletop.tasks.surface_forms import choose

RANKS = ("ace", "king", "queen", "jack", "ten", "nine", "eight", "seven", "six", "five", "four", "three", "two")
_ORDINALS = ("", "second", "third", "fourth")


@dataclass(frozen=True)
class FactTask:
    """Do the action with the only object of which a fact of `leap.tabletop.tasks.facts` is true."""

    name: str
    action: Action
    dimension: str = "CommonSense"

    def make(self, rng: random.Random, phrasing: str) -> Episode:
        facts, action = FACTS[self.action.category], self.action
        drawn = make_fact_scene(action, facts, rng)
        described = choose(facts[drawn.fact], phrasing, rng)
        instruction = action.request(rng, phrasing, drawn.containers, object=described, it="it")
        return episode(self, drawn.scene, instruction, action.moves(drawn.target, drawn.containers))


@dataclass(frozen=True)
class NthLargestCardTask:
    """Lift the card that comes n-th in the poker ranking of the cards on the table, from above or from below."""

    name: str
    action: Action = actions.LIFT_CARD
    dimension: str = "CommonSense"

    def make(self, rng: random.Random, phrasing: str) -> Episode:
        hand = rng.sample([kind.name for kind in kinds_of("card")], rng.randint(4, 6))
        scene = make_scene(lay_table(rng, hand, "card", lambda kind: kind.category != "card"), rng)
        place = rng.randrange(3)
        extreme = rng.choice(("high", "low"))
        target = sorted(hand, key=rank, reverse=extreme == "low")[place]
        described = expand(choose(RANK_DESCRIPTIONS, phrasing, rng), rng, nth=_superlative(place, extreme))
        instruction = self.action.request(rng, phrasing, (), object=described, it="it")
        return episode(self, scene, instruction, self.action.moves(target, ()))


RANK_DESCRIPTIONS = (
    "the {nth} card [in|by] the poker ranking",
    "the card [that ranks|ranking] {nth} in poker",
    "the {nth} of the cards [in|by] the order of poker",
    "the {nth} card, counted as in poker,",
)


def rank(kind: str) -> int:
    """0 for the ace, the highest card in poker."""
    return RANKS.index(kind.split("_")[0])


def _superlative(place: int, extreme: str) -> str:
    return f"{_ORDINALS[place]}-{extreme}est" if place else f"{extreme}est"


TASKS = (
    FactTask("select_drink_common_sense", actions.LIFT_DRINK),
    FactTask("select_chemistry_tube_common_sense", actions.INSERT_TUBE),
    FactTask("add_condiment_common_sense", actions.ADD_CONDIMENT),
    FactTask("insert_flower_common_sense", actions.INSERT_FLOWER),
    NthLargestCardTask("select_nth_largest_poker"),
    FactTask("select_fruit_common_sense", actions.PLACE_FRUIT),
    FactTask("select_specific_type_book", actions.PULL_BOOK),
    FactTask("select_toy_common_sense", actions.PLACE_TOY),
)
