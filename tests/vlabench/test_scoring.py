"""LEAP's scorer against the golden vectors, an independent oracle on networkx, and the properties that it promises."""

import copy
import json
import math
from collections.abc import Mapping
from typing import Any

import networkx as nx
import pytest
from conftest import GOLDEN
from hypothesis import given, settings
from hypothesis import strategies as st

from leap.vlabench.golden import decode_dependency, load_golden
from leap.vlabench.scoring import (
    LEAP_KEYS,
    OFFICIAL_KEYS,
    ZERO_SCORES,
    dependency_of,
    normalise_id,
    official_scores,
    plan_scores,
)
from leap.vlabench.skills import CONTAINER, ENTITY, SKILL_PARAMETER, SUBTASK_PATTERNS, find_subtasks

PROPERTY = settings(derandomize=True, max_examples=100)
NAN = float("nan")


def step(name: str, entity: Any = None, container: Any = None) -> dict[str, Any]:
    named = {ENTITY: entity, CONTAINER: container}
    return {"name": name, "params": {key: value for key, value in named.items() if value is not None}}


PICK_PLACE = [step("pick", 3), step("place", container=7)]


# Strategies


def steps_of(patterns: st.SearchStrategy[tuple[str, ...]], ids: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Plans of whole subtasks, with an entity or a container on any skill."""
    filled = patterns.flatmap(lambda names: st.tuples(*[st.builds(step, st.just(name), ids, ids) for name in names]))
    return st.lists(filled, max_size=6).map(lambda subtasks: [skill for subtask in subtasks for skill in subtask])


PLAIN_IDS = st.sampled_from([None, 1, 2, 3])
ODD_IDS = st.sampled_from([None, 0, 1, 1.0, True, "1", "", NAN, -1, 10**400, [1], {}])
SUBTASKS = st.sampled_from([*SUBTASK_PATTERNS, ("press",), ("press",), ("pick", "place")])
NAMES = st.sampled_from([*SKILL_PARAMETER, "moveto", "Pick", None, 3, ["pick"]]).map(lambda name: (name,))
BROKEN = st.sampled_from([{}, {"name": "pick"}, {"params": {}}, {"name": "lift", "params": []}, "pick", None])
PLANS = st.one_of(
    steps_of(SUBTASKS, PLAIN_IDS),
    steps_of(st.one_of(SUBTASKS, NAMES), ODD_IDS),
    st.tuples(steps_of(SUBTASKS, PLAIN_IDS), BROKEN).map(lambda parts: [*parts[0], parts[1]]),
)
ANYTHING = st.sampled_from([None, "", "pick", {}, {"skill_sequence": PICK_PLACE}, 3, (), tuple(PICK_PLACE)])
FORWARD = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), max_size=8).map(
    lambda edges: {a: [d for c, d in edges if c == a and d > a] for a, _ in edges}
)
ODD_INDEX = st.sampled_from([-1, 0, 1, 2, 3, 99, -99, True, 1.0, "1", None, 10**30])
DEPENDENCIES = st.one_of(
    st.sampled_from(["Sequential", "Seq-independent"]),
    FORWARD,
    st.dictionaries(ODD_INDEX, st.one_of(st.lists(ODD_INDEX, max_size=2), st.sampled_from(["", "1", None]))),
    st.sampled_from(["", "sequential", None, ["Sequential"], 0]),
)


# The oracle: the rules once more, with networkx for the graph and lists for the multisets


def overlap(expected: list[Any], model: list[Any]) -> int:
    for item in expected + model:
        hash(item)  # an id that cannot be hashed is an error
    left = list(model)
    return sum(1 for item in expected if item in left and not left.remove(item))


def oracle_graph(plan: Any, dependency: Any) -> nx.DiGraph:
    graph = nx.DiGraph()
    graph.add_node(0, is_like=("START", None, None))
    for node, subtask in enumerate(find_subtasks(plan), 1):
        ids = [[s["params"].get(key) for s in subtask] for key in (ENTITY, CONTAINER)]
        last = [next((value for value in reversed(values) if value is not None), None) for values in ids]
        graph.add_node(node, is_like=(tuple(s["name"] for s in subtask), *last))
    nodes = list(graph)[1:]
    if dependency == "Sequential":
        nx.add_path(graph, graph)
    elif dependency == "Seq-independent":
        graph.add_edges_from((0, node) for node in nodes)
    else:
        for source, targets in dependency.items():
            for target in targets:
                assert max(source, target) <= len(nodes)
                graph.add_edge(nodes[source - 1], nodes[target - 1])
        graph.add_edges_from([(0, node) for node in nodes if not graph.pred[node]])
    assert not graph.pred[0]
    return graph


def alike(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    return all(a == b for a, b in zip(one, other, strict=True))


def oracle_exact(reference: Any, prediction: Any, dependency: Any) -> float:
    expected, model = oracle_graph(reference, dependency), oracle_graph(prediction, dependency)
    matched = 0
    layers = [list(nx.topological_generations(graph))[1:] for graph in (expected, model)]
    for ours, theirs in zip(*layers, strict=False):
        for node in ours:
            for other in [n for n in theirs if "taken" not in model.nodes[n]]:
                before, other_before = list(expected.pred[node]), list(model.pred[other])
                if (
                    alike(expected.nodes[node]["is_like"], model.nodes[other]["is_like"])
                    and len(before) == len(other_before)
                    and all(
                        any(alike(expected.nodes[a]["is_like"], model.nodes[b]["is_like"]) for b in other_before)
                        for a in before
                    )
                ):
                    model.nodes[other]["taken"] = True
                    matched += 1
                    break
    return (matched / (len(expected) - 1)) * 100


def oracle(reference: Any, prediction: Any, dependency: Any) -> dict[str, float]:
    scores: dict[str, float] = {}
    bags = []
    for plan in (reference, prediction):
        triples = [(s["name"], s["params"].get(ENTITY), s["params"].get(CONTAINER)) for s in plan]
        entities = [(key, s["params"].get(key)) for s in plan for key in (ENTITY, CONTAINER)]
        entities = [(key, value) for key, value in entities if value is not None]
        bags.append(([name for name, _, _ in triples], entities, triples))
    for key, expected, model in zip(OFFICIAL_KEYS, *bags, strict=False):
        matched = overlap(expected, model)
        scores[key] = (matched / len(expected)) * 100 if expected else 0
    scores["exact_match_score"] = oracle_exact(reference, prediction, dependency)
    scores["total_score"] = 0.4 * scores["skill_match_score"] + 0.4 * scores["entity_match_score"]
    return scores


# The official five


def test_golden_vectors() -> None:
    """Equal as JSON text, so that 0 and 0.0 are told apart."""
    failures = []
    for case in load_golden(GOLDEN / "scoring_public.jsonl"):
        expected = case["expected"]
        wanted = dict(ZERO_SCORES) if "raises" in expected else {key: expected[key] for key in OFFICIAL_KEYS}
        got = official_scores(case["reference"], case["prediction"], decode_dependency(case["dependency"]))
        if json.dumps(got) != json.dumps(wanted):
            failures.append(case["id"])
    assert failures == []


@settings(PROPERTY, max_examples=300)
@given(st.one_of(PLANS, PLANS, ANYTHING), st.one_of(PLANS, PLANS, ANYTHING), st.randoms(), DEPENDENCIES)
def test_agrees_with_an_oracle_on_networkx(reference: Any, prediction: Any, random: Any, dependency: Any) -> None:
    if isinstance(reference, list) and isinstance(prediction, list) and random.random() < 0.7:
        shuffled = random.sample(reference, len(reference))
        prediction = shuffled if random.random() < 0.4 else reference + prediction  # unrelated plans seldom match
    try:
        wanted = oracle(reference, prediction, dependency)
    except Exception:  # noqa: BLE001  the rule itself: whatever is raised is five zeros
        wanted = dict(ZERO_SCORES)
    assert json.dumps(official_scores(reference, prediction, dependency)) == json.dumps(wanted)


@PROPERTY
@given(st.lists(st.sampled_from([1, 1, 2]), min_size=3, max_size=7), st.randoms(), FORWARD)
def test_agrees_with_the_oracle_where_subtasks_are_alike(ids: list[int], random: Any, dependency: Any) -> None:
    reference = [step("press", number) for number in ids]
    prediction = random.sample(reference, len(reference))
    within = {a: [b for b in targets if b <= len(ids)] for a, targets in dependency.items() if a <= len(ids)}
    assert official_scores(reference, prediction, within) == oracle(reference, prediction, within)


@PROPERTY
@given(PLANS, PLANS, DEPENDENCIES)
def test_changes_no_input_and_no_constant(reference: Any, prediction: Any, dependency: Any) -> None:
    before = repr(copy.deepcopy((reference, prediction, dependency)))
    plan_scores(reference, prediction, dependency)["total_score"] = 1
    official_scores(reference, prediction, dependency)["total_score"] = 1
    assert repr((reference, prediction, dependency)) == before
    assert dict(ZERO_SCORES) == dict.fromkeys(OFFICIAL_KEYS, 0)


def test_total_is_exact_to_the_last_bit() -> None:
    """(m / n) * 100 and 0.4 a + 0.4 b: other orders of the same arithmetic differ for some m and n."""
    for n in range(1, 60):
        for m in range(n + 1):
            scores = official_scores([step("press", 1)] * n, [step("press", 1)] * m, "Sequential")
            share = (m / n) * 100
            assert scores["skill_match_score"] == scores["exact_match_score"] == share
            assert scores["total_score"] == 0.4 * share + 0.4 * share


def test_a_perfect_plan_has_eighty_officially_and_a_hundred_by_all_four_weights() -> None:
    scores = plan_scores(PICK_PLACE, PICK_PLACE, "Sequential")
    assert scores["total_score"] == 80.0
    assert scores["weighted_total"] == 100.0
    assert tuple(scores) == OFFICIAL_KEYS + LEAP_KEYS


def test_a_reference_without_ids_has_the_integer_zero_for_entities() -> None:
    lift = [step("pick"), step("lift")]
    assert json.dumps(official_scores(lift, lift, "Sequential")["entity_match_score"]) == "0"


def test_nan_is_one_id_in_multisets_but_equals_nothing_in_the_exact_match() -> None:
    press = [step("press", NAN)]
    scores = official_scores(press, press, "Sequential")
    assert scores["entity_match_score"] == scores["skill_with_entity_match_score"] == 100.0
    assert scores["exact_match_score"] == 0.0
    assert official_scores(press, [step("press", float("nan"))], "Sequential")["entity_match_score"] == 0.0


@pytest.mark.parametrize(
    ("dependency", "scored"),
    [
        ({}, True),
        ({1: [2, 2], 2: [3]}, True),
        ({True: [2]}, True),
        ({0: [1]}, True),  # the last subtask, as Python counts from the end
        ({-1: [1]}, True),
        ({-9: [1]}, False),
        ({1.0: [2]}, False),
        ({1.0: []}, True),
        ({"1": ""}, True),
        ({"1": [2]}, False),
        ({1: "2"}, False),
        ({1: None}, False),
        ({1: [4]}, False),
        ({1: [1]}, False),
        ({1: [2], 2: [1]}, False),
        ("sequential", False),
        (None, False),
        (["Sequential"], False),
    ],
)
def test_dependencies_that_upstream_takes_and_fails_on(dependency: Any, scored: bool) -> None:
    plan = [step("press", number) for number in (1, 2, 3)]
    scores = official_scores(plan, plan, dependency)
    assert scores == (oracle(plan, plan, dependency) if scored else ZERO_SCORES)
    assert scores["exact_match_score"] == (100.0 if scored else 0)


def test_order_counts_only_where_the_task_says_so() -> None:
    reference = [step("press", 1), step("press", 2)]
    assert official_scores(reference, reference[::-1], "Sequential")["exact_match_score"] == 0.0
    assert official_scores(reference, reference[::-1], "Seq-independent")["exact_match_score"] == 100.0
    assert [dependency_of(task) for task in ("cook_dishes", "texas_holdem", "select_toy")] == [
        "Seq-independent",
        "Seq-independent",
        "Sequential",
    ]


@pytest.mark.parametrize(
    "prediction",
    [None, 3, "pick", {"skill_sequence": []}, [{"name": "pick"}], [step("pick", [3])], ["pick"], [PICK_PLACE]],
)
def test_a_malformed_prediction_has_zeros_everywhere(prediction: Any) -> None:
    assert plan_scores(PICK_PLACE, prediction, "Sequential") == dict.fromkeys(OFFICIAL_KEYS + LEAP_KEYS, 0)


def test_only_exceptions_become_zeros() -> None:
    class Interrupted(dict[str, Any]):
        def __getitem__(self, key: str) -> Any:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        official_scores(PICK_PLACE, [Interrupted()], "Sequential")


# LEAP's own


def test_an_empty_prediction_has_zeros() -> None:
    assert plan_scores(PICK_PLACE, [], "Sequential") == dict.fromkeys(OFFICIAL_KEYS + LEAP_KEYS, 0.0)


WELL_FORMED = steps_of(SUBTASKS, st.sampled_from([1, 2, 3])).filter(bool)
INVENTED = st.lists(
    st.sampled_from([name for name, parameter in SKILL_PARAMETER.items() if parameter]).flatmap(
        lambda name: st.just({"name": name, "params": {str(SKILL_PARAMETER[name]): 99}})
    ),
    min_size=1,
    max_size=20,
)


@PROPERTY
@given(WELL_FORMED, INVENTED, st.sampled_from(["Sequential", "Seq-independent"]))
def test_padding_a_correct_plan_lowers_precision_and_f1(plan: Any, invented: Any, dependency: str) -> None:
    correct, padded = plan_scores(plan, plan, dependency), plan_scores(plan, plan + invented, dependency)
    for name in ("skill", "entity", "skill_with_entity"):
        for form in ("precision", "f1"):
            key = f"{name}_{form}"
            assert correct[key] == 100.0
            assert 0 < padded[key] < 100.0
    assert padded["skill_match_score"] == 100.0  # which is why the official score alone misleads
    assert correct["length_ratio"] == 1.0
    assert padded["length_ratio"] == (len(plan) + len(invented)) / len(plan)


@PROPERTY
@given(PLANS, PLANS, st.sampled_from(["Sequential", "Seq-independent"]))
def test_own_scores_are_bounded_and_f1_lies_between_precision_and_recall(a: Any, b: Any, dependency: str) -> None:
    scores = plan_scores(a, b, dependency)
    assert {key: scores[key] for key in OFFICIAL_KEYS} == official_scores(a, b, dependency)
    assert all(0 <= scores[key] <= 100 + 1e-9 for key in LEAP_KEYS if key != "length_ratio")
    low, high = sorted((scores["skill_precision"], scores["skill_match_score"]))
    assert low - 1e-9 <= scores["skill_f1"] <= high + 1e-9


@pytest.mark.parametrize("written", ["3", 3.0, " 3 ", "3.0", "03", "+3"])
def test_ids_are_normalised_in_leaps_scores_only(written: Any) -> None:
    prediction = [step("pick", written), step("place", container=7)]
    scores = plan_scores(PICK_PLACE, prediction, "Sequential")
    assert scores["weighted_total"] == scores["entity_f1"] == scores["skill_with_entity_precision"] == 100.0
    assert scores["entity_match_score"] == (100.0 if written == 3.0 else 50.0)


@pytest.mark.parametrize("kept", ["cup", "3.5", 3.5, "", "nan", "1e2", "9" * 5000, "３", None, True, math.inf, (1,)])
def test_ids_that_are_no_whole_number_stay(kept: Any) -> None:
    assert normalise_id(kept) is kept


# Subtasks


def names_of(subtasks: list[Any]) -> list[tuple[str, ...]]:
    return [tuple(skill["name"] for skill in subtask) for subtask in subtasks]


@pytest.mark.parametrize(
    ("plan", "found"),
    [
        ("pick pour place pick pour", ["pick pour place", "pick pour"]),
        ("pick push pull pick push lift", ["pick push pull", "pick push"]),
        ("lift pick pick place place press", ["pick place", "press"]),
        ("pick", []),
        ("", []),
    ],
)
def test_find_subtasks(plan: str, found: list[str]) -> None:
    assert names_of(find_subtasks([step(name) for name in plan.split()])) == [tuple(names.split()) for names in found]


def test_the_skills_are_the_patterns_skills() -> None:
    assert len(SKILL_PARAMETER) == 9
    assert len(SUBTASK_PATTERNS) == 11
    assert {name for pattern in SUBTASK_PATTERNS for name in pattern} == set(SKILL_PARAMETER)
    assert isinstance(ZERO_SCORES, Mapping)
