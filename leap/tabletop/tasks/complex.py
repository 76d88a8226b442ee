"""Complex: plans of at least three subtasks in order, each of a pattern that the benchmark recognises."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from leap.preparation.build.phrasing import expand
from leap.tabletop.catalogue import kinds_of
from leap.tabletop.scene import make_scene
from leap.tabletop.tasks.common_sense import rank
from leap.tabletop.tasks.episode import Episode, episode, lay_table
from leap.tabletop.tasks.reference_plan import Move
from leap.tabletop.tasks.surface_forms import choose, inside, into, listing, the


@dataclass(frozen=True)
class Draft:
    """One request before there is a scene: its words (templates and what fills them) and its plan.

    `closed` says that no other object of the category may be there, as when "all the books" are meant, apart from
    `beside`, which stand there without being touched.
    """

    templates: tuple[str, ...]
    slots: dict[str, str]
    moves: list[Move]
    closed: bool = False
    beside: tuple[str, ...] = ()


@dataclass(frozen=True)
class ComplexTask:
    """A plan drawn by `draft`; the distractors are of `category`."""

    name: str
    category: str
    draft: Callable[[random.Random], Draft]
    dimension: str = "Complex"

    def make(self, rng: random.Random, phrasing: str) -> Episode:
        draft = self.draft(rng)
        touched = [kind for _, kind in draft.moves if kind]
        needed = list(dict.fromkeys([*touched, *draft.beside]))
        kinds = lay_table(
            rng, needed, self.category, lambda kind: not (draft.closed and kind.category == self.category)
        )
        instruction = expand(choose(draft.templates, phrasing, rng), rng, **draft.slots)
        return episode(self, make_scene(kinds, rng), instruction, draft.moves)


def _some(category: str, count: int, rng: random.Random, without: tuple[str, ...] = ()) -> list[str]:
    return rng.sample([kind.name for kind in kinds_of(category) if kind.name not in without], count)


def _named(kinds: list[str]) -> str:
    return listing([the(kind) for kind in kinds])


_ORDER = "[in that order|in this order|one after the other]"

SHELVE_ALL = (
    "[Put|Insert] all the books into the book shelf in {order}.",
    "[Could|Can|Would] you [put|insert] [every book|all the books] into the shelf in {order}?",
    "[I like my shelf colourful:|I'm fond of colours:] insert all the books into it in {order}.",
    "The books should go into the shelf in {order}. [Please |]put them in.",
    "[Please |]tidy up: insert [each|every single] book into the book shelf, in {order}.",
    "[Sort|Arrange] all the books in the book shelf in {order}.",
)
SHELVE_NAMED = (
    "First insert {first} into the book shelf, then pull {second} closer, and finally insert {third} into the shelf.",
    "[Please |]put {first} into the book shelf. Then pull {second} closer and put {third} into the shelf.",
    "[Could|Can|Would] you insert {first} into the shelf, pull {second} towards you and then insert {third} as well?",
    "[I'm rearranging my books|My books are in a muddle]: {first} goes into the shelf, then pull {second} closer, "
    "and last of all put {third} into the shelf.",
    "Shelve {first}, pull {second} closer [to look at it|so that I can see it], and then shelve {third}.",
    "Robot, start by putting {first} into the book shelf, go on by pulling {second} closer and end with {third}, "
    "which belongs in the shelf too.",
)
RAINBOW = ("red_book", "yellow_book", "green_book", "blue_book", "purple_book")


def book_rearrange(rng: random.Random) -> Draft:
    """Shelve all the books by colour, or shelve one, pull one out, shelve another."""
    if rng.random() < 0.5:
        shelved = sorted(_some("book", rng.choice((3, 4)), rng), key=RAINBOW.index)
        order = f"[the order of the rainbow|rainbow order], [starting with|beginning with] {the(shelved[0])}"
        moves = [move for book in shelved for move in (("pick", book), ("insert", "shelf"))]
        return Draft(SHELVE_ALL, {"order": order}, moves, closed=True)
    first, second, third = _some("book", 3, rng)
    slots = {"first": the(first), "second": the(second), "third": the(third)}
    moves = [("pick", first), ("insert", "shelf"), ("pick", second), ("pull", ""), ("pick", third), ("insert", "shelf")]
    return Draft(SHELVE_NAMED, slots, moves)


HOLDEM = (
    "[Show|Reveal] {cards}, lifting [them|the cards] one after the other.",
    "[Please |]lift {cards}, one after the other.",
    "[Could|Can|Would] you [lift|pick up] {cards} {order}?",
    "[The betting is over|It's time to show your hand]: lift {cards} {order}.",
    "My hand [consists of|is made of] {cards}. [Lift|Raise] these cards {order}.",
    "[Showdown!|The river is on the table.] [Pick up|Lift] {cards} {order}.",
    "[Play|For this round of Texas hold'em, play] {cards}: lift each of them, one by one.",
    "Robot, [please |]raise {cards} {order}, so that everybody can see them.",
    "The dealer wants to see {cards}. [Lift|Hold up] one after the other.",
    "Your [task|job] is to lift {cards}, one by one.",
    "[Nobody believes my hand|They think I'm bluffing]. [Lift|Show them] {cards} {order}.",
    "[Hold up|Lift up] {cards} {order}, [please|if you would].",
)
HOLDEM_HIGHEST = (
    "[Show|Lift] the three highest cards on the table by poker rank, [starting with|beginning with] the highest.",
    "[Please |]lift the three best poker cards that you see, from the highest down.",
    "[Could|Can|Would] you lift the top three cards by poker rank, the highest first?",
    "[I need the strongest hand|We're going all in]: lift the three highest poker cards here, highest first.",
    "Rank the cards as in poker and lift the best three one by one, [starting at the top|from the top down].",
    "[It's the showdown|The last round has come]. Raise the three cards that rank highest, in falling order.",
)


def texas_holdem(rng: random.Random) -> Draft:
    """Lift three or four named cards, or the three highest of those on the table."""
    if rng.random() < 0.35:
        return _highest_cards(rng)
    hand = _some("card", rng.choice((3, 3, 4)), rng)
    return Draft(HOLDEM, {"cards": _named(hand), "order": _ORDER}, _lift_all(hand))


def _highest_cards(rng: random.Random) -> Draft:
    hand = sorted(_some("card", rng.choice((4, 5, 6)), rng), key=rank)
    return Draft(HOLDEM_HIGHEST, {}, _lift_all(hand[:3]), closed=True, beside=tuple(hand[3:]))


def _lift_all(cards: list[str]) -> list[Move]:
    return [move for card in cards for move in (("pick", card), ("lift", ""))]


COOL = (
    "[Put|Place] {drinks} in the fridge and close it [again|afterwards].",
    "Open the fridge, put {drinks} inside and shut the door.",
    "[Could|Can|Would] you [chill|cool] {drinks} in the fridge? It's closed now and should be closed afterwards.",
    "[The party starts in an hour|It's a hot day], and {drinks} should be cold by then. Open the fridge, put {them} in "
    "and shut it.",
    "[I like my drinks cold|Nobody likes warm drinks]: [put|place] {drinks} in the closed fridge and shut it again.",
    "[Please |]open the fridge door, [place|put] {drinks} in there and push the door shut.",
    "{drinks} [should|ought to] be chilled. Use the fridge, and [don't leave it open|remember to shut it].",
    "Robot, [please |]cool {drinks}: the fridge has to be opened first and closed at the end.",
    "Get {drinks} into the fridge. [Mind the door: open it first and shut it last|Open it first and shut it last].",
    "Your [task|job] is to store {drinks} in the closed fridge, whose door you should shut at the end.",
    "[I'm back from the shops|I've been shopping]. {drinks} should go into the fridge; please open it and close it.",
    "[It's warm|It's summer]. Don't let {drinks} get too warm: open the fridge, put {them} in and close the door.",
)


def cool_drink(rng: random.Random) -> Draft:
    """Open the fridge, put one or two drinks in, push the door shut."""
    drinks = _some("drink", rng.choice((1, 1, 2)), rng)
    moves = [("pick", "fridge"), ("open_door", "")]
    moves += [move for drink in drinks for move in (("pick", drink), ("place", "fridge"))]
    moves += [("pick", "fridge"), ("push", "fridge")]
    return Draft(COOL, {"drinks": _named(drinks), "them": "it" if len(drinks) == 1 else "them"}, moves)


JUICE = (
    "[Make|Prepare] juice from {fruits}, which go into the juicer {order}.",
    "Put {fruits} into the juicer {order} and [press|start] it.",
    "[Could|Can|Would] you put {fruits} into the juicer, {order}, and then switch it on?",
    "[I'm thirsty|It's breakfast time]. [Make|Prepare] me a juice of {fruits}, {order}.",
    "[Fill|Load] the juicer with {fruits}, {order}, and press it [to start|when everything is in].",
    "The recipe asks for {fruits}. [Put|Drop] them into the juicer {order} and press it.",
    "[Please |]juice {fruits}, adding them {order}, and press the juicer at the end.",
    "I'd [like|love] a fresh juice of {fruits}. Add the fruit {order}, then start the juicer.",
    "Robot, [please |]put {fruits} in the juicer {order}. Once they are in, press it.",
    "[My doctor recommends|My trainer swears by] a juice of {fruits}. [Make one|Prepare one], adding them {order}.",
    "[Vitamins, please|It's time for vitamins]! Juice {fruits}, {order}.",
    "Place {fruits} into the juicer {order}; when you have finished, switch the juicer on.",
)


def make_juice(rng: random.Random) -> Draft:
    """Put two or three fruits into the juicer and press it."""
    fruits = _some("fruit", rng.choice((2, 3)), rng, without=("watermelon",))
    moves = [move for fruit in fruits for move in (("pick", fruit), ("place", "juicer"))]
    return Draft(JUICE, {"fruits": _named(fruits), "order": _ORDER}, [*moves, ("press", "juicer")])


EXPERIMENT = (
    "Pour {tubes} into the beaker {order}, putting each tube into the rack afterwards.",
    "[Mix|Combine] {tubes} in the beaker {order}. Every empty tube goes into the rack before you take the next.",
    "[Could|Can|Would] you pour {tubes} into the beaker {order}, and put each one in the rack when it is empty?",
    "[Please |]pour {tubes} into the beaker {order}. Put each tube in the rack as soon as you have poured it out.",
    "For [the experiment|our reaction], the beaker needs {tubes}, {order}. Leave each empty tube in the rack.",
    "Empty {tubes} into the beaker {order} and tidy each tube away into the rack before going on.",
    "The [protocol|lab book] says: {tubes}, to be poured into the beaker {order}. Put each tube in the rack after use.",
    "Robot, [please |]pour {tubes} into the beaker {order}, and place every tube in the rack after pouring.",
    "Take {tubes} {order}; pour each into the beaker and then set it in the rack.",
    "[I want to see what happens|Let's see what colour we get] when {tubes} meet in the beaker {order}. "
    "Put each tube in the rack once it is empty.",
    "Your [task|job] is to pour {tubes} into the beaker {order}, with each tube placed in the rack after its turn.",
    "[Goggles on|Let's begin]! Into the beaker go {tubes}, {order}, and each empty tube goes into the rack at once.",
)


def take_chemistry_experiment(rng: random.Random) -> Draft:
    """Pour three or four solutions into the beaker, each tube going into the rack after its turn."""
    tubes = _some("tube", rng.choice((3, 4)), rng)
    solutions = listing([f"the {tube.split('_')[0]}" for tube in tubes]) + " solution"
    steps = [(("pick", tube), ("pour", "beaker"), ("place", "tube_rack")) for tube in tubes]
    return Draft(EXPERIMENT, {"tubes": solutions, "order": _ORDER}, [move for step in steps for move in step])


COOK = (
    "[Make|Prepare] {dish}: put {fruits} {into}, {order}, and then add {sauce}.",
    "Put {fruits} {into} {order} and pour {sauce} over them.",
    "[Could|Can|Would] you make {dish} by putting {fruits} {into}, {order}, and pouring {sauce} over them?",
    "[I'm hungry|My guests are hungry]. For {dish}, put {fruits} {into} {order} and finish with {sauce}.",
    "The recipe for {dish}: {fruits} go {into}, {order}, and {sauce} goes on top. [Please |]prepare it.",
    "[I have always wanted to try|I'd love to taste] {dish}. Put {fruits} {into} {order}, then pour in {sauce}.",
    "[Please |]prepare {dish}. [Place|Put] {fruits} {into} {order}, and only then add {sauce}.",
    "Robot, for {dish} I need {fruits} put {into}, {order}, with {sauce} poured over them at the end.",
    "{dish} is on the menu. [Put|Place] {fruits} {into} {order} and season the whole with {sauce}.",
    "Your [task|job] is to put {fruits} {into}, {order}, and to pour {sauce} over them at the end.",
    "[Supper|Lunch] will be {dish}. Start by placing {fruits} {into} {order} and end by adding {sauce}.",
    "[Place|Put] {fruits} {into} {order}. Once they are all in, add {sauce}, and {dish} is ready.",
)
DISHES = (("a fruit salad", "bowl", "honey"), ("a chutney", "pan", "mustard"), ("a fruit curry", "pan", "pepper"))


def cook_dishes(rng: random.Random) -> Draft:
    """Put two or three fruits into a bowl or pan and pour something over them."""
    dish, vessel, sauce = rng.choice(DISHES)
    fruits = _some("fruit", rng.choice((2, 3)), rng, without=("watermelon",))
    moves = [move for fruit in fruits for move in (("pick", fruit), ("place", vessel))]
    into_vessel = f"[{inside(vessel)}|{into(vessel)}]"
    slots = {"dish": dish, "fruits": _named(fruits), "into": into_vessel, "order": _ORDER, "sauce": f"the {sauce}"}
    return Draft(COOK, slots, [*moves, ("pick", sauce), ("pour", vessel)])


TASKS = (
    ComplexTask("cook_dishes", "fruit", cook_dishes),
    ComplexTask("book_rearrange", "book", book_rearrange),
    ComplexTask("texas_holdem", "card", texas_holdem),
    ComplexTask("cool_drink", "drink", cool_drink),
    ComplexTask("make_juice", "fruit", make_juice),
    ComplexTask("take_chemistry_experiment", "tube", take_chemistry_experiment),
)
