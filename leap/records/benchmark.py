"""Records of an evaluation: the benchmark's example, and a model's answer to it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from leap.cli import MOST_REPEATS

_MOST = 10**12  # tokens of one request; beyond it, costs and sums are no numbers any more


def _possible(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value <= _MOST else None


TokenCount = Annotated[int | None, BeforeValidator(_possible)]
"""None where nobody has counted. A count that no request can have (negative, beyond 10^12, no number) is none either:
taken as it stands, it would lower what was spent."""

# How a response ended: by itself, cut at max_new_tokens, as the model's refusal, or withheld by a content filter.
Finish = Literal["stop", "length", "refused", "filtered"]


class OperationSequence(BaseModel):
    """`output/operation_sequence.json`: the reference plan. Its skills are kept as they stand: scoring judges them."""

    model_config = ConfigDict(extra="allow")

    skill_sequence: Annotated[list[Any], Field(min_length=1)]


@dataclass(frozen=True)
class BenchmarkExample:
    """One example of VLABench's VLM benchmark, as it lies on disk."""

    dimension: str
    task: str
    number: int
    folder: Path
    instruction: str
    reference: dict[str, Any]  # operation_sequence.json as it stands

    @property
    def skill_sequence(self) -> list[Any]:
        """The reference plan."""
        return self.reference["skill_sequence"]

    @property
    def key(self) -> tuple[str, str]:
        """(task, example number) as `final_score.json` names them."""
        return self.task, str(self.number)

    @property
    def image(self) -> Path:
        return self.folder / "input" / "input.png"

    @property
    def numbered_image(self) -> Path:
        return self.folder / "input" / "input_mask.png"


class Prediction(BaseModel):
    """One line of `predictions.jsonl`: what a model answered, before any parsing or scoring.

    `error` is set when inference failed: then there is no answer, and the example is asked again on the next run.
    A refusal, what a content filter left and an empty text are answers: they score zero, and are not asked again.
    """

    model_config = ConfigDict(extra="forbid")

    task: str
    example: str
    repeat: Annotated[int, Field(ge=0, lt=MOST_REPEATS, exclude_if=lambda repeat: repeat == 0)] = 0
    request: str | None = None  # sha256 of what the model was shown; None in answers of other programs
    text: str | None = None
    finish: Finish | None = None
    prompt_tokens: TokenCount = None
    new_tokens: TokenCount = None
    error: str | None = None
