"""Rewards: looking pays, and nothing that a planner can do without looking pays more than guessing."""

import itertools
import json
from statistics import fmean
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leap.vlabench.prompts import fenced_plan
from leap.vlabench.rewards import TERMS, reward_terms, weighted, why_no_term
from leap.vlabench.skills import CONTAINER, ENTITY

IDS = range(1, 6)
WEIGHTS = {"grounded": 1.0, "form": 0.2, "exact": 0.2, "image": 0.5}


def pick(entity: Any) -> dict[str, Any]:
    return {"name": "pick", "params": {ENTITY: entity}}


def place(container: Any) -> dict[str, Any]:
    return {"name": "place", "params": {CONTAINER: container}}


LIFT = {"name": "lift", "params": {}}
steps = st.one_of(st.builds(pick, st.sampled_from(IDS)), st.builds(place, st.sampled_from(IDS)), st.just(LIFT))
plans = st.lists(steps, min_size=1, max_size=6)


def reward(plan: list[Any], reference: list[Any]) -> float:
    return weighted(reward_terms(fenced_plan(plan), reference), WEIGHTS)


def test_the_right_plan_has_every_term() -> None:
    plan = [pick(3), place(1)]
    assert reward_terms(fenced_plan(plan), plan) == {"grounded": 1.0, "form": 1.0, "exact": 1.0, "image": None}
    assert reward_terms(fenced_plan(plan), plan, "paired")["image"] == 1.0


def test_another_scenes_images_lose_what_they_have() -> None:
    plan = [pick(3), place(1)]
    found = reward_terms(fenced_plan(plan), plan, "other")
    assert found == {"grounded": None, "form": 1.0, "exact": None, "image": -1.0}
    assert reward_terms("I cannot see it.", plan, "other")["image"] == 0.0


@given(plans, st.text(alphabet=st.characters(exclude_characters="`")))
def test_a_constant_plan_has_no_image_term(plan: list[Any], prose: str) -> None:
    """Whatever is said whatever is shown: the two prompts of a scene together have nothing."""
    for response in (fenced_plan(plan), prose):
        reference = [pick(1), place(2)]
        shown = [reward_terms(response, reference, one)["image"] for one in ("paired", "other")]
        assert fmean(term for term in shown if term is not None) == 0.0


def test_listing_every_id_is_no_better_than_guessing_one() -> None:
    """Over all references of a form, ids being equally likely."""
    references = [[pick(a), place(b)] for a, b in itertools.product(IDS, IDS)]
    one = fmean(reward([pick(1), place(1)], reference) for reference in references)
    everything = [step for number in IDS for step in (pick(number), place(number))]
    blocks = [pick(number) for number in IDS] + [place(number) for number in IDS]
    for plan in (everything, blocks, [*everything, *everything]):
        assert fmean(reward(plan, reference) for reference in references) < one


@given(plans, plans, st.integers(2, 4))
def test_repeating_a_plan_gains_nothing(reference: list[Any], plan: list[Any], times: int) -> None:
    wanted = max(1, sum(step is not LIFT for step in reference))  # lifts alone may be a reference when repeated
    if sum(step is not LIFT for step in plan) >= wanted:
        assert reward(plan * times, reference) <= reward(plan, reference) + 1e-9


@given(plans, plans, st.lists(st.sampled_from([LIFT, pick(9), place(9)]), min_size=1, max_size=5))
def test_padding_gains_nothing(reference: list[Any], plan: list[Any], padding: list[Any]) -> None:
    """Steps that name nothing, or what the reference does not."""
    exact = {**WEIGHTS, "exact": 0.0}  # a lift that was missing makes a plan exact, rightly
    longer, shorter = (reward_terms(fenced_plan(one), reference) for one in ([*plan, *padding], plan))
    assert weighted(longer, exact) <= weighted(shorter, exact) + 1e-9


@given(plans, plans, *[st.text(alphabet=st.characters(exclude_characters="`"))] * 2)
def test_prose_around_a_plan_gains_nothing(reference: list[Any], plan: list[Any], before: str, after: str) -> None:
    around = f"{before}\n{fenced_plan(plan)}\n{after}"
    assert reward_terms(around, reference) == reward_terms(fenced_plan(plan), reference)


@given(st.text(), plans)
def test_any_text_has_terms_within_their_bounds(text: str, reference: list[Any]) -> None:
    for shown in ("own", "paired", "other"):
        terms = reward_terms(text, reference, shown)  # type: ignore[arg-type]
        assert set(terms) == set(TERMS)
        assert all(term is None or -1 <= term <= 1 for term in terms.values())


@pytest.mark.parametrize(
    ("response", "form"),
    [
        ("", 0.0),
        ("pick the cup", 0.0),
        ("```json\n[]\n```", 0.0),
        ('```json\n{"a": 1}\n```', 0.0),
        (fenced_plan([pick("3"), place(1)]), 0.5),  # ids as text
        (fenced_plan([pick("cup"), place(1)]), 0.5),
        (fenced_plan([{"name": "grasp", "params": {ENTITY: 3}}]), 0.5),
        (fenced_plan([{"name": "pick", "params": {}}]), 0.5),
        (fenced_plan([pick(3), LIFT]), 1.0),
        (json.dumps([pick(3)]), 0.0),  # without a fence the benchmark reads nothing
    ],
)
def test_form(response: str, form: float) -> None:
    assert reward_terms(response, [pick(3), LIFT])["form"] == form


def test_ids_as_text_are_right_but_not_formal() -> None:
    terms = reward_terms(fenced_plan([pick("3")]), [pick(3)])
    assert (terms["grounded"], terms["form"]) == (1.0, 0.5)


def test_a_reference_without_an_object_has_no_grounded_term() -> None:
    terms = reward_terms(fenced_plan([LIFT]), [LIFT])
    assert (terms["grounded"], terms["exact"]) == (None, 1.0)
    assert weighted(terms, WEIGHTS) == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("name", "said"), [("total_score", "recall"), ("skill_match_score", "recall"), ("f1", "there are")]
)
def test_a_recall_is_refused(name: str, said: str) -> None:
    assert said in (why_no_term(name) or "")
    assert all(why_no_term(term) is None for term in TERMS)
