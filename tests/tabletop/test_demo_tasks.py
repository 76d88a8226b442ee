"""The demo's tasks: every answer is right for its scene, alone right, and asked in varied and correct English."""

import math
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY
from tokenizers import Tokenizer

from leap.errors import LeapError
from leap.preparation.build.phrasing import expand, plain_request, sentence
from leap.records.benchmark import BenchmarkExample
from leap.records.training import numbered
from leap.tabletop.catalogue import KINDS
from leap.tabletop.scene import PlacedObject
from leap.tabletop.tasks import TASKS, Episode, make_episode
from leap.tabletop.tasks.facts import FACTS
from leap.tabletop.tasks.semantic_requests import REQUESTS
from leap.tabletop.tasks.surface_forms import templates_for
from leap.vlabench.blind import blind_scores

NAMES = [(dimension, maker.name) for dimension, makers in TASKS.items() for maker in makers]
SUBTASKS = [  # in upstream's order
    ["pick", "place"],
    ["pick", "insert"],
    ["pick", "pour", "place"],
    ["pick", "pour"],
    ["pick", "pull"],
    ["pick", "lift"],
    ["pick", "push", "pull"],
    ["pick", "push", "place"],
    ["pick", "push"],
    ["pick", "open_door"],
    ["press"],
]
PATTERNS = {  # the skills of the single-step tasks, by a part of their names
    "drink_semantic": "pick pull",
    "drink_spatial": "pick place",
    "drink": "pick lift",
    "tube_common": "pick insert",
    "tube_spatial": "pick insert",
    "tube": "pick lift",
    "condiment_spatial": "pick pour place",
    "condiment": "pick pour",
    "flower": "pick insert",
    "poker": "pick lift",
    "fruit": "pick place",
    "toy": "pick place",
    "book": "pick pull",
    "_qa": "press",
}


def episodes(dimension: str, task: str, count: int, phrasing: str = "eval") -> list[Episode]:
    return [make_episode(dimension, task, random.Random(f"{task} {seed}"), phrasing) for seed in range(count)]


def skills(episode: Episode) -> list[str]:
    return [step["name"] for step in episode.skill_sequence]


def target(episode: Episode) -> PlacedObject:
    return episode.scene.find(episode.targets[0])


def same_category(episode: Episode) -> list[PlacedObject]:
    category = KINDS[episode.targets[0]].category
    return [placed for placed in episode.scene.objects if KINDS[placed.kind].category == category]


def as_pattern(template: str) -> re.Pattern[str]:
    """A template of alternatives as a regular expression."""
    marks = {"[": "(?:", "]": ")", "|": "|"}
    return re.compile("".join(marks.get(letter, re.escape(letter)) for letter in template))


@pytest.mark.parametrize(("dimension", "task"), NAMES)
def test_plan_fits_its_scene(dimension: str, task: str) -> None:
    for episode in episodes(dimension, task, 80):
        assert (episode.dimension, episode.task) == (dimension, task)
        assert 5 <= len(episode.scene.objects) <= 8
        kind_of = {placed.number: placed.kind for placed in episode.scene.objects}
        assert len(kind_of) == len(episode.scene.objects)
        named = [kind_of[number] for step in episode.skill_sequence for number in step["params"].values()]
        assert set(named) <= set(episode.targets)
        assert named[0] == episode.targets[0]
        assert len(episode.steps) == len(episode.skill_sequence)
        for step in episode.skill_sequence:
            parameter = {"pick": "target_entity_name", "press": "target_entity_name"}.get(
                step["name"], "target_container_name"
            )
            expected = [] if step["name"] in ("lift", "pull", "open_door") else [parameter]
            assert list(step["params"]) == expected


@pytest.mark.parametrize(("dimension", "task"), [pair for pair in NAMES if pair[0] != "Complex"])
def test_skills_follow_the_family(dimension: str, task: str) -> None:
    expected = next(pattern for part, pattern in PATTERNS.items() if part in task.replace("select_specific", "book"))
    for episode in episodes(dimension, task, 10):
        assert " ".join(skills(episode)) == expected


@pytest.mark.parametrize("task", [task for dimension, task in NAMES if dimension == "Complex"])
def test_complex_has_three_recognised_subtasks(task: str) -> None:
    for episode in episodes("Complex", task, 60):
        names, place, found = skills(episode), 0, 0
        while place < len(names):
            match = next((p for p in SUBTASKS if names[place : place + len(p)] == p), None)
            assert match, f"{names} has a skill outside every pattern"
            place, found = place + len(match), found + 1
        assert found >= 3


@pytest.mark.parametrize(
    ("dimension", "task"),
    [pair for pair in NAMES if pair[0] in ("CommonSense", "Semantic") and "nth_largest" not in pair[1]],
)
def test_only_the_target_has_the_property(dimension: str, task: str) -> None:
    texts = FACTS if dimension == "CommonSense" else REQUESTS
    for episode in episodes(dimension, task, 80):
        described = [
            (len(template), fact)
            for fact, templates in texts[KINDS[episode.targets[0]].category].items()
            for template in templates
            if as_pattern(sentence(template) if dimension == "Semantic" else template).search(episode.instruction)
        ]
        fact = max(described)[1]  # the longest, as "the fizzy drink" is a part of others
        having = [placed.kind for placed in episode.scene.objects if fact in KINDS[placed.kind].properties]
        assert having == [episode.targets[0]], episode.instruction


@pytest.mark.parametrize(("dimension", "task"), [pair for pair in NAMES if pair[0] in ("CommonSense", "Semantic")])
def test_instruction_does_not_name_the_target(dimension: str, task: str) -> None:
    generic = {"toy", "book", "solution", "of", "sauce"}
    for episode in episodes(dimension, task, 150):
        kind = KINDS[episode.targets[0]]
        words = re.findall(r"\w+", episode.instruction.lower())
        name = set(kind.name.split("_")) - generic
        assert not [
            word for word in words for part in name if word == part or (len(part) > 3 and word.startswith(part))
        ], episode.instruction


def test_every_property_is_in_the_catalogue() -> None:
    for texts in (FACTS, REQUESTS):
        for category, facts in texts.items():
            for fact, templates in facts.items():
                assert any(fact in kind.properties for kind in KINDS.values() if kind.category == category), fact
                assert len(templates) >= 3, fact


def test_nth_largest_card_is_in_its_place() -> None:
    order = ["two", "seven", "ten", "queen", "king", "ace"]
    places = {"": 0, "second-": 1, "third-": 2}
    for episode in episodes("CommonSense", "select_nth_largest_poker", 200):
        match = re.search(r"(second-|third-|)(highest|lowest)", episode.instruction)
        assert match
        cards = sorted(same_category(episode), key=lambda placed: order.index(placed.kind.split("_")[0]))
        cards = cards[::-1] if match[2] == "highest" else cards
        assert cards[places[match[1]]] == target(episode)


def satisfied(episode: Episode, placed: PlacedObject) -> bool:
    """Whether the instruction's spatial description is true of an object, read from the text alone."""
    text, rivals = (
        episode.instruction,
        [each for each in same_category(episode) if each.kind not in episode.targets[1:]],
    )
    reference = next((kind for kind in reversed(episode.targets[1:]) if _refers_to(kind, text)), None)
    if reference:
        return _satisfied_to(text, placed, episode.scene.find(reference), rivals)
    side = re.search(r"left|right", text)
    if side:
        row = sorted(same_category(episode), key=lambda each: -each.y if side[0] == "left" else each.y)
        nth = re.search(r"\b(second|third|fourth|fifth)\b", text)
        return row[("second", "third", "fourth", "fifth").index(nth[1]) + 1 if nth else 0] == placed
    near = re.search(r"nearest|closest|shortest|the least far", text)
    return placed == (min if near else max)(same_category(episode), key=lambda each: each.x)


def _refers_to(kind: str, text: str) -> bool:
    name = KINDS[kind].noun
    name = name.replace("book", "(?:book|one)") if KINDS[kind].category == "book" else name
    return (
        re.search(rf"(?:of|to|than|of all to) the {name}\b", text) is not None and KINDS[kind].category != "container"
    )


def _satisfied_to(text: str, placed: PlacedObject, other: PlacedObject, rivals: list[PlacedObject]) -> bool:
    if placed == other:
        return False
    side = re.search(r"\b(left|right)\b", text)
    if side:
        return placed.y > other.y if side[1] == "left" else placed.y < other.y
    if re.search(r"(nearer|closer) to|on your side|less far", text):
        return placed.x < other.x
    nearest = min(rivals, key=lambda each: math.hypot(each.x - other.x, each.y - other.y))
    return placed == nearest


@pytest.mark.parametrize("task", [task for dimension, task in NAMES if dimension == "Spatial"])
def test_only_the_target_is_in_the_place(task: str) -> None:
    for episode in episodes("Spatial", task, 150):
        true_of = [placed.kind for placed in same_category(episode) if satisfied(episode, placed)]
        assert true_of == [episode.targets[0]], episode.instruction


QUESTIONS = (  # (words, quantity, sign)
    (r"grow most|smallest in the cold|expands most|most room", "expansion", 1),
    (r"grow least|biggest in the cold|expands least|keep its size", "expansion", -1),
    (r"sound the fastest|highest speed|end (first|soonest)|greatest speed|least time", "speed_of_sound", 1),
    (r"least fast|lowest speed|end last|smallest speed|most time", "speed_of_sound", -1),
    (r"most friction|highest friction|soonest|last to slide|board best", "friction", 1),
    (r"least friction|lowest friction|slid|board least", "friction", -1),
    (r"weighs the most|heaviest|(highest|greatest) density|scale down (furthest|the most)|hardest", "density", 1),
    (r"sink|bottom|go down fastest", "density", 1),
    (r"weighs the least|lightest|(lowest|smallest) density|scale down the least|easiest", "density", -1),
    (r"float|surface above|stick out|show most|smallest part", "density", -1),
    (r"most light from|reflects the most|brightest|most reflective|light best", "reflectance", 1),
    (r"least light|absorbs|swallows|darkest|least reflective", "reflectance", -1),
)
CLEAR = {  # by what difference, and by what factor, an answer must stand out
    "friction": (0.19, 1.0),
    "reflectance": (0.14, 1.0),
    "density": (0.0, 1.5),
    "expansion": (0.0, 1.5),
    "speed_of_sound": (0.0, 1.4),
}


@pytest.mark.parametrize("task", [task for dimension, task in NAMES if dimension == "PhysicsLaw"])
def test_physics_decides(task: str) -> None:
    for episode in episodes("PhysicsLaw", task, 150):
        text = episode.instruction
        quantity, sign = next((quantity, sign) for words, quantity, sign in QUESTIONS if re.search(words, text))
        assert task.startswith({"reflectance": "reflection", "expansion": "thermal"}.get(quantity, quantity))
        blocks = [placed.kind for placed in same_category(episode)]
        named = [kind for kind in blocks if f"the {kind.replace('_', ' ')}" in text]
        values = sorted((sign * getattr(KINDS[kind], quantity) for kind in named or blocks), reverse=True)
        assert sign * getattr(KINDS[episode.targets[0]], quantity) == values[0]
        gap, ratio = CLEAR[quantity]
        assert values[0] - values[1] >= gap, text
        assert max(values[0] / values[1], values[1] / values[0]) >= ratio, text
        if re.search("sink|bottom", text):
            assert values[0] > 1000


def test_a_constant_plan_gains_nothing() -> None:
    """Numbers are drawn anew for each scene: the best of 120 reference plans has no more than chance gives the best."""
    for dimension, task in NAMES:
        drawn = episodes(dimension, task, 120)
        found = blind_scores(
            BenchmarkExample(dimension, task, number, Path(), "", {"skill_sequence": episode.skill_sequence})
            for number, episode in enumerate(drawn)
        )
        assert found["best_blind"]["grounded"] < found["floor"]["grounded"] + 12, task


def test_the_base_s_vocabulary_has_the_words() -> None:
    """Bytes have it know any text; words that it was not trained on would be in more pieces (1.27 a word are most)."""
    tokenizer = Tokenizer.from_file(str(REPOSITORY / "models" / "leap-tabletop" / "tokenizer.json"))
    for dimension, task in NAMES:
        texts = [episode.instruction for episode in episodes(dimension, task, 60, "train")]
        encoded = [tokenizer.encode(text).ids for text in texts]
        assert [tokenizer.decode(ids) for ids in encoded] == texts
        assert sum(map(len, encoded)) < 1.3 * sum(len(re.findall(r"\w+", text)) for text in texts), task


@pytest.mark.parametrize("phrasing", ["train", "eval"])
@pytest.mark.parametrize(("dimension", "task"), NAMES)
def test_wording_is_varied_and_tidy(dimension: str, task: str, phrasing: str) -> None:
    texts = [episode.instruction for episode in episodes(dimension, task, 200, phrasing)]
    assert len(set(texts)) >= 100
    for text in texts:
        assert text[0].isupper(), text
        assert text[-1] in ".?!", text
        assert not re.search(r"[{}\[\]|_]|  | [.,;:?!]|[.,;:?!][.,;:?!]|\b(\w+) \1\b|[.?!] [a-z]", text), text
        assert not re.search(r"\ba [aeiou]|\ban (?!hour)[^aeiou]", text), text


def test_every_third_template_is_kept_for_evaluation() -> None:
    templates = tuple("abcdefg")
    assert templates_for(templates, "train") == ("a", "b", "d", "e", "g")
    assert templates_for(templates, "eval") == templates
    train = {episode.instruction for episode in episodes("M&T", "select_fruit", 400, "train")}
    assert not any(text.startswith(("I'd like", "I'd love", "Your task")) and "you to" in text for text in train)


def test_the_named_object_is_named() -> None:
    for _, task in (pair for pair in NAMES if pair[0] == "M&T"):
        for episode in episodes("M&T", task, 40):
            kind = KINDS[episode.targets[0]]
            assert kind.noun in episode.instruction or kind.name.replace("_", " ") in episode.instruction


def test_alternatives_nest_and_slots_may_hold_them() -> None:
    drawn = {expand("[a|b [c|d]] {slot}", random.Random(seed), slot="[e|f]") for seed in range(60)}
    assert drawn == {"a e", "a f", "b c e", "b c f", "b d e", "b d f"}


def test_plain_rows() -> None:
    assert numbered(("Pick up the apple.", "Place it in the basket.")) == (
        "1) Pick up the apple. 2) Place it in the basket."
    )
    for dimension, task in NAMES:
        episode = episodes(dimension, task, 1)[0]
        question = plain_request(episode.instruction, random.Random(3))
        assert episode.instruction in question
        assert "number" in question.lower()


def test_unknown_names_are_refused() -> None:
    for arguments in (("Taste", "x"), ("M&T", "x")):
        with pytest.raises(LeapError, match="there are"):
            make_episode(*arguments, random.Random(0))
    with pytest.raises(LeapError, match="phrasing"):
        make_episode("M&T", "select_fruit", random.Random(0), "test")


def test_same_seed_same_bytes_in_any_process() -> None:
    code = (
        "import random\nfrom leap.preparation.build.phrasing import plain_request\n"
        "from leap.tabletop.tasks import TASKS, make_episode\n"
        "for d, makers in TASKS.items():\n    for m in makers:\n        for s in range(5):\n"
        "            rng = random.Random(s)\n            e = make_episode(d, m.name, rng, ('train', 'eval')[s % 2])\n"
        "            print(e, plain_request(e.instruction, rng))\n"
    )
    root = REPOSITORY
    printed = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(root), "PYTHONIOENCODING": "utf-8"},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert printed[0] == printed[1]
    assert printed[0].count(b"Episode(") == 5 * len(NAMES)
