"""The floor and the best constant plan, against brute force over every pair."""

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_scoring import PLANS, PROPERTY, step

from leap.records.benchmark import BenchmarkExample
from leap.vlabench.blind import blind_scores, grounded_pairs, reference_fingerprint, total_pairs
from leap.vlabench.grounding import grounded
from leap.vlabench.scoring import official_scores


def example(task: str, number: int, plan: Any) -> BenchmarkExample:
    return BenchmarkExample("Spatial", task, number, Path(), "", {"skill_sequence": plan})


def move(entity: int, container: int) -> list[dict[str, Any]]:
    return [step("pick", entity), step("place", container=container)]


@PROPERTY
@given(st.lists(PLANS, min_size=1, max_size=5))
def test_counted_multisets_give_what_every_pair_by_itself_gives(references: list[Any]) -> None:
    for row, scores, totals in zip(references, grounded_pairs(references), total_pairs(references), strict=True):
        for plan, score, total in zip(references, scores, totals, strict=True):
            assert (None if math.isnan(score) else pytest.approx(score)) == grounded(row, plan)
            assert total == pytest.approx(official_scores(row, plan, "Sequential")["total_score"])


def test_the_floor_is_the_mean_over_all_ordered_pairs_of_a_task() -> None:
    plans = {"a": [move(1, 2), move(1, 3), move(2, 3)], "b": [[step("press", 1)], [step("press", 1)]]}
    examples = [example(task, number, plan) for task, of in plans.items() for number, plan in enumerate(of)]
    found = blind_scores(examples)
    pairs = [grounded(one, other) for i, one in enumerate(plans["a"]) for j, other in enumerate(plans["a"]) if i != j]
    assert found["tasks"]["a"]["floor"]["grounded"] == pytest.approx(np.mean([p for p in pairs if p is not None]))
    assert found["tasks"]["b"]["floor"] == {"grounded": 100, "total_score": 80}
    assert (found["examples"], found["pairs"], found["tasks"]["a"]["pairs"]) == (5, 8, 6)
    # Every example weighs alike, as in a model's mean.
    assert found["floor"]["grounded"] == pytest.approx((3 * np.mean(pairs) + 2 * 100) / 5)  # type: ignore[arg-type]


def test_the_best_constant_plan_is_chosen_on_the_other_examples() -> None:
    found = blind_scores([example("a", number, plan) for number, plan in enumerate([move(1, 2)] * 3 + [move(5, 6)])])
    assert found["best_blind"]["grounded"] == pytest.approx(75)
    # Equally good choices are averaged: nothing depends on the order of the examples.
    mixed = [example("a", number, move(number, 9)) for number in range(4)]
    assert blind_scores(mixed)["best_blind"] == blind_scores(mixed[::-1])["best_blind"]


def test_one_example_has_no_floor_and_a_reference_without_objects_no_grounded_one() -> None:
    alone = blind_scores([example("a", 0, move(1, 2))])
    assert alone["floor"] == alone["best_blind"] == {"grounded": None, "total_score": None}
    assert alone["pairs"] == 0
    lifts = blind_scores([example("a", number, [step("pick"), step("lift")]) for number in range(3)])
    assert lifts["floor"] == {"grounded": None, "total_score": pytest.approx(40)}
    assert json.loads(json.dumps(alone)) == alone
    assert blind_scores([])["floor"]["grounded"] is None


def test_the_fingerprint_follows_the_references_alone() -> None:
    examples = [example("a", number, move(number, 9)) for number in range(3)]
    assert reference_fingerprint(examples) == blind_scores(examples)["fingerprint"]
    assert reference_fingerprint(examples) != reference_fingerprint(examples[:2])
    assert reference_fingerprint(examples) != reference_fingerprint([*examples[:2], example("a", 2, move(1, 1))])


def test_the_best_constant_plan_gains_nothing_where_ids_are_drawn_anew() -> None:
    """Leave one out: 300 tasks of 6 scenes with 5 objects. A choice that saw its own example would have far more."""
    rng = random.Random(1)
    gains = []
    for _ in range(300):
        drawn = [rng.sample(range(1, 6), 2) for _ in range(6)]
        found = blind_scores([example("a", number, move(*ids)) for number, ids in enumerate(drawn)])
        gains.append(found["best_blind"]["grounded"] - found["floor"]["grounded"])
    assert np.mean(gains) <= 4 * np.std(gains) / math.sqrt(len(gains))
