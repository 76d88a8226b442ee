"""Training rows in the benchmark's form: its request, and the expert's plan in a fence."""

from pathlib import Path
from typing import Any

from leap.records.training import Message, Target, TrainingRow
from leap.vlabench.prompts import fenced_plan, request_parts


def plan_row(
    name: str, instructions: str, pictures: tuple[Path, Path], instruction: str, skill_sequence: list[Any]
) -> TrainingRow:
    """A request as the evaluation asks it, about (picture, numbered picture); the answer is the fenced plan."""
    message = Message(role="user", content=list(request_parts(instructions, *pictures, instruction)))
    return TrainingRow(id=name, messages=[message], target=Target(steps=fenced_plan(skill_sequence)))
