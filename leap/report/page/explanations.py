"""A diagnosis in words: what the response did, and what the reference does there, with the names of the objects."""

from collections.abc import Mapping, Sequence
from typing import Any

from leap.report.page.step_alignment import Row
from leap.terminal import shorten
from leap.vlabench.diagnosis import Diagnosis
from leap.vlabench.grounding import ObjectId, Step

LONGEST_NAME = 100  # characters of a skill, or of what stands in an id's place
_MOST = 4  # differences in words; the table of steps has all of them
_NO_PLAN = {
    "missing": "There is no response to this example.",
    "inference error": "Inference failed, so there is no response.",
    "refused": "The model refused to answer.",
    "filtered": "A content filter withheld the response.",
    "empty": "The response is empty.",
    "no fence": "No plan can be read: the response has no fenced JSON.",
    "invalid JSON": "No plan can be read: its JSON is invalid.",
    "wrong shape": "No plan can be read: the JSON is no list of steps.",
    "truncated": "No plan can be read: the response was cut before one ended.",
}
_DONE = {
    "pick": "picked", "press": "pressed", "place": "placed it at", "insert": "inserted it into",
    "pour": "poured into", "push": "pushed it to", "open_door": "opened the door", "pull": "pulled", "lift": "lifted",
}  # fmt: skip


def explain(
    diagnosis: Diagnosis,
    reference: Sequence[Step],
    plan: Sequence[Step],
    rows: Sequence[Row],
    names: Mapping[Any, str] | None,
) -> list[str]:
    """Some sentences; `names` are the scene's objects by their numbers, where they are known."""
    if diagnosis.reason is not None:
        return [_NO_PLAN.get(diagnosis.reason, diagnosis.reason)]
    wrong = [row for row in rows if row.mark != "matched" and not (row.mark == "moved" and row.said is None)]
    if diagnosis.kind == "correct":
        return [
            "The reference's steps, in another order of subtasks, which is free here."
            if wrong
            else "The reference's steps."
        ]
    found = ["Its end runs in a loop."] if diagnosis.kind == "loop" else []
    found += [_sentence(row, reference, plan, names or {}) for row in wrong[:_MOST]]
    return [*found, f"And {len(wrong) - _MOST} more."] if len(wrong) > _MOST else found


def _sentence(row: Row, reference: Sequence[Step], plan: Sequence[Step], names: Mapping[Any, str]) -> str:
    expected = None if row.expected is None else reference[row.expected]
    if row.said is None:
        assert expected is not None
        return f"Missing: {_step(expected, names)}."
    said = plan[row.said]
    if row.mark == "moved":
        return f"Step {row.said + 1} comes at another place in the reference: {_step(said, names)}."
    if expected is None:
        return f"Step {row.said + 1} is not in the reference: {_step(said, names)}."
    if expected.skill != said.skill:
        return f"Step {row.said + 1}: {_step(said, names)}, where the reference has {_step(expected, names)}."
    done = _DONE.get(said.skill, f"did {shorten(said.skill, LONGEST_NAME)} with")
    return f"Step {row.said + 1}: {done} {_objects(said, names)} for {_objects(expected, names)}."


def _step(step: Step, names: Mapping[Any, str]) -> str:
    skill = shorten(step.skill, LONGEST_NAME)
    return f"{skill} {_objects(step, names)}" if step.ids else skill


def _objects(step: Step, names: Mapping[Any, str]) -> str:
    return " and ".join(_object(value, names) for value in step.ids) or "nothing"


def _object(value: ObjectId, names: Mapping[Any, str]) -> str:
    return f"the {names[value]} ({value})" if value in names else shorten(str(value), LONGEST_NAME)
