"""PhysicsLaw: press the block that a law of physics singles out, by what it is made of."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan

from leap.preparation.build.phrasing import expand
from leap.tabletop.catalogue import KINDS, kinds_of
from leap.tabletop.scene import make_scene
from leap.tabletop.tasks.episode import Episode, episode, lay_table
from leap.tabletop.tasks.surface_forms import called, choose, listing

FRAMES = (
    "Press the block that {does}.",
    "Which block {does}? Press it.",
    "[Decide|Work out] which block {does}, and press it.",
    "[Could|Can|Would] you press the block that {does}?",
    "[All the blocks are equally large.|The blocks are all of one size.] Press the one that {does}.",
    "[Think about what the blocks are made of:|Look at the materials:] which block {does}? Press [it|your answer].",
    "[I wonder|I'd like to know] which block {does}. Show me by pressing it.",
    "[Find|Look for] the block that {does} and press it.",
    "[A physics question|Quiz time]: which block {does}? [Press your answer|Press the right one].",
    "Robot, [please |]press the block that {does}.",
    "[Please |]show me the block that {does} by pressing it.",
    "[Place your bet|Make a guess]: which block {does}? Press it.",
    "[My pupils ask|My daughter asks|Somebody asked] which block {does}. Press [it|the right one].",
    "Your [task|job] is to press the block that {does}.",
)
NAMED_FRAMES = (
    "[Compare|Look at] {blocks}. Press the one that {does}.",
    "Of {blocks}, which one {does}? Press it.",
    "Take only {blocks} into account and press the one that {does}.",
    "Which of {blocks} {does}? [Press it|Press your answer].",
    "[Please |]press the one of {blocks} that {does}.",
    "There are {blocks}, among other things. Which of these {does}? Press it.",
)


@dataclass(frozen=True)
class Question:
    """Which block has the most, or the least, of a quantity.

    `ratio` and `gap` are how clearly the answer must stand out from the next block; `above` and `below` bound the
    answer's own value (what sinks must be denser than water).
    """

    quantity: str
    most: bool
    does: tuple[str, ...]
    ratio: float = 1.0
    gap: float = 0.0
    above: float = 0.0
    below: float = float("inf")

    def answer(self, blocks: Sequence[str]) -> str | None:
        """The block that stands out clearly, or None."""
        ordered = sorted(blocks, key=self._value, reverse=self.most)
        first, second = self._value(ordered[0]), self._value(ordered[1])
        clear = max(first, second) >= self.ratio * min(first, second) and abs(first - second) >= self.gap
        return ordered[0] if clear and self.above < first < self.below else None

    def holds_for(self, block: str) -> bool:
        """Whether the law is clear on that material."""
        return not isnan(self._value(block))

    def _value(self, block: str) -> float:
        return float(getattr(KINDS[block], self.quantity))


WATER = 1000.0  # kg/m3
HEAVIEST = (
    "[weighs the most|is the heaviest]",
    "has the [highest|greatest] density",
    "would push a kitchen scale down [furthest|the most]",
    "would be hardest to [lift|carry]",
)
LIGHTEST = (
    "[weighs the least|is the lightest]",
    "has the [lowest|smallest] density",
    "would push a kitchen scale down the least",
    "would be easiest to [lift|carry]",
)
SINKS = (
    "would sink fastest in [water|a tank of water|a swimming pool]",
    "would [go to|reach] the bottom of [a pond|a bucket of water] first",
    "would go down fastest if [I dropped all of them|they all fell] into a lake",
)
FLOATS = (
    "would float highest [in|on] water",
    "would [show most of itself|stick out furthest] above the surface if it floated in [water|a pool]",
    "would have the smallest part under water in a [pool|bathtub]",
)
SLIDES = (
    "would slide [furthest|farthest] across a wooden floor from the same starting speed",
    "has the [least|lowest] friction on wood",
    "would [be the first to slide|start sliding first] if the wooden board under them were tilted",
    "would [grip|hold on to] a wooden board least",
)
STICKS = (
    "would [stop|come to rest] soonest on a wooden floor from the same starting speed",
    "has the [most|highest] friction on wood",
    "would be the last to slide if the wooden board under them were tilted",
    "would [grip|hold on to] a wooden board best",
)
REFLECTS = (
    "reflects the most light",
    "would [throw|send] back the most light from a torch",
    "would look brightest in the beam of a lamp",
    "[has the most reflective surface|reflects light best]",
)
ABSORBS = (
    "reflects the least light",
    "[absorbs|swallows] the most light",
    "would look darkest in the beam of a lamp",
    "has the least reflective surface",
)
EXPANDS = (
    "would grow most on a [warm|hot] day",
    "would be smallest in the cold",
    "expands most when [heated|warmed]",
    "would need the most room when all the blocks are hot",
)
KEEPS_ITS_SIZE = (
    "would grow least on a [warm|hot] day",
    "would be biggest in the cold",
    "expands least when [heated|warmed]",
    "would keep its size best when all the blocks are hot",
)
SOUND_IS_FAST = (
    "would carry a sound [the fastest|with the highest speed]",
    "would carry a tap of my hand to its other end [first|soonest]",
    "has the [highest|greatest] speed of sound",
    "would need the least time to carry a sound",
)
SOUND_IS_SLOW = (
    "would carry a sound [the least fast|with the lowest speed]",
    "would carry a tap of my hand to its other end last",
    "has the [lowest|smallest] speed of sound",
    "would need the most time to carry a sound",
)


@dataclass(frozen=True)
class PhysicsTask:
    """Press the block that answers one of the questions, which are all of one quantity."""

    name: str
    questions: tuple[Question, ...]
    dimension: str = "PhysicsLaw"

    def make(self, rng: random.Random, phrasing: str) -> Episode:
        usable = [kind.name for kind in kinds_of("block") if self.questions[0].holds_for(kind.name)]
        while True:
            blocks = rng.sample(usable, rng.randint(4, 6))
            question = rng.choice(self.questions)
            compared = rng.choice((blocks, blocks, rng.sample(blocks, rng.choice((2, 3)))))
            answer = question.answer(compared)
            if answer:
                break
        scene = make_scene(lay_table(rng, blocks, "block", lambda kind: kind.category != "block"), rng)
        instruction = _ask(rng, phrasing, question, () if compared is blocks else compared)
        references = [] if compared is blocks else compared
        return episode(self, scene, instruction, [("press", answer)], references)


def _ask(rng: random.Random, phrasing: str, question: Question, named: Sequence[str]) -> str:
    frame = choose(NAMED_FRAMES if named else FRAMES, phrasing, rng)
    does = choose(question.does, phrasing, rng)
    return expand(frame, rng, does=does, blocks=listing([called(block) for block in named]) if named else "")


TASKS = (
    PhysicsTask(
        "friction_qa", (Question("friction", False, SLIDES, gap=0.19), Question("friction", True, STICKS, gap=0.19))
    ),
    PhysicsTask(
        "density_qa",
        (
            Question("density", True, HEAVIEST, ratio=1.5),
            Question("density", False, LIGHTEST, ratio=1.5),
            Question("density", True, SINKS, ratio=1.5, above=WATER),
            Question("density", False, FLOATS, ratio=1.5, below=0.99 * WATER),
        ),
    ),
    PhysicsTask(
        "reflection_qa",
        (Question("reflectance", True, REFLECTS, gap=0.14), Question("reflectance", False, ABSORBS, gap=0.14)),
    ),
    # Of these two's questions, one nearly always has the same answer (rubber, foam), so the other is drawn more often.
    PhysicsTask(
        "thermal_expansion_qa",
        (
            Question("expansion", True, EXPANDS, ratio=1.5),
            *3 * (Question("expansion", False, KEEPS_ITS_SIZE, ratio=1.5),),
        ),
    ),
    PhysicsTask(
        "speed_of_sound_qa",
        (
            *5 * (Question("speed_of_sound", True, SOUND_IS_FAST, ratio=1.4),),
            Question("speed_of_sound", False, SOUND_IS_SLOW, ratio=1.4),
        ),
    ),
)
