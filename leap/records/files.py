"""Files that survive a crash: replaced whole or not at all, appended line by line; errors name file and line."""

import codecs
import fcntl
import json
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from leap.errors import LeapError

Record = TypeVar("Record", bound=BaseModel)
LOCK = ".lock"
_LOCK_PATIENCE = 0.5  # seconds: one who only looks whether a lock is held holds it for an instant


def write_atomic(path: Path, content: str | bytes) -> None:
    """Replace a file at once: a reader sees the old content or the new, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp makes it private
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file at once, indented for a person to read."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """A JSON file's value, or a LeapError that names the file and the place."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LeapError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise LeapError(f"{path}: not UTF-8 text (byte {error.start}); restore the file") from error
    except json.JSONDecodeError as error:
        raise LeapError(f"{path}:{error.lineno}: not valid JSON ({error.msg}); restore or remove the file") from error


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file's value where that must be an object."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise LeapError(f"{path}: a JSON object is expected, found {type(value).__name__}; restore or remove the file")
    return value


def read_text(path: Path) -> str:
    """A UTF-8 file's text, with or without a byte order mark."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise LeapError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from error


def first_problem(error: ValidationError) -> str:
    """The first thing that pydantic found wrong: where in the record, and what."""
    problem = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in problem["loc"]) or "the whole record"
    return f"{place}: {problem['msg']}"


def read_jsonl(path: Path, record: type[Record]) -> Iterator[tuple[int, Record]]:
    """Yield (line number from 1, record) for each line; blank lines are passed over.

    Raises LeapError naming file, line and field for a line that is not such a record, and for a file without any.
    """
    if not path.is_file():
        raise LeapError(f"{path}: there is no such file")
    found = False
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            if not line.strip():
                continue
            found = True
            try:
                yield number, record.model_validate_json(line)
            except ValidationError as error:
                raise LeapError(f"{path}:{number}: {first_problem(error)}; mend or remove this line") from error
    if not found:
        raise LeapError(f"{path}: the file is empty; it should hold one JSON record a line")


def jsonl_line(record: BaseModel) -> bytes:
    """A record as a line of a JSONL file."""
    return record.model_dump_json().encode() + b"\n"


class JsonlAppender:
    """Append records so that a kill at any moment, or a power cut, loses at most the line being written.

    A record is on disk when `append` returns. A line that a kill cut short is removed when the file is opened again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> "JsonlAppender":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        remove_torn_line(self.path)
        self._file = self.path.open("ab")
        _sync_folder(self.path.parent)  # a new file's name must outlast a power cut too
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def append(self, record: BaseModel) -> None:
        self._file.write(jsonl_line(record))
        self._file.flush()
        os.fsync(self._file.fileno())


def remove_torn_line(path: Path) -> None:
    """Cut a last line that has no line end: a write that a kill interrupted."""
    if not path.is_file():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with path.open("rb+") as file:
            file.truncate(whole)


class FolderLock:
    """One process at a time writes into a folder. The lock ends with its process, however that ends.

    Raises LeapError that names the process that holds it. A folder with nothing in it but the lock is removed again.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._path = folder, folder / LOCK

    def __enter__(self) -> "FolderLock":
        deadline = time.monotonic() + _LOCK_PATIENCE
        while not self._take():
            self._file.seek(0)
            holder = self._file.read().strip() or "unknown"
            self._file.close()
            if time.monotonic() > deadline:
                raise LeapError(
                    f"{self._folder}: another process writes here ({holder}); wait until it is done, or stop it"
                )
            time.sleep(_LOCK_PATIENCE / 10)
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        self._file.flush()
        return self

    def _take(self) -> bool:
        """Whether the lock is ours now; not where its last holder removed the file while we opened it."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("a+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return self._path.exists() and os.path.samestat(os.fstat(self._file.fileno()), self._path.stat())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._path.exists():  # not moved away with the folder
            self._path.unlink()
            if not any(self._folder.iterdir()):
                self._folder.rmdir()
        self._file.close()
