"""Questions about scenes: every response is true, none is a plan, and none is an instruction of the benchmark."""

import json
import random
import re

import pytest

from leap.tabletop.catalogue import KINDS
from leap.tabletop.demo_workspace import DemoSize, benchmark_episodes
from leap.tabletop.perception import SORTS, ask, colour_of, perception_scene, renumbered
from leap.tabletop.perception_batches import WEIGHTS
from leap.tabletop.scene import PlacedObject, Scene
from leap.tabletop.tasks.episode import MAX_OBJECTS, MIN_OBJECTS


def scene_of(*objects: PlacedObject) -> Scene:
    return Scene(objects, "oak", light_azimuth=40.0, light_height=1.8, camera_turn=0.0)


# Robot's view: the apple is left of and nearer than the lemon; the plate is far to the right.
APPLE, LEMON = PlacedObject("apple", 3, -0.15, 0.20, 0.0), PlacedObject("lemon", 1, 0.10, -0.05, 0.0)
PLATE = PlacedObject("plate", 2, 0.12, -0.28, 0.0)
TABLE = scene_of(APPLE, LEMON, PLATE)


def answers(sort: str, scene: Scene = TABLE, count: int = 60) -> dict[str, str]:
    found = (ask(sort, scene, random.Random(seed)) for seed in range(count))
    return {question.text: question.answer for question in found if question}


def test_a_list_names_every_object_by_its_number():
    assert set(answers("list").values()) == {"1 lemon, 2 plate, 3 apple"}


def test_numbers_are_those_of_the_named_objects_in_every_form():
    numbers = {"apple": 3, "lemon": 1, "plate": 2}
    for text, answer in answers("numbers").items():
        if "JSON: " in text:  # "first the lemon, second the apple", in any order
            named = dict(re.findall(r"(first|second|third) the (\w+)", text))
            assert json.loads(answer) == {place: numbers[name] for place, name in named.items()}
            assert list(json.loads(answer)) == ["first", "second", "third"][: len(named)]
            continue
        named_ = re.findall(r"the (apple|lemon|plate)", text)
        if text.endswith("list."):
            assert json.loads(answer) == [numbers[name] for name in named_]
        elif text.endswith("JSON."):
            assert json.loads(answer) == [{"object": name, "number": numbers[name]} for name in named_]
        else:
            names = ", ".join(f"{name} {numbers[name]}" for name in named_)
            fenced = f"\n```json\n{[numbers[name] for name in named_]}\n```" if text.endswith("fence.") else ""
            assert answer == names + fenced


@pytest.mark.parametrize(
    ("sort", "text", "answer"),
    [
        ("furthest", "Which fruit is furthest left?", "3"),
        ("furthest", "Which fruit is farthest from the robot?", "1"),
        ("beside", "Which fruit is nearer to the robot than the lemon?", "3"),
        ("beside", "Which fruit is left of the lemon?", "3"),
        ("closest", "Which fruit is closest to the plate?", "1"),
        ("coloured", "Which fruit is yellow?", "1"),
        ("colour", "What colour is number 3?", "red"),
        ("members", "Which numbers are of the category fruit?", "1 lemon, 3 apple"),
        ("order", "List every fruit from left to right.", "3 apple, 1 lemon"),
        ("order", "Counted from near to far, which fruit is in place 2 of 2?", "1"),
        ("order", "List every fruit from right to left. Names first.", "lemon 1, apple 3"),
        ("facts", "What is known of number 1?", "citrus, sour, yellow"),
        ("fact", "Which fruit has this to it: citrus?", "1"),
        ("fact", "Which fruit has this to it: in legends? Name it first.", "apple 3"),
    ],
)
def test_places_colours_and_categories(sort: str, text: str, answer: str):
    assert answers(sort)[text] == answer


def test_orders_of_the_world():
    kinds = ("gold_block", "wood_block", "foam_block", "rubber_block", "ice_block")
    blocks = scene_of(*(PlacedObject(kind, place + 1, 0.1, 0, 0.0) for place, kind in enumerate(kinds)))
    asked = answers("ranked", blocks, 600)
    assert asked["Of the blocks, which is densest?"] == "1"
    assert asked["Of the blocks, which is least dense? Name it first."] == "block of foam 3"
    assert not [text for text in asked if "mirrors" in text and "ice" in text], "it lets light through"
    cards = scene_of(PlacedObject("two_of_spades", 4, 0, 0, 0.0), PlacedObject("ace_of_spades", 7, 0, 0.1, 0.0))
    assert (
        answers("ranked", cards)["Order the cards: the one that beats the rest first."]
        == "7 ace of spades, 4 two of spades"
    )


def test_what_is_not_clear_is_not_asked():
    beside_it = scene_of(APPLE, PlacedObject("lemon", 1, -0.14, 0.18, 0.0), PLATE)
    for sort in ("order", "furthest"):
        assert answers(sort, beside_it) == {}
    assert answers("coloured", scene_of(APPLE, PlacedObject("watermelon", 1, 0.1, 0.0, 0.0), PLATE))
    assert answers("closest", scene_of(APPLE, PLATE)) == {}, "one fruit is no choice"


def test_scenes_are_those_of_tasks_in_size_and_every_sort_is_asked_of_them():
    found = set()
    for seed in range(60):
        rng = random.Random(seed)
        scene = perception_scene(rng)
        assert MIN_OBJECTS <= len(scene.objects) <= MAX_OBJECTS
        assert len({each.kind for each in scene.objects}) == len(scene.objects)
        found |= {sort for sort in SORTS if ask(sort, scene, rng)}
    assert found == set(SORTS) == set(WEIGHTS)


def test_a_scene_keeps_all_but_its_numbers():
    scene = perception_scene(random.Random(3))
    other = renumbered(scene, random.Random(5))
    assert [each.number for each in other.objects] != [each.number for each in scene.objects]
    assert sorted(each.number for each in other.objects) == list(range(1, len(scene.objects) + 1))
    assert [(each.kind, each.x) for each in other.objects] == [(each.kind, each.x) for each in scene.objects]


def test_no_question_is_an_instruction_of_the_benchmark_and_no_answer_a_plan():
    episodes = [episode for _, episode in benchmark_episodes(DemoSize())]
    asked = set()
    for seed in range(150):
        rng = random.Random(seed)
        scene = perception_scene(rng)
        for sort in SORTS:
            if question := ask(sort, scene, rng):
                asked.add(question.text)
                assert "pick" not in question.answer
                assert "params" not in question.answer
    assert not asked & {episode.instruction for episode in episodes}


def test_colours_are_those_that_the_catalogue_knows():
    assert colour_of("banana") == "yellow"
    assert colour_of("orange") == "orange"
    assert colour_of("cola") is None
    assert sum(colour_of(kind) is not None for kind in KINDS) > 20
