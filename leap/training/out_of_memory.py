"""What a run learned of its memory: a step that did not fit is divided further at the next start.

Without it, a run that resumes would come to the same step in the same batches and end there again, for ever.
"""

from pathlib import Path

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from leap.errors import LeapError
from leap.records.files import is_file
from leap.records.json_files import first_problem, read_object, write_json
from leap.training.memory_plan import Checkpointing, MemoryPlan

FILE = "memory_plan.json"


class _OutOfMemory(BaseModel):
    model_config = ConfigDict(extra="forbid")

    step: PositiveInt
    micro_batches: PositiveInt = Field(validation_alias=AliasChoices("micro_batches", "packs"))
    checkpointing: Checkpointing


def remember(output: Path, step: int, plan: MemoryPlan) -> LeapError:
    """Write down that `step` ran out of memory under `plan`; the error for the user."""
    known = recall(output)
    if known is None or known.micro_batches <= plan.micro_batches:
        found = _OutOfMemory(step=step, micro_batches=plan.micro_batches, checkpointing=plan.checkpointing)
        write_json(output / FILE, found.model_dump())
    return LeapError(
        f"step {step} ran out of memory in {plan.micro_batches} batches with checkpointing {plan.checkpointing}; run "
        f"the same command again: it resumes and divides each step further ({output / FILE})"
    )


def recall(output: Path) -> MemoryPlan | None:
    """The memory plan that ran out of memory in an earlier start of the run in this folder."""
    path = output / FILE
    if not is_file(path):
        return None
    try:
        found = _OutOfMemory.model_validate(read_object(path))
    except ValidationError as error:
        raise LeapError(f"{path}: {first_problem(error)}; remove the file") from error
    return MemoryPlan(found.micro_batches, found.checkpointing)
