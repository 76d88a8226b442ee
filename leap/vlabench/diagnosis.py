"""Why a response is right or wrong: one kind for each example, deterministic, and what else is to be said of it.

Kinds are tried in the order of `KINDS`. They are about plans as steps (`leap.vlabench.grounding.plan_steps`), so that
neither an id written as text nor a parameter that a skill does not take decides. The lenient parser reads the plan: a
missing fence is a flag here, not the end of the diagnosis, though the scores read as the benchmark does.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from pydantic import BaseModel, ConfigDict

from leap.errors import LeapError
from leap.records.benchmark import BenchmarkExample, OperationSequence, Prediction
from leap.records.files import is_file
from leap.records.json_files import read_json, read_object
from leap.records.litter import listed
from leap.records.remote import present
from leap.vlabench.dimensions import DIMENSIONS
from leap.vlabench.examples import dimension_folders, example_folders
from leap.vlabench.grounding import Step, has_id_as_text, has_name, plan_steps
from leap.vlabench.parsing import ParsedPlan, parse_plan
from leap.vlabench.scoring import SEQ_INDEPENDENT_TASKS
from leap.vlabench.skills import pieces

Kind = Literal[
    "not answered",  # inference error, missing
    "refused",  # a refusal, withheld by a content filter, empty
    "unreadable",  # no plan could be read
    "correct",  # the reference's steps in its order; in any order of subtasks where the task is order-free
    "loop",  # the last step or pair stands at least three times running, more often than in the reference
    "name instead of id",  # an id is a string that is no number
    "wrong order",  # the reference's steps in another order
    "extra steps",  # the reference's steps and others
    "missing steps",  # some of the reference's steps and no others
    "wrong object",  # the reference's skills in its order, and the containers right
    "wrong container",  # the same, and the objects right
    "wrong object and container",
    "wrong skill",  # the rest
]
KINDS: tuple[Kind, ...] = get_args(Kind)
NoPlan = Literal["refused", "filtered", "empty"]
FLAGS = ("unknown_ids", "ids_as_text", "truncated", "repaired", "unseen_transition")
_RUNNING = 3  # times that make a loop
_HOLDS = {"pick": True, "place": False, "insert": False}  # what the hand does; other skills leave it as it was


class Transition(NamedTuple):
    """A skill, and whether the hand holds something before it."""

    holding: bool
    skill: str


class Diagnosis(BaseModel):
    """One line of `diagnosis.jsonl`. The official exact match stands beside the kind and is no definition of it: it
    skips skills outside of subtasks, and takes a subtask's last id."""

    model_config = ConfigDict(extra="forbid")

    task: str
    example: str
    kind: Kind
    reason: str | None = None  # of the first three kinds
    total_score: float | None = None
    grounded: float | None = None
    exact_match_score: float | None = None
    unknown_ids: bool | None = None  # whether an id is none of the scene's; None where the scene's are not known
    ids_as_text: bool = False
    truncated: bool = False
    repaired: tuple[str, ...] = ()  # how the lenient parser read it (leap.vlabench.parsing.REPAIRS)
    unseen_transition: bool = False  # whether a skill follows a state that no reference has it follow


def diagnose(example: BenchmarkExample, prediction: Prediction | None, seen: frozenset[Transition]) -> Diagnosis:
    """What became of an example, without scores. `seen` are the transitions of the benchmark's references."""
    found = partial(Diagnosis, task=example.task, example=str(example.number))
    if prediction is None or prediction.error is not None:
        return found(kind="not answered", reason="missing" if prediction is None else "inference error")
    if (no_plan := without_plan(prediction)) is not None:
        return found(kind="refused", reason=no_plan)
    parsed = parse_plan(prediction.text, "lenient")
    steps = plan_steps(parsed.plan)
    truncated = _is_truncated(prediction, parsed)
    if steps is None:
        reason = "truncated" if truncated else _problem(parsed)
        return found(kind="unreadable", reason=reason, truncated=truncated, repaired=parsed.repairs)
    scene = scene_objects(example.folder)
    return found(
        kind=kind_of_plan(plan_steps(example.skill_sequence) or [], steps, example.task in SEQ_INDEPENDENT_TASKS),
        unknown_ids=None if scene is None else any(value not in scene for step in steps for value in step.ids),
        ids_as_text=has_id_as_text(parsed.plan),
        truncated=truncated,
        repaired=parsed.repairs,
        unseen_transition=not seen.issuperset(transitions(steps)),
    )


def without_plan(prediction: Prediction) -> NoPlan | None:
    """Why an answer can hold no plan, before anything is read of it; None for a text that the parser decides about."""
    if prediction.finish == "refused" or prediction.finish == "filtered":
        return prediction.finish
    return None if prediction.text is None or prediction.text.strip() else "empty"


def kind_of_plan(reference: Sequence[Step], plan: Sequence[Step], order_free: bool) -> Kind:
    """The kind of a plan that could be read: `correct` or one of those behind it."""
    expected, said = Counter(reference), Counter(plan)
    if list(plan) == list(reference) or (order_free and _subtasks(plan) == _subtasks(reference)):
        return "correct"
    if _is_loop(reference, plan):
        return "loop"
    if has_name(plan):
        return "name instead of id"
    if said == expected and not order_free:
        return "wrong order"
    if expected < said:
        return "extra steps"
    if said < expected:
        return "missing steps"
    if [step.skill for step in plan] != [step.skill for step in reference]:
        return "wrong skill"
    pairs = list(zip(plan, reference, strict=True))
    objects = any(ours.entity != theirs.entity for ours, theirs in pairs)
    containers = any(ours.container != theirs.container for ours, theirs in pairs)
    if objects and containers:
        return "wrong object and container"
    return "wrong object" if objects else "wrong container"


def transitions(steps: Iterable[Step]) -> set[Transition]:
    """The skills of a plan with what the hand does before each: a pick holds, a place and an insert hold no more."""
    found = set()
    holding = False
    for step in steps:
        found.add(Transition(holding, step.skill))
        holding = _HOLDS.get(step.skill, holding)
    return found


def seen_transitions(root: Path) -> frozenset[Transition]:
    """Those of all references under the benchmark's folder, whatever dimensions are on disk.

    Learned and not declared, because references pick while holding, and more. A reference that cannot be read is
    left out: whoever evaluates its dimension is told of it.
    """
    found: set[Transition] = set()
    names = "operation_sequence.json"
    for folder in (folder for dimension in DIMENSIONS for folder in dimension_folders(root, dimension, names)):
        for task in listed(folder, "*/"):
            for _, example in example_folders(task):
                found |= transitions(_reference(example / "output" / "operation_sequence.json"))
    return frozenset(found)


def scene_objects(example: Path) -> dict[Any, str] | None:
    """Number in an example's numbered image -> what it stands on, where its `env_config.json` says so (the demo's
    does)."""
    path = example / "env_config" / "env_config.json"
    if not is_file(path):
        return None
    try:
        config = read_json(path)
        return {placed["number"]: str(placed["kind"]).replace("_", " ") for placed in config["scene"]["objects"]}
    except (LeapError, LookupError, TypeError):  # the benchmark's own says other things, and nothing depends on it
        return None


def _reference(path: Path) -> Sequence[Step]:
    present(path)  # outside: what cannot be fetched is no reference that cannot be read
    try:
        return plan_steps(read_object(path, OperationSequence)["skill_sequence"]) or ()
    except LeapError:
        return ()


def _subtasks(steps: Sequence[Step]) -> Counter[tuple[Step, ...]]:
    """The subtasks of a plan and the single steps between them, regardless of their order."""
    return Counter(tuple(steps[piece]) for piece in pieces(tuple(step.skill for step in steps)))


def _is_loop(reference: Sequence[Step], plan: Sequence[Step]) -> bool:
    for length in range(1, min(2, len(plan)) + 1):
        unit = list(plan[-length:])
        running = _running(unit, plan, len(plan))
        if running >= _RUNNING and running > max(_running(unit, reference, end) for end in range(len(reference) + 1)):
            return True
    return False


def _running(unit: Sequence[Step], plan: Sequence[Step], end: int) -> int:
    """How many times running `unit` stands before `end`."""
    times = 0
    while end >= len(unit) and list(plan[end - len(unit) : end]) == list(unit):
        times, end = times + 1, end - len(unit)
    return times


def _is_truncated(prediction: Prediction, parsed: ParsedPlan) -> bool:
    """Answers of other programs do not say how they ended; then their form does."""
    if prediction.finish is not None:
        return prediction.finish == "length"
    open_fence = (prediction.text or "").count("```") % 2 == 1
    return "truncated_list" in parsed.repairs or (open_fence and not parsed.ok)


def _problem(parsed: ParsedPlan) -> str:
    if parsed.error is None:
        return "wrong shape"
    return "invalid JSON" if "no valid JSON" in parsed.error else "no fence"
