"""Forms in which training samples are written: a file each, listed here, found out from the first samples of a file."""

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from leap.data.formats.alpaca import Alpaca
from leap.data.formats.leap_samples import LeapSample
from leap.data.formats.lerobot_episode import LeRobotEpisode
from leap.data.formats.marked_messages import MarkedMessages
from leap.data.formats.openai_messages import OpenAIMessages
from leap.data.formats.qwen_messages import QwenMessages
from leap.data.formats.sample_format import FormatName, LearnedTurns, SampleFormat, to_sample
from leap.data.formats.sharegpt import ShareGPT
from leap.data.formats.stored_images import ImageFolder
from leap.errors import LeapError
from leap.records.json_files import first_problem, parse_json
from leap.records.training import TrainingSample

# From what only one form has to what several may have: a sample is of the first form that recognises it.
FORMATS: tuple[type[SampleFormat], ...] = (
    LeapSample, ShareGPT, MarkedMessages, QwenMessages, OpenAIMessages, Alpaca, LeRobotEpisode,
)  # fmt: skip
RawSample = bytes | dict[str, Any]  # a line of JSON, or what a table's row holds
_LOOKED_AT = 100  # samples; the first may have no image, and text alone is written the same in several forms


class SampleError(LeapError):
    """What is wrong with a sample, and in which of its fields."""

    def __init__(self, problem: str, empty: bool = False) -> None:
        super().__init__(problem)
        self.empty = empty  # whether nothing but the answer is missing


class UnknownFormat(LeapError):
    """Samples that are of no form here."""


@dataclass(frozen=True)
class SampleReader:
    """Reads samples of one form as LEAP's. It travels to worker processes."""

    format: type[SampleFormat]
    learned: LearnedTurns = "all"
    images: ImageFolder | None = None  # for images that stand in the samples themselves

    def read(self, raw: RawSample) -> tuple[TrainingSample, str]:
        """The sample, and itself as a line of LEAP's own form. Raises SampleError."""
        try:
            if isinstance(raw, bytes) and self.format is LeapSample:  # as the file has it
                return TrainingSample.model_validate_json(raw), raw.decode().strip()
            learned = "all" if self.format is LeapSample else self.learned  # which says itself what is learned
            sample = to_sample(self.format.model_validate(_parsed(raw)), learned, self.images)
            return sample, sample.model_dump_json(exclude_none=True)
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            empty = problem["loc"] == ("target", "steps") and not str(problem["input"] or "").strip()
            raise SampleError(first_problem(error), empty) from error
        except PydanticSerializationError as error:
            raise SampleError(
                "a text holds half of a surrogate pair (\\ud800 to \\udfff), which is no character"
            ) from error
        except ValueError as error:
            raise SampleError(str(error)) from error


def format_named(name: str) -> type[SampleFormat]:
    """The form that `--data_format` names."""
    return next(one for one in FORMATS if one.name == name)


def detect(samples: Iterable[tuple[int, RawSample]], place: Path) -> type[SampleFormat]:
    """The form of a file's first samples; LEAP's own where none of them is JSON, as the reader will say.

    Raises UnknownFormat for a form that is none of these.
    """
    found: type[SampleFormat] | None = None
    unknown: tuple[int, Mapping[str, Any]] | None = None
    for line, raw in islice(samples, _LOOKED_AT):
        record = _record(raw)
        if record is None:
            continue
        form = next((one for one in FORMATS if one.recognises(record)), None)
        if form is None:
            unknown = unknown or (line, record)
        elif form.decides(record):
            return form
        found = found or form
    if found is None and unknown:
        raise _not_understood(place, *unknown)
    return found or LeapSample


def _record(raw: RawSample) -> Mapping[str, Any] | None:
    try:
        record = _parsed(raw)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _parsed(raw: RawSample) -> Any:
    if not isinstance(raw, bytes):
        return _without_nulls(raw)
    try:
        return parse_json(raw)
    except ValueError as error:
        raise ValueError(f"not valid JSON ({error})") from error


def _without_nulls(value: Any) -> Any:
    """A table has every column in every row, and every field of a struct: what is null there is not there."""
    if isinstance(value, dict):
        return {name: _without_nulls(inner) for name, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value


def _not_understood(place: Path, line: int, record: Mapping[str, Any]) -> UnknownFormat:
    """Which form it looks like, what it lacks of it, and a right sample."""
    keys = ", ".join(list(record)[:8]) or "none"
    near = [(_likeness(one, record), one) for one in FORMATS]
    likeness, form = max(near, key=lambda found: found[0])
    if likeness == 0:
        form = OpenAIMessages
    lacking = [key for key in form.needs if key not in record]
    looks = (
        f"it looks like {form.title}, without {' and '.join(f'`{key}`' for key in lacking)}"
        if likeness
        else (f"its form is none of {', '.join(one.title for one in FORMATS)}")
    )
    return UnknownFormat(
        f"{place}:{line}: samples are not understood (keys: {keys}); {looks}. A right one ({form.name}): "
        f"{example_line(form)}; --data_format {'|'.join(get_args(FormatName))} says how to read them"
    )


def _likeness(form: type[SampleFormat], record: Mapping[str, Any]) -> float:
    """How many of a form's keys a sample has; one that is nearly the same counts half."""
    own = form.model_fields
    return sum(1.0 if key in own else 0.5 * bool(difflib.get_close_matches(key, own, 1, 0.8)) for key in record)


def example_line(form: type[SampleFormat]) -> str:
    """A right sample of a form as a line of JSON."""
    return json.dumps(form.example, ensure_ascii=False)


__all__ = [
    "FORMATS", "RawSample", "SampleError", "SampleReader", "UnknownFormat", "detect", "example_line", "format_named",
]  # fmt: skip
