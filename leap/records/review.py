"""Records of a blind review: what models answered, and what a judge said about it."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from leap.records.benchmark import Finish

CRITERIA = ("completeness", "logical_sequence", "hallucination_redundancy", "granularity")

Score = Annotated[int, Field(strict=True, ge=1, le=5)]


class Output(BaseModel):
    """A row of `blind10_outputs_<time>.csv`. With `error` set there is no answer; it is never judged."""

    model_config = ConfigDict(extra="ignore")

    model_name: Annotated[str, Field(min_length=1)]
    sample_idx: Annotated[int, Field(ge=0)]
    image_paths: str  # joined by ";"
    prompt_text: str
    model_output: str
    reference_steps: str
    error: str = ""
    finish: str = ""  # "length": cut at the limit of new tokens
    prompt_tokens: str = ""
    new_tokens: str = ""

    @property
    def pictures(self) -> list[str]:
        return [path.strip() for path in self.image_paths.split(";") if path.strip()]


class Verdict(BaseModel):
    """What a judge must answer on one plan: four whole numbers from 1 to 5, and why."""

    model_config = ConfigDict(extra="ignore")

    rationale: str = ""
    completeness: Score
    logical_sequence: Score
    hallucination_redundancy: Score
    granularity: Score


class Preference(BaseModel):
    """What a judge must answer on two plans."""

    model_config = ConfigDict(extra="ignore")

    rationale: str = ""
    better: Literal["A", "B", "tie"]


class StoredAnswer(BaseModel):
    """A line of a store of answers: `key` is the hash of all that decides the answer, `made` says how it was made."""

    model_config = ConfigDict(extra="forbid")

    key: str
    text: str
    finish: Finish | None = None
    prompt_tokens: int | None = None
    new_tokens: int | None = None
    made: dict[str, Any] | None = None  # the engine, and the run that asked
