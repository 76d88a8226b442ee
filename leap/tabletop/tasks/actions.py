"""What a single-step task asks the robot to do with one object, and the words for asking it.

An instruction is a frame ("Could you {do}?") around an action's verb phrase ("put {object} {into}") around a
description of the object; only the description differs between the dimensions.
"""

import random
from dataclasses import dataclass

from leap.preparation.build.phrasing import expand
from leap.tabletop.tasks.reference_plan import Move
from leap.tabletop.tasks.surface_forms import choose, inside, into, the


@dataclass(frozen=True)
class VerbPhrase:
    """How to say what is to be done: `direct` needs a short name for the object, `split` suits any description."""

    direct: str
    split: str


@dataclass(frozen=True)
class Action:
    """Pick one object of `category`, then do `skills` with it.

    `noun` is the word for any object of the category. Of `containers` one is drawn for the first skill; `put_back` is
    where the object is placed at the end. `do` is the verb phrase, `contexts` are sentences that may stand before it.
    """

    category: str
    noun: str
    skills: tuple[str, ...]
    do: VerbPhrase
    contexts: tuple[str, ...]
    containers: tuple[str, ...] = ()
    put_back: str = ""

    def draw_containers(self, rng: random.Random) -> tuple[str, ...]:
        """The containers of one scene, in the plan's order."""
        drawn = (rng.choice(self.containers),) if self.containers else ()
        return (*drawn, self.put_back) if self.put_back else drawn

    def moves(self, target: str, containers: tuple[str, ...]) -> list[Move]:
        kinds = (*containers, *[""] * (len(self.skills) - len(containers)))
        return [("pick", target), *zip(self.skills, kinds, strict=True)]

    def slots(self, containers: tuple[str, ...], long: bool = False) -> dict[str, str]:
        """The texts for everything but the object; `long` says that its description is a long one."""
        slots = {"do": self.do.split if long else f"[{self.do.direct}|{self.do.split}]", "noun": self.noun}
        if containers:
            first, last = containers[0], containers[-1]
            slots |= {"container": the(first), "into": into(first), "in": f"[{inside(first)}|{into(first)}]"}
            slots["back"] = f"[{inside(last)}|{into(last)}]"
        return slots

    def request(
        self, rng: random.Random, phrasing: str, containers: tuple[str, ...], long: bool = True, **slots: str
    ) -> str:
        """A whole instruction; `slots` describe the object ({object}, {it})."""
        frame = choose(FRAMES, phrasing, rng)
        context = choose(self.contexts, phrasing, rng)
        return expand(frame, rng, context=context, **self.slots(containers, long), **slots)


FRAMES = (
    "{do}.",
    "[Please|Kindly] {do}.",
    "I'd [like|love] you to {do}.",
    "[Could|Can|Would] you [please |]{do}?",
    "Robot, [please |]{do}.",
    "[Be so kind as to|Do me a favour:] {do}.",
    "{context} [Please |]{do}.",
    "{context} [Could|Can|Would] you {do}?",
    "Your [task|job] [now |]is to {do}.",
    "[Now|Next], [please |]{do}.",
    "{context} [I need you to|You should] {do}.",
    "{context} It would [help|be great] if you could {do}.",
    "I [need|want] you to {do}.",
    "{context} {do}.",
    "[Would it be possible for you to|May I ask you to] {do}?",
)

# A long description goes first and its verb follows ("take … and put it into …"), or the sentence would be a riddle.
_LIFT = VerbPhrase(
    "[pick up|lift|raise] {object}",
    "[[pick up|lift|raise] {object}|[take|grab|grasp] {object} and [lift|hold|raise] {it} up]",
)
_PLACE = VerbPhrase(
    "[put|place] {object} {in}", "[take|get|grab|pick up|lift|fetch] {object} and [put|place|set] {it} {in}"
)
_INSERT = VerbPhrase(
    "[insert {object} into {container}|[put|stick] {object} [in|into] {container}]",
    "[take|pick up|grab|get] {object} and [insert {it} into|put {it} into|stick {it} in] {container}",
)
_PULL = VerbPhrase(
    "pull {object} [closer|nearer|towards you]",
    "[take hold of|grasp|grab] {object} and pull {it} [closer|nearer|towards you]",
)
_POUR = VerbPhrase(
    "[add [some of |]{object} to {container}|pour [some of |]{object} {into}]",
    "[take|pick up|get|fetch] {object} and [pour [some|a little] {into}|add [some|a little] to {container}]",
)
_POUR_BACK = VerbPhrase(
    "pour [some of |]{object} {into}, then [put|place] {it} {back}",
    "[take|pick up|get|fetch] {object}, [pour [some|a little] {into}|add [some|a little] to {container}] "
    "and [then|afterwards|finally] [put|set|place] {it} {back}",
)

_BAR = (
    "[I'm thirsty|My throat is dry].",
    "[The guests have arrived|Our guests are here].",
    "[Lunch|Dinner|Supper] is [served|nearly ready].",
    "[Somebody|A guest|My neighbour] has asked for a drink.",
    "[We're clearing the bar|I'm sorting the drinks].",
    "[The party|The barbecue] is about to begin.",
)
_KITCHEN = (
    "[Lunch|Dinner|Supper] needs [some|a bit of] seasoning.",
    "The food tastes [bland|of nothing|a little dull].",
    "The cook [has no hand free|needs a hand].",
    "[The meal|The dish] isn't [quite |]ready yet.",
    "[I'm trying out a new recipe|The recipe isn't finished].",
    "[We're cooking|I'm cooking for friends] tonight.",
)
_LAB = (
    "[The lesson|The experiment] [is about to begin|starts in a minute].",
    "[I'm preparing the experiment|I'm setting up the lab bench].",
    "[The chemistry teacher|The lab assistant] is waiting.",
    "[The samples are ready|The tubes have been filled].",
    "[We need one sample|One tube is wanted] for the [next test|analysis].",
    "[Safety goggles are on|My gloves are on].",
)

LIFT_DRINK = Action("drink", "drink", ("lift",), _LIFT, _BAR)
PULL_DRINK = Action("drink", "drink", ("pull",), _PULL, _BAR)
PLACE_DRINK = Action("drink", "drink", ("place",), _PLACE, _BAR, ("tray", "box", "basket"))
ADD_CONDIMENT = Action("condiment", "condiment", ("pour",), _POUR, _KITCHEN, ("plate", "bowl", "pan"))
ADD_CONDIMENT_AND_RETURN = Action(
    "condiment", "condiment", ("pour", "place"), _POUR_BACK, _KITCHEN, ("plate", "bowl", "pan"), put_back="tray"
)
LIFT_TUBE = Action("tube", "tube", ("lift",), _LIFT, _LAB)
INSERT_TUBE = Action("tube", "tube", ("insert",), _INSERT, _LAB, ("tube_rack",))
PLACE_FRUIT = Action(
    "fruit",
    "fruit",
    ("place",),
    _PLACE,
    (
        "[I'm packing a snack|I'm packing for a picnic].",
        "[We're about to have breakfast|Breakfast is almost ready].",
        "[The fruit has been washed|The shopping has been unpacked].",
        "[The children|My guests] will be hungry soon.",
        "[I'm tidying up the kitchen|The kitchen table is a mess].",
        "[It's time for something healthy|I want to eat more fruit].",
    ),
    ("plate", "bowl", "basket", "tray"),
)
PLACE_TOY = Action(
    "toy",
    "toy",
    ("place",),
    _PLACE,
    (
        "[The children have stopped playing|The children are off to bed].",
        "[It's time to tidy up|We're tidying the playroom].",
        "[We're giving some toys away|I'm sorting the toys].",
        "[The playroom|The nursery] is a [mess|bit untidy].",
        "My [son|daughter|niece|nephew] has finished playing.",
        "[We're moving house|We're packing for the holidays].",
    ),
    ("box", "basket", "tray"),
)
INSERT_FLOWER = Action(
    "flower",
    "flower",
    ("insert",),
    _INSERT,
    (
        "[The dining table|This room] looks [a bit |]bare.",
        "[My parents are|My mother is|A friend is] coming [over|to tea].",
        "[The vase is empty|There is nothing in the vase yet].",
        "[The florist has just been here|I've been to the flower market].",
        "[We're decorating the table|I'm decorating the hall].",
        "[It's spring|It's Sunday], and the house should look its best.",
    ),
    ("vase",),
)
PULL_BOOK = Action(
    "book",
    "book",
    ("pull",),
    _PULL,
    (
        "[I want to read a little|I feel like reading].",
        "[It's a rainy afternoon|It's a quiet evening].",
        "[The library is about to close|The reading club meets tonight].",
        "[My friend wants to borrow a book|A reader has asked for a book].",
        "[I'm sorting the books|We're taking stock of the books].",
        "[My holiday has begun|I have an hour to spare].",
    ),
)
LIFT_CARD = Action(
    "card",
    "card",
    ("lift",),
    _LIFT,
    (
        "[The game is on|The cards are on the table].",
        "[It's your turn|It's our move].",
        "[We're learning to play cards|I'm learning a card trick].",
        "[Everybody at the table is waiting|The dealer is waiting].",
        "[I can't reach the cards from here|My hands are full].",
        "[A new round has begun|Here comes the next round].",
    ),
)
