"""What a plan is judged by: the criteria with an anchor for every number from 1 to 5, what figures call them, how the
rubric without a model measures them, and the records of a verdict. A new criterion is one more `Criterion` here."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model

from leap.records.judging import Rationale, Repeat, SampleIndex


@dataclass(frozen=True)
class Matched:
    """What the rubric (`leap.judge.rubric`) counts of a plan beside the reference."""

    steps: int
    reference_steps: int
    similarity: float  # of all matched steps, each from 0 to 1
    ordered: int  # matched steps in the reference's order
    words: float  # a step, mean
    reference_words: float


@dataclass(frozen=True)
class Criterion:
    """One question to the plan; `anchors` are what 1, 2, 3, 4 and 5 mean. `measure` is the rubric's, from 0 to 1."""

    name: str
    question: str
    anchors: tuple[str, str, str, str, str]
    label: str
    measure: Callable[[Matched], float]

    def described(self) -> str:
        lines = [f"{self.name}: {self.question}"]
        return "\n".join([*lines, *(f"  {score} = {anchor}" for score, anchor in enumerate(self.anchors, start=1))])


def _ratio(one: float, other: float) -> float:
    return min(one, other) / max(one, other) if one and other else 0.0


DESCRIBED = (
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
        "completeness",
        lambda found: found.similarity / found.reference_steps if found.reference_steps else 0.0,
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
        "logical sequence",
        lambda found: found.ordered / found.reference_steps if found.reference_steps else 0.0,
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
        "hallucination, redundancy (5: none)",
        lambda found: found.similarity / found.steps if found.steps else 0.0,
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
        "granularity",
        lambda found: (_ratio(found.steps, found.reference_steps) + _ratio(found.words, found.reference_words)) / 2,
    ),
)
CRITERIA = tuple(criterion.name for criterion in DESCRIBED)
SCALE = (1.0, 5.0)
FORMULA = f"final_score = ({' + '.join(CRITERIA)}) / {len(CRITERIA)}, computed by LEAP"

_SCORE = re.compile(r"([1-5１-５])(?:\.0+)?")


def _whole_number(value: Any) -> Any:
    """4 for "4", "4.0" and 4.0, which judges write who are held to no schema. All else is for the score to refuse."""
    if isinstance(value, str) and (match := _SCORE.fullmatch(value.strip())):
        return int(match[1])
    return int(value) if isinstance(value, float) and value.is_integer() else value


Score = Annotated[int, BeforeValidator(_whole_number), Field(strict=True, ge=1, le=5)]
MeanScore = Annotated[Annotated[float, Field(ge=1, le=5)] | None, BeforeValidator(lambda cell: cell or None)]


class _Verdict(BaseModel):
    """What a judge must answer on one plan: a whole number from 1 to 5 for each criterion, and why."""

    model_config = ConfigDict(extra="ignore")

    rationale: Rationale = ""


class _ScoreRow(BaseModel):
    """What the statistics take of a row of `blind10_score_<time>.csv`; an empty score is none."""

    model_name: str
    sample_idx: SampleIndex
    judge: str
    repeat: Repeat
    unusable: Annotated[int, BeforeValidator(lambda cell: cell or 0), Field(ge=0)]
    final_score: MeanScore


Verdict = create_model("Verdict", __base__=_Verdict, **dict.fromkeys(CRITERIA, (Score, ...)))  # type: ignore[call-overload]
ScoreRow = create_model("ScoreRow", __base__=_ScoreRow, **dict.fromkeys(CRITERIA, (MeanScore, ...)))  # type: ignore[call-overload]


def in_order(repeat: int) -> Sequence[Criterion]:
    """The criteria as the `repeat`-th request (from 0) shows them: in as many repeats as there are criteria each stands
    in each place once."""
    start = repeat % len(DESCRIBED)
    return (*DESCRIBED[start:], *DESCRIBED[:start])


def final_score(scores: Mapping[str, float]) -> float:
    """The mean of the criteria (1 to 5): see FORMULA."""
    return sum(scores[name] for name in CRITERIA) / len(CRITERIA)
