"""One kind for each example: by hand on real forms of responses, and as properties over plans."""

import json
import random
from pathlib import Path
from typing import Any, get_args

import pytest
from conftest import TEST_DATA
from hypothesis import assume, given
from hypothesis import strategies as st
from test_scoring import ANYTHING, PLANS, PROPERTY, SUBTASKS, step, steps_of

from leap.records.benchmark import BenchmarkExample, Prediction
from leap.vlabench.diagnosis import (
    KINDS,
    Diagnosis,
    Kind,
    Transition,
    diagnose,
    kind_of_plan,
    scene_objects,
    seen_transitions,
    transitions,
)
from leap.vlabench.grounding import Step, plan_steps
from leap.vlabench.parsing import parse_plan
from leap.vlabench.prompts import fenced_plan
from leap.vlabench.scoring import SEQ_INDEPENDENT_TASKS, official_scores
from leap.vlabench.skills import SKILL_PARAMETER

MOVE = [step("pick", 3), step("place", container=7)]
TWO_MOVES = [*MOVE, step("pick", 4), step("place", container=7)]
ANY = frozenset(Transition(holding, skill) for holding in (True, False) for skill in SKILL_PARAMETER)


def kind(plan: Any, reference: Any = MOVE, order_free: bool = False) -> Kind:
    steps = plan_steps(plan)
    assert steps is not None
    return kind_of_plan(plan_steps(reference) or [], steps, order_free)


def of_text(text: str | None, reference: Any = MOVE, folder: Path = Path("nowhere"), **answer: Any) -> Diagnosis:
    example = BenchmarkExample("Spatial", "select_book", 1, folder, "", {"skill_sequence": reference})
    return diagnose(example, Prediction(task="select_book", example="1", text=text, **answer), ANY)


@pytest.mark.parametrize(
    ("plan", "found"),
    [
        ([step("pick", "3"), step("place", 9, "7.0")], "correct"),
        ([*MOVE[:1], *[step("lift")] * 3], "loop"),
        ([step("pick", 3), *[step("lift"), step("push", container=2)] * 3], "loop"),
        ([step("pick", 3), *[step("lift"), step("push", container=2)] * 2], "wrong skill"),
        ([step("pick", "mug"), step("place", container=7)], "name instead of id"),
        (MOVE[::-1], "wrong order"),
        ([*MOVE, step("lift")], "extra steps"),
        (MOVE[:1], "missing steps"),
        ([], "missing steps"),
        ([step("pick", 4), MOVE[1]], "wrong object"),
        ([step("pick"), MOVE[1]], "wrong object"),
        ([MOVE[0], step("place", container=4)], "wrong container"),
        ([step("pick", 4), step("place", container=4)], "wrong object and container"),
        ([step("press", 3)], "wrong skill"),
        ([step("pick", 9), step("lift"), step("lift")], "wrong skill"),
    ],
)
def test_kinds_by_hand(plan: Any, found: Kind) -> None:
    assert kind(plan) == found


def test_a_repetition_that_the_reference_has_is_no_loop() -> None:
    pressing = [step("press", 2)] * 3
    assert kind(pressing, pressing) == "correct"
    assert kind(pressing, [*pressing, *MOVE]) == "missing steps"
    assert kind([*pressing, step("press", 2)], pressing) == "loop"


def test_the_kinds_come_in_their_order() -> None:
    """A loop of names is a loop, names in another order are names."""
    assert kind([step("pick", "mug")] * 3) == "loop"
    assert kind([MOVE[1], step("pick", "mug")]) == "name instead of id"


@pytest.mark.parametrize(
    ("text", "answer", "found", "reason"),
    [
        (None, {"error": "no connection"}, "not answered", "inference error"),
        ("I cannot help", {"finish": "refused"}, "refused", "refused"),
        (fenced_plan(MOVE), {"finish": "filtered"}, "refused", "filtered"),
        (" \n", {"finish": "stop"}, "refused", "empty"),
        ("I pick up the mug.", {"finish": "stop"}, "unreadable", "no fence"),
        ("```json\nnothing\n```", {"finish": "stop"}, "unreadable", "invalid JSON"),
        ('```json\n{"steps": 3}\n```', {"finish": "stop"}, "unreadable", "wrong shape"),
        ('```json\n[{"name": "pick", "params": {"target', {"finish": "length"}, "unreadable", "truncated"),
        ('```json\n[{"name": "pick", "params": {"target', {}, "unreadable", "truncated"),
    ],
)
def test_what_is_no_plan_says_why(text: str | None, answer: dict[str, Any], found: Kind, reason: str) -> None:
    one = of_text(text, **answer)
    assert (one.kind, one.reason) == (found, reason)


def test_a_missing_answer_is_none() -> None:
    one = diagnose(BenchmarkExample("Spatial", "t", 1, Path("nowhere"), "", {"skill_sequence": MOVE}), None, ANY)
    assert (one.kind, one.reason) == ("not answered", "missing")


# Forms that real models answer in: a bare list, ids as text, names, a loop until the response is cut


def test_a_bare_list_with_ids_as_text() -> None:
    one = of_text(json.dumps([step("pick", "3"), step("place", container="7")]))
    assert (one.kind, one.ids_as_text, one.truncated, one.repaired) == ("correct", True, False, ("bare_json",))


def test_names_beside_ids_as_text() -> None:
    one = of_text(json.dumps([step("pick", "3"), step("place", container="steel_ramp")]))
    assert (one.kind, one.ids_as_text) == ("name instead of id", True)
    assert not of_text(fenced_plan([step("pick", 3), step("place", container="hole")])).ids_as_text


def test_a_loop_that_was_cut_in_a_step() -> None:
    plan = [step("pick", "0"), *[step("lift"), step("press", "0")] * 9]
    text = f"```json\n{json.dumps(plan, indent=4)[:-90]}"
    one = of_text(text)
    assert (one.kind, one.ids_as_text, one.truncated) == ("loop", True, True)
    assert one.repaired == ("unclosed_fence", "truncated_list")
    assert of_text(text, finish="stop").truncated is False  # it says itself how it ended


def test_responses_that_were_labelled_by_hand() -> None:
    lines = (TEST_DATA / "diagnosis" / "demo_responses.jsonl").read_text().splitlines()
    for line in lines:
        labelled = json.loads(line)
        steps = plan_steps(parse_plan(labelled["text"], "lenient").plan)
        reference = plan_steps(labelled["reference"])
        assert steps is not None
        assert reference is not None
        free = labelled["task"] in SEQ_INDEPENDENT_TASKS
        assert kind_of_plan(reference, steps, free) == labelled["kind"], line
    assert len(lines) == 90


# Properties

NUMBERS = st.sampled_from([1, 2, 3, 4])
STEPS = steps_of(SUBTASKS, NUMBERS).map(lambda plan: plan_steps(plan) or [])
SOME = STEPS.filter(lambda steps: len(steps) > 0)


@PROPERTY
@given(PLANS, st.one_of(PLANS, ANYTHING), st.booleans())
def test_every_response_has_exactly_one_kind(reference: Any, plan: Any, order_free: bool) -> None:
    try:
        text = fenced_plan(plan)
    except (TypeError, ValueError):
        text = str(plan)
    one = of_text(text, reference)
    assert one.kind in get_args(Kind)
    assert Diagnosis.model_validate_json(one.model_dump_json()) == one
    steps = plan_steps(plan)
    assert steps is None or kind_of_plan(plan_steps(reference) or [], steps, order_free) in KINDS[3:]


@PROPERTY
@given(SOME, st.booleans())
def test_the_reference_itself_is_correct(reference: list[Step], order_free: bool) -> None:
    assert kind_of_plan(reference, reference, order_free) == "correct"


@PROPERTY
@given(SOME, st.booleans(), st.booleans())
def test_only_other_ids_are_wrong_objects_or_containers(reference: list[Step], entity: bool, container: bool) -> None:
    """Each replaced id is one that the reference has nowhere."""
    plan = [
        one._replace(
            entity=one.entity + 10 if entity and isinstance(one.entity, int) else one.entity,
            container=one.container + 10 if container and isinstance(one.container, int) else one.container,
        )
        for one in reference
    ]
    objects = any(one.entity != other.entity for one, other in zip(plan, reference, strict=True))
    containers = any(one.container != other.container for one, other in zip(plan, reference, strict=True))
    wrong = {(False, False): "correct", (True, False): "wrong object", (False, True): "wrong container"}
    expected = wrong.get((objects, containers), "wrong object and container")
    for order_free in (True, False):
        assert kind_of_plan(reference, plan, order_free) in {expected, "loop"}
        if kind_of_plan(reference, plan, order_free) == "loop":
            assert len(set(plan[-6:])) <= 2


@PROPERTY
@given(SOME, st.randoms(use_true_random=False))
def test_a_permutation_is_another_order_only_where_the_order_counts(reference: list[Step], rng: random.Random) -> None:
    plan = rng.sample(reference, len(reference))
    assume(plan != reference)
    assert kind_of_plan(reference, plan, False) in {"wrong order", "loop"}
    assert kind_of_plan(reference, plan, True) != "wrong order"


@PROPERTY
@given(st.lists(SUBTASKS.map(lambda names: tuple(names)), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_subtasks_in_any_order_are_correct_where_the_order_is_free(
    patterns: list[tuple[str, ...]], rng: random.Random
) -> None:
    """Of patterns that no neighbour completes to another one."""
    whole = [names for names in patterns if names[-1] in ("place", "insert", "press", "lift")]
    blocks = [[Step(name, number, None) for name in names] for number, names in enumerate(whole)]
    shuffled = rng.sample(blocks, len(blocks))
    plan, reference = (
        [one for block in order for one in block] for order in (shuffled, blocks)
    )  # fmt: skip
    assert kind_of_plan(reference, plan, True) == "correct"


@PROPERTY
@given(SOME, SOME)
def test_more_and_fewer_steps_are_each_others_opposite(reference: list[Step], more: list[Step]) -> None:
    longer = [*reference, *more]
    assert kind_of_plan(reference, longer, False) in {"extra steps", "loop"}
    assert kind_of_plan(longer, reference, False) in {"missing steps", "loop"}


@PROPERTY
@given(PLANS)
def test_a_correct_plan_of_numbers_has_all_that_the_official_score_gives(plan: Any) -> None:
    steps = plan_steps(plan)
    assume(steps and all(isinstance(value, int) for one in steps for value in one.ids))
    total = official_scores(plan, plan, "Sequential")["total_score"]
    assert kind_of_plan(steps or [], steps or [], False) == "correct"
    assert total in (0, 40, pytest.approx(80))  # nothing where upstream finds no subtask, half where no id is named


# Flags


def test_a_transition_that_no_reference_has_is_flagged() -> None:
    seen = frozenset(transitions(plan_steps(TWO_MOVES) or ()))
    assert seen == {Transition(False, "pick"), Transition(True, "place")}
    example = BenchmarkExample("Spatial", "t", 1, Path("nowhere"), "", {"skill_sequence": MOVE})
    for plan, flagged in (([*MOVE, *TWO_MOVES], False), ([MOVE[0], *MOVE], True), ([MOVE[1]], True)):
        response = Prediction(task="t", example="1", text=fenced_plan(plan), finish="stop")
        assert diagnose(example, response, seen).unseen_transition is flagged
    assert Transition(True, "pick") in transitions(plan_steps([MOVE[0], step("pull"), *MOVE]) or ())


def test_transitions_are_learned_from_whatever_is_on_disk(tmp_path: Path) -> None:
    for number, content in enumerate((json.dumps({"skill_sequence": MOVE}), "broken", '{"skill_sequence": [3]}')):
        folder = tmp_path / "Spatial" / "task" / f"example{number}" / "output"
        folder.mkdir(parents=True)
        (folder / "operation_sequence.json").write_text(content)
    (tmp_path / "Spatial" / "task" / "example9").mkdir()
    assert seen_transitions(tmp_path) == transitions(plan_steps(MOVE) or ())


def test_unknown_ids_where_the_scene_is_known(tmp_path: Path) -> None:
    assert of_text(fenced_plan(MOVE)).unknown_ids is None
    config = tmp_path / "env_config" / "env_config.json"
    config.parent.mkdir()
    config.write_text(
        json.dumps({"scene": {"objects": [{"number": 3, "kind": "red_apple"}, {"number": 7, "kind": "bowl"}]}})
    )
    assert scene_objects(tmp_path) == {3: "red apple", 7: "bowl"}
    assert of_text(fenced_plan(MOVE), folder=tmp_path).unknown_ids is False
    assert of_text(fenced_plan([step("pick", "4")]), folder=tmp_path).unknown_ids is True
    for other in ('{"task": {"components": []}}', "[]", "{"):
        config.write_text(other)
        assert scene_objects(tmp_path) is None
