"""manifest.json: what a result was made with. Many read it, so its shape is checked where it is read."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from leap.records.json_files import object_if_there

MANIFEST = "manifest.json"


def _time(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("a time without its zone")
    return text


Count = Annotated[int, Field(ge=0, le=10**9)]
Time = Annotated[str, AfterValidator(_time)]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True)


class _Model(_Part):
    files: dict[str, str] = {}


class _Data(_Part):
    examples: Count = 0
    fingerprint: str = ""


class _Blind(_Part):
    """What planners that never look score, by score (`leap.vlabench.blind`)."""

    fingerprint: str = ""
    floor: dict[str, float | None] = {}
    best_blind: dict[str, float | None] = {}


class _Session(_Part):
    """How many answers came in how long."""

    answers: Count = 0
    seconds: Annotated[float, Field(ge=0, le=10**9)] = 0.0


class _Usage(_Part):
    prompt_tokens: Annotated[int, Field(ge=0, le=10**15)] = 0
    new_tokens: Annotated[int, Field(ge=0, le=10**15)] = 0
    cost_usd: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None


class _Manifest(_Part):
    """As far as it is read. Results of an older LEAP lack some of it."""

    dimension: str = ""
    model: _Model = _Model()
    settings: dict[str, Any] = {}
    repeats: Count = 1
    scorer: dict[str, Any] = {}
    data: _Data = _Data()
    counts: dict[str, Count] = {}
    blind: _Blind = _Blind()
    diagnosis: dict[str, dict[str, Count]] = {}
    inference: list[_Session] = []
    usage: _Usage = _Usage()
    start: Time = ""
    end: Time = ""
    status: str = ""
    command: str = ""


def asked_for(manifest: Mapping[str, Any]) -> int | None:
    """How many responses an evaluation is over: its examples, as often as each is asked. None where it does not say."""
    examples = manifest.get("data", {}).get("examples")
    return None if examples is None else examples * manifest.get("repeats", 1)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a result folder, {} where there is none. Raises LeapError for what is none."""
    return object_if_there(folder / MANIFEST, _Manifest)
