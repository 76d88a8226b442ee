"""Whether a plan names the right objects: plans as steps with normalised ids, and LEAP's headline score over them.

The official total is a recall over skills and ids apart: right skills on wrong objects have 40 of its 80 points, and a
neighbouring example's reference plan scores what a model does that never looks (`leap.vlabench.blind` says how much).
"""

from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

from leap.vlabench.scoring import LEAP_KEYS, OFFICIAL_KEYS, normalise_id
from leap.vlabench.skills import CONTAINER, ENTITY, SKILL_PARAMETER

GROUNDED = "grounded"
SCORE_KEYS = (*OFFICIAL_KEYS, GROUNDED, *LEAP_KEYS)
"""Every score that an example has in final_score.json."""

ObjectId = int | float | str


class Step(NamedTuple):
    """A step of a plan. An id is normalised, and None where the skill does not take it or the step does not name it."""

    skill: str
    entity: ObjectId | None
    container: ObjectId | None

    @property
    def ids(self) -> tuple[ObjectId, ...]:
        """What it names: nothing, one object, or (for a skill that the benchmark does not have) perhaps two."""
        return tuple(value for value in (self.entity, self.container) if value is not None)


def plan_steps(plan: Any) -> list[Step] | None:
    """A plan, any JSON value, as steps; None where it is no list of named steps.

    Parameters that a skill does not take are dropped: a number on "lift" names nothing, and a step that names an object
    must not get away with a second guess. A skill that the benchmark does not have keeps both. Missing parameters are
    none (upstream's scorer takes the whole plan for five zeros then). Ids are numbers or strings; a plan with anything
    else in their place is none.
    """
    if not isinstance(plan, list):
        return None
    steps = [_step(step) for step in plan]
    return None if None in steps else [step for step in steps if step is not None]


def _step(step: Any) -> Step | None:
    if not isinstance(step, dict) or not isinstance(step.get("name"), str):
        return None
    params = step.get("params") or {}
    if not isinstance(params, dict):
        return None
    name = step["name"]
    taken = (SKILL_PARAMETER[name],) if name in SKILL_PARAMETER else (ENTITY, CONTAINER)
    ids = {parameter: normalise_id(params.get(parameter)) for parameter in taken if parameter is not None}
    if any(isinstance(value, bool | list | dict) for value in ids.values()):
        return None
    named = {parameter: value for parameter, value in ids.items() if value != ""}
    return Step(name, named.get(ENTITY), named.get(CONTAINER))


def named_steps(plan: Any) -> Counter[Step]:
    """The steps that name an object, as a multiset; empty for what is no plan.

    Steps without a parameter (lift, pull, open_door) do not count: a planner that never looks can write them.
    """
    return Counter(step for step in plan_steps(plan) or () if step.ids)


def grounded(reference: Any, plan: Any) -> float | None:
    """100 x matched / max(steps that name an object in the reference, in the plan), over multisets of (skill, entity,
    container) with normalised ids; None where the reference names none.

    Not F1: with the right skills, naming five ids at every slot would have more of it than naming one. Here neither
    padding nor listing helps, because the longer of the two plans is what the matches are counted against.
    """
    expected, said = named_steps(reference), named_steps(plan)
    if not expected:
        return None
    return 100 * (expected & said).total() / max(expected.total(), said.total())


def has_id_as_text(plan: Any) -> bool:
    """Whether any id of a plan is a number written as a string: the official score takes "3" for another id than 3.
    Asked of the plan as it stands, as that score reads it: a parameter that the skill does not take counts too."""
    return any(isinstance(value, str) and isinstance(normalise_id(value), int) for value in _written_ids(plan))


def has_name(steps: Iterable[Step]) -> bool:
    """Whether any id is a string that is no number: the name of an object instead of the number drawn on it."""
    return any(isinstance(value, str) for step in steps for value in step.ids)


def _written_ids(plan: Any) -> Iterable[Any]:
    for step in plan if isinstance(plan, list) else ():
        params = step.get("params") if isinstance(step, dict) else None
        if isinstance(params, dict):
            yield from (params.get(parameter) for parameter in (ENTITY, CONTAINER))
