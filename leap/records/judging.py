"""Records of a blind review: what models answered, and what a judge said about it."""

import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from leap.records.benchmark import Finish, TokenCount
from leap.records.json_files import whole_characters


def _named(value: Any) -> Any:
    return _CHOICES.get(value.strip().lower(), value) if isinstance(value, str) else value


_PATHS = TypeAdapter(list[str])
_CHOICES = {"a": "A", "b": "B", "tie": "tie"}
SampleIndex = Annotated[int, Field(ge=0, le=10**9)]
Repeat = Annotated[int, Field(ge=1, le=10**9)]
Rationale = Annotated[str, AfterValidator(whole_characters)]


def join_images(paths: Sequence[str]) -> str:
    """Paths as the column image_paths has them: joined by ";", or as a JSON list where that would not be read so."""
    joined = ";".join(paths)
    return joined if split_images(joined) == list(paths) else json.dumps(list(paths), ensure_ascii=False)


def split_images(cell: str) -> list[str]:
    """The paths in a cell of image_paths."""
    if cell.startswith("["):
        with suppress(ValidationError):
            return _PATHS.validate_json(cell)
    return [path.strip() for path in cell.split(";") if path.strip()]


class Output(BaseModel):
    """A row of `blind10_outputs_<time>.csv`. With `error` set there is no answer; it is never judged."""

    model_config = ConfigDict(extra="ignore")

    model_name: Annotated[str, Field(min_length=1)]
    sample_idx: SampleIndex
    image_paths: str  # see split_images
    prompt_text: str
    model_output: str
    reference_steps: str
    error: str = ""
    finish: str = ""  # "length": cut at the limit of new tokens
    prompt_tokens: str = ""
    new_tokens: str = ""

    @property
    def images(self) -> list[str]:
        return split_images(self.image_paths)


class PairRow(BaseModel):
    """What the statistics take of a row of `blind10_pairs_<time>.csv`."""

    model_a: str
    model_b: str
    sample_idx: SampleIndex
    judge: str
    repeat: Repeat
    outcome: Literal["a", "b", "tie", ""]
    shown_ab: Literal["A", "B", "tie", ""]
    shown_ba: Literal["A", "B", "tie", ""]


class _Judged(BaseModel):
    sha256: str


class _Spent(BaseModel):
    requests: int


class ReviewManifest(BaseModel):
    """What a later run takes of `blind10_manifest_<time>.json`."""

    outputs: _Judged | None = None
    spent: _Spent | None = None
    tables: list[Annotated[str, Field(pattern=r"^[\w.-]+$")]] = []  # beside it


class Preference(BaseModel):
    """What a judge must answer on two plans."""

    model_config = ConfigDict(extra="ignore")

    rationale: Rationale = ""
    better: Annotated[Literal["A", "B", "tie"], BeforeValidator(_named)]


def _with_its_run(made: dict[str, Any] | None) -> dict[str, Any] | None:
    """None where it does not say when the run began: the answer is as good without."""
    run = (made or {}).get("run")
    return made if isinstance(run, dict) and isinstance(run.get("start"), str) else None


class StoredResponse(BaseModel):
    """A line of a store of answers: `key` is the hash of all that decides the answer, `made` says how it was made."""

    model_config = ConfigDict(extra="forbid")

    key: str
    text: str
    finish: Finish | None = None
    prompt_tokens: TokenCount = None
    new_tokens: TokenCount = None
    made: Annotated[dict[str, Any] | None, AfterValidator(_with_its_run)] = None  # the engine, and the run that asked
