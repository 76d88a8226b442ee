"""JSON and JSONL: read with file, line and field in each error; appended so that a kill loses at most one line."""

import codecs
import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticSerializationError

from leap.errors import LeapError
from leap.records.files import is_file, naming, read_text, sync_folder, write_atomic
from leap.redaction import hide

Record = TypeVar("Record", bound=BaseModel)
RESTORE = "restore or remove the file"
_DEEPEST, _MOST_DIGITS = 100, 100  # of JSON; tokenizers' files have numbers of 31 digits
_TOO_DEEP = f"nested deeper than {_DEEPEST} levels"


def write_json(path: Path, value: Any, if_changed: bool = False) -> None:
    """Replace a JSON file at once, indented for a person to read."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n", if_changed)


def read_json(path: Path, remedy: str = RESTORE) -> Any:
    """A JSON file's value, or a LeapError that names the file and the place."""
    try:
        return parse_json(read_text(path))
    except json.JSONDecodeError as error:
        raise LeapError(f"{path}:{error.lineno}: not valid JSON ({error.msg}); {remedy}") from error
    except ValueError as error:
        raise LeapError(f"{path}: {error}; {remedy}") from error


def parse_json(text: str | bytes) -> Any:
    """JSON's value. Raises ValueError for what is none, and for nesting and numbers that nothing of ours has.

    They are refused here, since much that later meets them fails: RecursionError, OverflowError, or no end.
    """
    try:
        value = json.loads(text, parse_int=_whole)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    level = [value]
    for _ in range(_DEEPEST):
        level = [inner for outer in level if isinstance(outer, dict | list) for inner in _parts(outer)]
        if not level:
            return value
    raise ValueError(_TOO_DEEP)


def _parts(value: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def _whole(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits (the most are {_MOST_DIGITS})")
    return int(digits)


def read_object(path: Path, shape: type[BaseModel] | None = None, remedy: str = RESTORE) -> dict[str, Any]:
    """A JSON file's value where that must be an object. Raises LeapError naming the first field that is not of `shape`.

    It is returned as it stands: also with what the shape does not name.
    """
    value = read_json(path, remedy)
    if not isinstance(value, dict):
        raise LeapError(f"{path}: a JSON object is expected, found {type(value).__name__}; {remedy}")
    try:
        if shape:
            shape.model_validate(value)
    except ValidationError as error:
        raise LeapError(f"{path}: {first_problem(error)}; {remedy}") from error
    return value


def read_model(path: Path, shape: type[Record], remedy: str = RESTORE) -> Record:
    """The record in a JSON file that is LEAP's own, with the same errors."""
    return shape.model_validate(read_object(path, shape, remedy))


def object_if_there(path: Path, shape: type[BaseModel] | None = None) -> dict[str, Any]:
    """The same, or an empty object where there is no such file."""
    return read_object(path, shape) if is_file(path) else {}


def first_problem(error: ValidationError) -> str:
    """The first thing that pydantic found wrong: where in the record, and what."""
    problem = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in problem["loc"]) or "the whole record"
    return f"{place}: {problem['msg'].removeprefix('Value error, ')}"


def read_jsonl(path: Path, record: type[Record]) -> Iterator[tuple[int, Record]]:
    """Yield (line number from 1, record) for each line; blank lines are passed over.

    Raises LeapError naming file, line and field for a line that is not such a record, and for a file without any.
    """
    for number, line in read_lines(path):
        try:
            yield number, record.model_validate_json(line)
        except ValidationError as error:
            raise LeapError(f"{path}:{number}: {first_problem(error)}; mend or remove this line") from error


def read_lines(path: Path, appended: bool = False) -> Iterator[tuple[int, bytes]]:
    """Yield (line number from 1, line) for each line that is not blank. Raises LeapError where there is none.

    `appended`: none is no error, and a last line that a kill cut short is passed over.
    """
    if not is_file(path):
        raise LeapError(f"{path}: there is no such file")
    found = False
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            line = line.removeprefix(codecs.BOM_UTF8)  # of any line: files with one may have been joined
            if line.strip() and not (appended and _is_torn(line)):
                if not (found or appended):  # one line of a store may be odd
                    _refuse_no_lines(path, number, line)
                found = True
                yield number, line
    if not found and not appended:
        raise LeapError(f"{path}: the file is empty; it should hold one JSON record a line")


def _refuse_no_lines(path: Path, number: int, first: bytes) -> None:
    """What is most often given for JSONL, refused as such: any line of it would only be called invalid."""
    if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise LeapError(f"{path}: UTF-16 text; save it as UTF-8")
    if first.lstrip().startswith(b"["):
        raise LeapError(
            f"{path}:{number}: a JSON array; one record a line is needed (jq -c '.[]' {path.name} > NAME.jsonl)"
        )


def read_record(line: bytes, record: type[Record]) -> Record:
    """One line of a JSONL file. Raises ValidationError for what is no such record.

    Pydantic's own reader refuses half of a surrogate pair, which Python's json writes; here it becomes U+FFFD.
    """
    try:
        return record.model_validate_json(line)
    except ValidationError as error:
        if error.errors()[0]["type"] != "json_invalid":
            raise
        try:
            value = parse_json(line)
        except ValueError:
            raise error from None
        return record.model_validate_json(whole_characters(json.dumps(value, ensure_ascii=False)))


class Unreadable(NamedTuple):
    """A line of a store that is no record of it."""

    number: int  # from 1
    line: bytes
    problem: str


def read_store(path: Path, record: type[Record]) -> list[Record]:
    """The records of a file that LEAP appends to; none where there is no file yet.

    One that cannot be read ends no run: it is passed over as if it had never come, with one warning for all of them.
    """
    found, unreadable = split_store(path, record)
    if unreadable:
        first = f"line {unreadable[0].number}: {unreadable[0].problem}"
        print(
            f"warning: {path}: {len(unreadable)} unreadable records are passed over ({first}); mend them to use them",
            file=sys.stderr,
        )
    return found


def split_store(path: Path, record: type[Record]) -> tuple[list[Record], list[Unreadable]]:
    """(the records of a store, its lines that are none)."""
    found: list[Record] = []
    unreadable: list[Unreadable] = []
    for number, line in read_lines(path, appended=True) if is_file(path) else ():
        try:
            found.append(read_record(line, record))
        except ValidationError as error:
            unreadable.append(Unreadable(number, line, first_problem(error)))
    return found, unreadable


def whole_characters(text: str) -> str:
    """The text with U+FFFD for each half of a surrogate pair: no file in UTF-8 can hold one."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def jsonl_line(record: BaseModel) -> bytes:
    """A record as a line of a JSONL file, without secrets."""
    try:
        text = record.model_dump_json()
    except PydanticSerializationError:  # half of a surrogate pair: in the name of a file that is not UTF-8, say
        text = whole_characters(json.dumps(record.model_dump(), ensure_ascii=False))
    return hide(text).encode() + b"\n"


class JsonlAppender:
    """Append records so that a kill at any moment, or a power cut, loses at most the line being written.

    A record is on disk when `append` returns, or `sync` after many. A line that a kill cut short is removed when the
    file is opened again, and a whole one gets the line end that it lacks.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> "JsonlAppender":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        remove_torn_line(self.path)
        self._file = self.path.open("ab")
        sync_folder(self.path.parent)  # a new file's name must outlast a power cut too
        return self

    def __exit__(self, *_: object) -> None:
        with naming(self.path):
            self._file.close()

    def append(self, record: BaseModel, sync: bool = True) -> None:
        with naming(self.path):
            self._file.write(jsonl_line(record))
        if sync:
            self.sync()

    def sync(self) -> None:
        with naming(self.path):
            self._file.flush()
            os.fsync(self._file.fileno())


def remove_torn_line(path: Path) -> None:
    """Cut a last line that a kill interrupted. A whole record without its line end, as editors leave it, gets one."""
    if not is_file(path):
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole == len(content):
        return
    with path.open("rb+") as file:
        if _is_torn(content[whole:]):
            file.truncate(whole)
        else:
            file.seek(0, os.SEEK_END)
            file.write(b"\n")


def _is_torn(line: bytes) -> bool:
    """Whether a kill cut this line short: no part of a JSON object, from its start on, is one itself."""
    if line.endswith(b"\n"):
        return False
    try:
        return not isinstance(json.loads(line), dict)
    except (json.JSONDecodeError, UnicodeDecodeError):
        return True
    except (ValueError, RecursionError):  # a number or nesting without end: kept, and refused where it is read
        return False
