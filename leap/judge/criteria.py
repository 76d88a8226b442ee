"""What a plan is judged by: four criteria with an anchor for every number from 1 to 5, and their mean."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from leap.records.judging import CRITERIA

FORMULA = (
    "final_score = (completeness + logical_sequence + hallucination_redundancy + granularity) / 4, computed by LEAP"
)


@dataclass(frozen=True)
class Criterion:
    """One question to the plan; `anchors` are what 1, 2, 3, 4 and 5 mean."""

    name: str
    question: str
    anchors: tuple[str, str, str, str, str]

    def described(self) -> str:
        lines = [f"{self.name}: {self.question}"]
        return "\n".join([*lines, *(f"  {score} = {anchor}" for score, anchor in enumerate(self.anchors, start=1))])


_DESCRIBED = (
    Criterion(
        "completeness",
        "does the plan hold every step that the task needs?",
        (
            "it does nothing of the task, or is no plan at all",
            "most of the needed steps are missing",
            "about half of them are there, or one without which the task fails is missing",
            "only a step of little weight is missing",
            "nothing that the task needs is missing",
        ),
    ),
    Criterion(
        "logical_sequence",
        "could a robot do the steps in this order?",
        (
            "there is no usable order, or no plan at all",
            "several steps come before what they depend on",
            "one step that matters comes before what it depends on",
            "an order that works, with a detour or one unclear dependence",
            "an order that works from the first step to the last",
        ),
    ),
    Criterion(
        "hallucination_redundancy",
        "does the plan keep to what is in the scene and the task, and say each thing once?",
        (
            "mostly invented objects or actions, or the same step over and over",
            "several invented or repeated steps",
            "one invented object or action that would mislead the robot, or two repeated steps",
            "one harmless step too many",
            "nothing invented, nothing repeated",
        ),
    ),
    Criterion(
        "granularity",
        "are the steps of a size that a robot can carry out, as the reference's are?",
        (
            "one vague sentence, or movements so small that no task can be seen in them",
            "mostly much coarser or much finer than the reference",
            "several steps are too coarse or too fine",
            "one step is too coarse or too fine",
            "every step is one action of the reference's size",
        ),
    ),
)
assert tuple(criterion.name for criterion in _DESCRIBED) == CRITERIA


def in_order(repeat: int) -> Sequence[Criterion]:
    """The criteria as the `repeat`-th request (from 0) shows them: each comes first, second, third and last in turn."""
    start = repeat % len(_DESCRIBED)
    return (*_DESCRIBED[start:], *_DESCRIBED[:start])


def final_score(scores: Mapping[str, float]) -> float:
    """The mean of the four criteria (1 to 5): see FORMULA."""
    return sum(scores[name] for name in CRITERIA) / len(CRITERIA)
