"""What a response earns in reinforcement learning. A plan can be checked, so it can be rewarded: no model judges here.

Terms are of one response, read as the benchmark reads it, and between 0 and 1 (the image term between -1 and 1):

grounded   `leap.vlabench.grounding`, as a share; 0 where no plan can be read; none where the reference names no object
form       1 where the plan is one of the benchmark's skills with a number for each id, 0.5 where it is a list of steps
           that is not, 0 where no plan can be read
exact      1 where the steps are the reference's in its order, ids normalised
image      a planner that never looks says the same whatever it is shown. The response to a scene's own images earns its
           `grounded`, that to another scene's images loses what it has of the same reference: over both prompts that is
           the score with own images minus that with another's, which no constant plan has anything of. A GRPO group has
           one prompt, so that a difference within one response would be subtracted with the group's mean.

`total_score` is no term, and neither is any other recall: see `_REFUSED`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from leap.vlabench.grounding import Step, grounded, plan_steps
from leap.vlabench.parsing import parse_plan
from leap.vlabench.skills import CONTAINER, ENTITY, SKILL_PARAMETER

Term = Literal["grounded", "form", "exact", "image"]
TERMS: tuple[Term, ...] = get_args(Term)
Shown = Literal["own", "paired", "other"]
"""The images of a prompt: the scene's own; its own, and another prompt shows another scene's; another scene's."""

RECALLS = ("total_score", "weighted_total", "total_ids_as_numbers", "skill_match_score", "entity_match_score",
           "skill_with_entity_match_score")  # fmt: skip
_REFUSED = (
    "is no reward: it is a recall, so that long plans that list every id farm it, and a planner that never looks has "
    "nearly all of it (docs/scores.md); take grounded"
)


def reward_terms(response: str, reference: Sequence[Any], shown: Shown = "own") -> dict[Term, float | None]:
    """Every term of a response (the text alone) to a prompt whose right plan is `reference`; None where a term is
    none of this prompt's."""
    plan = parse_plan(response).plan
    share = grounded(reference, plan)
    share = None if share is None else share / 100
    if shown == "other":
        return {"grounded": None, "form": _form(plan), "exact": None, "image": None if share is None else -share}
    exact = float(plan_steps(plan) == plan_steps(reference))
    return {"grounded": share, "form": _form(plan), "exact": exact, "image": share if shown == "paired" else None}


def weighted(terms: Mapping[Any, float | None], weights: Mapping[str, float]) -> float:
    """The reward: the weighted sum of the terms that this prompt has."""
    known = ((weight, terms.get(name)) for name, weight in weights.items())
    return sum(weight * term for weight, term in known if term is not None)


def why_no_term(name: str) -> str | None:
    """What to say of a name that is none of `TERMS`; None for one of them."""
    if name in TERMS:
        return None
    if name in RECALLS:
        return f"{name} {_REFUSED}"
    return f"{name} is no reward; there are: {', '.join(TERMS)}"


def _form(plan: Any) -> float:
    steps = plan_steps(plan)
    if not steps:
        return 0.0
    return 1.0 if all(map(_is_formal, steps, plan)) else 0.5


def _is_formal(step: Step, written: Mapping[str, Any]) -> bool:
    """Whether a step is one of the benchmark's skills and its id, if it takes one, was written as a number."""
    if step.skill not in SKILL_PARAMETER:
        return False
    params = written.get("params") or {}
    return not any(isinstance(params.get(parameter), str) for parameter in (ENTITY, CONTAINER)) and (
        len(step.ids) == (SKILL_PARAMETER[step.skill] is not None)
    )
