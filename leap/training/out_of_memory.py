"""What a run learned of its memory: a step that did not fit is divided further at the next start.

Without it, a run that resumes would come to the same step in the same batches and end there again, for ever.
"""

from pathlib import Path

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, PositiveInt

from leap.errors import LeapError
from leap.records.files import is_file
from leap.records.json_files import read_model, write_json
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
    if not is_file(output / FILE):
        return None
    found = read_model(output / FILE, _OutOfMemory, "remove the file")
    return MemoryPlan(found.micro_batches, found.checkpointing)
