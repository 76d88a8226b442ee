"""Files that survive a crash: replaced whole or not at all, appended line by line; errors name file and line."""

import codecs
import errno
import json
import os
import secrets
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticSerializationError

from leap.errors import LeapError
from leap.records.locks import LOCK, Held, take, written_holder
from leap.redaction import hide

Record = TypeVar("Record", bound=BaseModel)
_TEMPORARY = ".tmp"
DISK_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "a file may not be so large",
    errno.EIO: "writing failed",
}
RESTORE = "restore or remove the file"
_DEEPEST, _MOST_DIGITS = 100, 100  # of JSON; tokenizers' files have numbers of 31 digits
_TOO_DEEP = f"nested deeper than {_DEEPEST} levels"
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe (FIFO)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_LOCK_TIMEOUT = 0.5  # seconds: one who only looks whether a lock is held holds it for an instant


def write_atomic(path: Path, content: str | bytes, if_changed: bool = False) -> None:
    """Replace a file at once: a reader sees the old content or the new, never half of it. Text loses its secrets.

    With `if_changed` a file of this very content keeps its time of change.
    """
    data = encoded(hide(content)) if isinstance(content, str) else content
    if if_changed and path.is_file() and path.read_bytes() == data:
        return
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def encoded(text: str) -> bytes:
    r"""UTF-8. Lone surrogates, which names of files that are not UTF-8 have, stand there as JSON wants them: \udc80."""
    return text.encode("utf-8", "backslashreplace")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file to write into. It takes the place of `path` at once, or goes where the writing fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = unfinished(path)
    os.close(_create(temporary))
    try:
        with naming(path):
            yield temporary
        with naming(path), temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def unfinished(path: Path, suffix: str = _TEMPORARY) -> Path:
    """A name beside `path` that nothing has, for what is to take its place when it is whole."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}{suffix}")


def _create(path: Path) -> int:
    """An open file of its own, with the mode that the umask gives every file; mkstemp's are for their owner alone."""
    return os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)


def share_weights(folder: Path) -> None:
    """Give weight files the mode of any other file here: safetensors makes them for their owner alone."""
    probe = unfinished(folder / "mode")
    descriptor = _create(probe)
    mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
    os.close(descriptor)
    probe.unlink()
    for file in folder.glob("*.safetensors"):
        file.chmod(mode)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """A failed write (a full disk) as an OSError that says which file or folder it was.

    It does not say so by itself; torch.save and safetensors raise errors of their own for it.
    """
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    except Exception as error:
        if number := _disk_error(error):
            raise OSError(number, os.strerror(number), str(path)) from error
        raise


def _disk_error(error: Exception) -> int | None:
    """The system's number of what a library could not write for; torch.save does not say it."""
    numbers = (number for number in DISK_FULL if f"os error {number})" in str(error))
    return next(numbers, errno.EIO if "inline_container.cc" in str(error) else None)


def check_folder(folder: Path) -> None:
    """Raises LeapError where no folder can be made or written to, before there is anything to write."""
    there = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
    if not there.is_dir():
        raise LeapError(f"{folder}: it cannot be a folder, since {there} is none; give another place")
    if not os.access(there, os.W_OK | os.X_OK):
        raise LeapError(f"{folder}: {there} may not be written to; give another place")


@contextmanager
def cache_in_use(folder: Path, keep: bool) -> Iterator[Path]:
    """A cache's folder; without `keep`, one elsewhere with links to all its files, which is read as it is.

    What is replaced or made there leaves the cache alone, and goes in the end. Locks and unfinished files are not
    linked.
    """
    if keep:
        yield folder
        return
    hidden = shutil.ignore_patterns(LOCK, f".*{_TEMPORARY}")
    with tempfile.TemporaryDirectory(prefix="leap-dry-run-") as name:
        copy = Path(name, "copy")
        if folder.is_dir():
            shutil.copytree(folder.resolve(), copy, ignore=hidden, copy_function=os.symlink)
        yield copy


def sync_folder(folder: Path) -> None:
    """Names that were made or changed in a folder outlast a power cut when this returns."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with naming(folder):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Everything under a folder, itself included, outlasts a power cut when this returns."""
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place, name)
            with naming(path), path.open("rb") as file:
                os.fsync(file.fileno())
        sync_folder(Path(place))


def write_json(path: Path, value: Any, if_changed: bool = False) -> None:
    """Replace a JSON file at once, indented for a person to read."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n", if_changed)


def is_file(path: Path) -> bool:
    """Whether a file is there; True for a link to one.

    Raises LeapError where something else has its place: opening a named pipe would wait for ever.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise LeapError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if not stat.S_ISREG(mode):
        found = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise LeapError(f"{path}: {found} lies where a file is expected; move it away")
    return True


def read_bytes(path: Path) -> bytes:
    """A file's content. Raises LeapError where it cannot be read, or is no file."""
    if not is_file(path):
        raise LeapError(f"{path}: there is no such file")
    try:
        return path.read_bytes()
    except OSError as error:
        raise LeapError(f"{path}: cannot be read ({error.strerror})") from error


def read_text(path: Path) -> str:
    """A UTF-8 file's text, with or without a byte order mark."""
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LeapError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from error


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
    """What is most often given for JSONL, told as such: any line of it would only be called invalid."""
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

    A record is on disk when `append` returns. A line that a kill cut short is removed when the file is opened again,
    and a whole one gets the line end that it lacks.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> "JsonlAppender":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        remove_torn_line(self.path)
        self._file = self.path.open("ab")
        sync_folder(self.path.parent)  # a new file's name must outlast a power cut too
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with naming(self.path):
            self._file.close()

    def append(self, record: BaseModel) -> None:
        with naming(self.path):
            self._file.write(jsonl_line(record))
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


def move_folder(folder: Path, place: Path) -> Path:
    """Move a folder to `place`, or beside it as `place`-2 and so on where that is taken; where it is now.

    It is there as a whole or not at all, also on another file system: a kill leaves at most a copy named .partial.
    """
    place = free_place(place)
    try:
        folder.rename(place)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        partial = Path(shutil.copytree(folder, place.with_name(f"{place.name}.partial")))
        partial.rename(place)
        os.sync()  # the copy must outlast a power cut before the original goes
        shutil.rmtree(folder)
    return place


def free_place(place: Path) -> Path:
    """An empty folder of our own, which a renamed one may take the place of."""
    for number in count(1):
        candidate = place if number == 1 else place.with_name(f"{place.name}-{number}")
        with suppress(FileExistsError):
            candidate.mkdir(parents=True)
            return candidate
    raise AssertionError


class FolderLock:
    """One process at a time writes into a folder. The lock ends with its process, however that ends.

    Where the file system has no flock, a process killed on another machine leaves it behind: the error says so. Raises
    LeapError that names the process that holds it, after `timeout` seconds. What a killed process was replacing is
    removed, and so is a folder with nothing in it but the lock.
    """

    def __init__(self, folder: Path, timeout: float = _LOCK_TIMEOUT) -> None:
        self._folder, self._path, self._timeout = folder, folder / LOCK, timeout

    def __enter__(self) -> "FolderLock":
        deadline = time.monotonic() + self._timeout
        while (held := self._take()) is None:
            if time.monotonic() > deadline:
                raise LeapError(self._message())
            time.sleep(_LOCK_TIMEOUT / 10)
        self._held = held
        for leftover in self._folder.glob(f".*{_TEMPORARY}"):
            leftover.unlink()
        return self

    def _take(self) -> Held | None:
        """None, too, where the last holder removed the file or the folder meanwhile."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            return take(self._path)
        except FileNotFoundError:
            return None
        except FileExistsError:  # mkdir's answer, too, where the folder goes, or goes and comes, while it looks
            if self._folder.exists() and not self._folder.is_dir():
                raise
            return None

    def _message(self) -> str:
        holder, may_stay = written_holder(self._path)
        message = f"{self._folder}: another process writes here ({holder}); wait until it is done, or stop it"
        way_out = f"; there is no flock on this file system: if that process is gone, remove {self._path}"
        return message + way_out * may_stay

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.release()
        with suppress(OSError):  # not empty
            self._folder.rmdir()
