"""Questions about what stands on a table: names, numbers, places, colours, categories, facts, and never a plan.

    scene = perception_scene(random.Random(7))
    question = ask("furthest", scene, random.Random(7))   # "Which fruit is furthest left?", "3"

The base model learns to see from these. Their wording is their own, so that no instruction of the benchmark is among
them; a place counts only where it is beyond doubt, as for the benchmark's Spatial tasks. A sort of question that a
scene gives no ground for (no two fruits, no clear order) has no question there.
"""

import json
import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from leap.errors import LeapError
from leap.preparation.build.phrasing import expand
from leap.tabletop.catalogue import KINDS, kinds_of
from leap.tabletop.rankings import RANKINGS
from leap.tabletop.scene import PlacedObject, Scene, make_scene
from leap.tabletop.tasks.episode import MAX_OBJECTS, MIN_OBJECTS
from leap.tabletop.tasks.relations import MARGIN, clearly_left, clearly_nearer

CATEGORIES = tuple(dict.fromkeys(kind.category for kind in KINDS.values()))
COLOURS = ("red", "yellow", "green", "purple", "blue", "white", "black", "pink", "orange")

_PLACES = ("first", "second", "third")
_CONTAINERS = (0, 1, 1, 2)  # how many are drawn at least
_SIDES: tuple[tuple[str, Callable[[PlacedObject, PlacedObject], bool]], ...] = (
    ("left of", clearly_left),
    ("right of", lambda one, other: clearly_left(other, one)),
    ("nearer to the robot than", clearly_nearer),
    ("farther from the robot than", lambda one, other: clearly_nearer(other, one)),
)
_ENDS: tuple[tuple[str, Callable[[PlacedObject, PlacedObject], bool]], ...] = (
    ("furthest left", clearly_left),
    ("furthest right", lambda one, other: clearly_left(other, one)),
    ("nearest to the robot", clearly_nearer),
    ("farthest from the robot", lambda one, other: clearly_nearer(other, one)),
)


@dataclass(frozen=True)
class Question:
    """What is asked about the numbered image, and the one right answer."""

    sort: str
    text: str
    answer: str


def perception_scene(rng: random.Random) -> Scene:
    """A table of 5 to 8 objects, with several of one category on it, as a task's distractors are."""
    while True:
        category = rng.choice([category for category in CATEGORIES if category != "container"])
        alike = [kind.name for kind in kinds_of(category)]
        kinds = rng.sample(alike, min(len(alike), rng.randint(2, 6)))
        kinds += rng.sample([kind.name for kind in kinds_of("container")], rng.choice(_CONTAINERS))
        count = rng.randint(max(MIN_OBJECTS, len(kinds)), max(MAX_OBJECTS, len(kinds)))
        others = [name for name in KINDS if name not in kinds]
        kinds = [*kinds, *rng.sample(others, count - len(kinds))][:MAX_OBJECTS]
        try:
            return make_scene(kinds, rng)
        except LeapError:  # large ones do not always fit: draw others
            continue


def renumbered(scene: Scene, rng: random.Random) -> Scene:
    """The same scene under other numbers, 1 to n."""
    numbers = rng.sample(range(1, len(scene.objects) + 1), len(scene.objects))
    placed = zip(scene.objects, numbers, strict=True)
    return replace(scene, objects=tuple(replace(each, number=number) for each, number in placed))


def ask(sort: str, scene: Scene, rng: random.Random) -> Question | None:
    """A question of that sort (a key of `SORTS`), or None where the scene gives no ground for one."""
    found = SORTS[sort](scene, rng)
    return Question(sort, *found) if found else None


def colour_of(kind: str) -> str | None:
    """The one colour that a kind is known by; None where it has several or none of `COLOURS`."""
    properties = {name.removesuffix("_coloured") for name in KINDS[kind].properties}
    found = [colour for colour in COLOURS if colour in properties]
    return found[0] if len(found) == 1 else None


_Asked = tuple[str, str] | None


def _list(scene: Scene, rng: random.Random) -> _Asked:
    text = "[Name every numbered object|List the objects by number|What stands on the table? Go by the numbers]."
    return expand(text, rng), _numbered(sorted(scene.objects, key=lambda each: each.number))


def _numbers(scene: Scene, rng: random.Random) -> _Asked:
    """Several objects by name, in random order: a lookup for each."""
    wanted = rng.sample(scene.objects, rng.randint(2, len(scene.objects)))
    form = rng.choice(("words", "words", "objects", "numbers", "fenced", "places"))
    wanted = wanted[: len(_PLACES)] if form == "places" else wanted
    text = "[Give the numbers of|Which numbers do these have:|Look up the numbers of] {names}."
    names = ", ".join(_the(each, rng) for each in wanted)
    if form == "words":
        return expand(text, rng, names=names), _named(wanted)
    if form == "objects":
        answer: Any = [{"object": _noun(each), "number": each.number} for each in wanted]
        return expand(f"{text} Answer in JSON.", rng, names=names), json.dumps(answer)
    if form == "numbers":
        return expand(f"{text} Answer with a list.", rng, names=names), json.dumps([each.number for each in wanted])
    if form == "fenced":
        answer = json.dumps([each.number for each in wanted])
        return expand(f"{text} Names, then a list in a fence.", rng, names=names), (
            f"{_named(wanted)}\n```json\n{answer}\n```"
        )
    given = list(zip(_PLACES, wanted, strict=False))
    asked = ", ".join(f"{place} {_the(each, rng)}" for place, each in rng.sample(given, len(given)))
    return f"Give the numbers in JSON: {asked}.", json.dumps({place: each.number for place, each in given})


def _number(scene: Scene, rng: random.Random) -> _Asked:
    placed = rng.choice(scene.objects)
    text = "[Which number is on|What is the number of|Number of] {name}?"
    return expand(text, rng, name=_the(placed, rng)), str(placed.number)


def _object(scene: Scene, rng: random.Random) -> _Asked:
    placed = rng.choice(scene.objects)
    return expand(f"[What is number {placed.number}|What object has number {placed.number}]?", rng), _noun(placed)


def _category(scene: Scene, rng: random.Random) -> _Asked:
    placed = rng.choice(scene.objects)
    text = f"[What category is number {placed.number}|Number {placed.number} is of which category]?"
    return expand(text, rng), KINDS[placed.kind].category


def _members(scene: Scene, rng: random.Random) -> _Asked:
    category = rng.choice(sorted({KINDS[each.kind].category for each in scene.objects}))
    found = sorted(scene.of_category(category), key=lambda each: each.number)
    return expand(f"[Which numbers are of the category {category}|Numbers of every {category}]?", rng), _numbered(found)


def _colour(scene: Scene, rng: random.Random) -> _Asked:
    coloured = [each for each in scene.objects if colour_of(each.kind)]
    if not coloured:
        return None
    placed = rng.choice(coloured)
    return f"What colour is number {placed.number}?", str(colour_of(placed.kind))


def _coloured(scene: Scene, rng: random.Random) -> _Asked:
    """The only object of a category in a colour, where every rival's colour is known to be another one."""
    found = []
    for category, rivals in _groups(scene):
        colours = [colour_of(each.kind) for each in rivals]
        if None not in colours:
            found += [(category, e) for e, c in zip(rivals, colours, strict=True) if colours.count(c) == 1]
    if not found:
        return None
    category, placed = rng.choice(found)
    return _which(f"Which {category} is {colour_of(placed.kind)}?", placed, rng)


def _order(scene: Scene, rng: random.Random) -> _Asked:
    """All of a category in a row that is clear from one to the next."""
    found: list[tuple[str, str, list[PlacedObject]]] = []
    for category, rivals in _groups(scene):
        for way, back, before, key in (
            ("left to right", "right to left", clearly_left, lambda each: -each.y),
            ("near to far", "far to near", clearly_nearer, lambda each: each.x),
        ):
            row = sorted(rivals, key=key)
            if all(before(row[i], row[j]) for i in range(len(row)) for j in range(i + 1, len(row))):
                found += [(category, way, row), (category, back, row[::-1])]
    if not found:
        return None
    category, way, row = rng.choice(found)
    if rng.random() < 0.5:
        return _row(expand(f"[List|Give] every {category} from {way}.", rng), row, rng)
    place = rng.randrange(len(row))
    return _which(f"Counted from {way}, which {category} is in place {place + 1} of {len(row)}?", row[place], rng)


def _furthest(scene: Scene, rng: random.Random) -> _Asked:
    found = [
        (category, words, placed)
        for category, rivals in _groups(scene)
        for words, before in _ENDS
        for placed in rivals
        if all(before(placed, other) for other in rivals if other != placed)
    ]
    if not found:
        return None
    category, words, placed = rng.choice(found)
    return _which(f"Which {category} is {words}?", placed, rng)


def _beside(scene: Scene, rng: random.Random) -> _Asked:
    """The only one of a category on one side of another object, every rival clearly on the other side."""
    found = []
    for reference in scene.objects:
        for category, members in _groups(scene):
            rivals = [each for each in members if each != reference]
            for words, holds in _SIDES:
                having = [each for each in rivals if holds(each, reference)]
                if len(having) == 1 and all(holds(reference, e) for e in rivals if e != having[0]):
                    found.append((category, words, reference, having[0]))
    if not found:
        return None
    category, words, reference, placed = rng.choice(found)
    return _which(f"Which {category} is {words} {_the(reference, rng)}?", placed, rng)


def _closest(scene: Scene, rng: random.Random) -> _Asked:
    found = []
    for reference in scene.objects:
        for category, members in _groups(scene):
            rivals = sorted((e for e in members if e != reference), key=lambda e: _gap(e, reference))
            if len(rivals) > 1 and _gap(rivals[1], reference) - _gap(rivals[0], reference) >= MARGIN:
                found.append((category, reference, rivals[0]))
    if not found:
        return None
    category, reference, placed = rng.choice(found)
    return _which(f"Which {category} is closest to {_the(reference, rng)}?", placed, rng)


def _facts(scene: Scene, rng: random.Random) -> _Asked:
    known = [each for each in scene.objects if KINDS[each.kind].properties]
    if not known:
        return None
    placed = rng.choice(known)
    name = rng.choice((f"number {placed.number}", _the(placed, rng)))
    return f"What is known of {name}?", ", ".join(map(_words, sorted(KINDS[placed.kind].properties)))


def _fact(scene: Scene, rng: random.Random) -> _Asked:
    """The only object of a category that a fact is known of."""
    found = []
    for category, rivals in _groups(scene):
        known = Counter(fact for each in rivals for fact in KINDS[each.kind].properties)
        found += [(category, fact, e) for e in rivals for fact in sorted(KINDS[e.kind].properties) if known[fact] == 1]
    if not found:
        return None
    category, fact, placed = rng.choice(found)
    return _which(f"Which {category} has this to it: {_words(fact)}?", placed, rng)


def _ranked(scene: Scene, rng: random.Random) -> _Asked:
    """Objects of a category in an order of the world: by density, by rank in poker. All of them, or those named."""
    found = []
    for ranking in RANKINGS:
        there = [each for each in scene.of_category(ranking.category) if ranking.holds_for(each.kind)]
        if len(there) < 2:
            continue
        asked = there if rng.random() < 0.5 else rng.sample(there, rng.randint(2, len(there)))
        high = rng.random() < 0.5
        row = sorted(asked, key=lambda each: ranking.value(each.kind), reverse=high)
        kinds = [each.kind for each in row]
        whole = len(asked) == len(scene.of_category(ranking.category))
        of = f"the {ranking.category}s" if whole else ", ".join(_the(each, rng) for each in asked)
        end = ranking.high if high else ranking.low
        if ranking.clear(kinds[0], kinds[1]):
            found.append((f"Of {of}, which {end}?", row[:1]))
        if all(ranking.clear(kinds[i], kinds[i + 1]) for i in range(len(kinds) - 1)):
            found.append((f"Order {of}: the one that {end} first.", row))
    if not found:
        return None
    text, row = rng.choice(found)
    return _which(text, row[0], rng) if len(row) == 1 else _row(text, row, rng)


SORTS: dict[str, Callable[[Scene, random.Random], _Asked]] = {
    "list": _list,
    "numbers": _numbers,
    "number": _number,
    "object": _object,
    "category": _category,
    "members": _members,
    "colour": _colour,
    "coloured": _coloured,
    "order": _order,
    "furthest": _furthest,
    "beside": _beside,
    "closest": _closest,
    "facts": _facts,
    "fact": _fact,
    "ranked": _ranked,
}


def _gap(one: PlacedObject, other: PlacedObject) -> float:
    """Metres between two middles."""
    return math.hypot(one.x - other.x, one.y - other.y)


def _groups(scene: Scene) -> list[tuple[str, tuple[PlacedObject, ...]]]:
    """Each category with two objects or more, in the scene's order."""
    categories = dict.fromkeys(KINDS[each.kind].category for each in scene.objects)
    found = [(category, scene.of_category(category)) for category in categories]
    return [(category, members) for category, members in found if len(members) > 1]


def _numbered(placed: Sequence[PlacedObject]) -> str:
    return ", ".join(f"{each.number} {_noun(each)}" for each in placed)


def _named(placed: Sequence[PlacedObject]) -> str:
    return ", ".join(f"{_noun(each)} {each.number}" for each in placed)


def _which(text: str, placed: PlacedObject, rng: random.Random) -> tuple[str, str]:
    """Asked for the number alone, or for the name before it."""
    return rng.choice(((text, str(placed.number)), (f"{text} Name it first.", _named([placed]))))


def _row(text: str, row: Sequence[PlacedObject], rng: random.Random) -> tuple[str, str]:
    return rng.choice(((text, _numbered(row)), (f"{text} Names first.", _named(row))))


def _words(fact: str) -> str:
    return fact.replace("_", " ")


def _noun(placed: PlacedObject) -> str:
    return KINDS[placed.kind].noun


def _the(placed: PlacedObject, rng: random.Random) -> str:
    """By its noun, or by its name in the catalogue: "the can of cola", "the cola"."""
    return f"the {rng.choice((_noun(placed), placed.kind.replace('_', ' ')))}"
