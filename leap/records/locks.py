"""Who holds a folder: by flock, which ends with its process, or where a file system has none, by the lock file itself.

Lustre without -o flock and NFS without its lock service refuse flock. A lock file that marks its holder by being there
(`filelock`'s soft lock) works on both, but outlasts a killed process: one of this machine is found dead and replaced,
one of another must be removed by hand. Machines that mount one file system in both ways heed each other.
"""

import errno
import fcntl
import os
import re
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO

from leap.environment import LOCK_WAIT
from leap.errors import LeapError
from leap.records.files import LOCK, TEMPORARY

_TIMEOUT = 0.5  # seconds: one who only looks whether a lock is held holds it for an instant
_NO_FLOCK = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
_HOLDER = re.compile(r"(?:process )?([0-9]{1,10})(?: on |\n)(\S+)")  # flock's holder writes the one, filelock the other
_NAMESPACE = "?pidns-"  # what filelock puts behind a host's name in a container
_open: set[IO[str]] = set()  # files of the locks that this process holds by flock


def _let_go_after_fork() -> None:
    """A forked worker has its parent's lock too, and would keep it when the parent is killed."""
    for file in _open:
        file.close()
    _open.clear()


os.register_at_fork(after_in_child=_let_go_after_fork)


# Lets go of a lock, and removes its file where that is ours still: its folder may have been moved away with it.
Release = Callable[[], None]


class FolderLock:
    """One process at a time writes into a folder. The lock ends with its process, however that ends.

    Where the file system has no flock, a process killed on another machine leaves it behind: the error says so. Raises
    LeapError that names the process that holds it, after `timeout` seconds. What a killed process was replacing is
    removed, and so is a folder with nothing in it but the lock.
    """

    def __init__(self, folder: Path, timeout: float = _TIMEOUT) -> None:
        self._folder, self._path, self._timeout = folder, folder / LOCK, timeout

    def __enter__(self) -> "FolderLock":
        deadline = time.monotonic() + self._timeout
        while (release := self._take()) is None:
            if time.monotonic() > deadline:
                raise LeapError(self._message())
            time.sleep(_TIMEOUT / 10)
        self._release = release
        for leftover in self._folder.glob(f".*{TEMPORARY}"):
            leftover.unlink()
        return self

    def _take(self) -> Release | None:
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

    def __exit__(self, *_: object) -> None:
        self._release()
        with suppress(OSError):  # not empty
            self._folder.rmdir()


def take(path: Path) -> Release | None:
    """Take a lock file in a folder that is there; None while another process holds it."""
    return _take_flock(path) if has_flock(path.parent) else _take_marker(path)


def _refuse_pipe(path: Path) -> None:
    """To open a named pipe waits for ever."""
    if path.exists() and not path.is_file():
        raise LeapError(f"{path}: something else lies where a lock file is expected; move it away")


def _take_flock(path: Path) -> Release | None:
    _refuse_pipe(path)
    file = path.open("a+", errors="replace")
    file.seek(0)
    try:
        if _try_flock(file, fcntl.LOCK_EX) and _is_in_place(path, file) and not _marks_a_living(file.read()):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
            _open.add(file)
            return partial(_release_flock, path, file)
    except OSError as error:
        error.filename = error.filename or str(path)
        file.close()
        raise
    file.close()
    return None


def _release_flock(path: Path, file: IO[str]) -> None:
    if _is_in_place(path, file):
        path.unlink()
    _open.discard(file)
    file.close()


def _take_marker(path: Path) -> Release | None:
    from filelock import SoftFileLock, Timeout

    if path.is_file():
        text = path.read_text(errors="replace")
        if _may_live(text):
            return None
        _remove_dead(path, text)
    lock = SoftFileLock(path, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    return lock.release


def _remove_dead(path: Path, text: str) -> None:
    """Remove the lock file with this text, and no other that takes its place just now."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as aside:
        found = Path(aside, LOCK)
        path.replace(found)
        if found.read_text(errors="replace") != text:
            with suppress(FileExistsError):
                os.link(found, path)


def has_flock(folder: Path) -> bool:
    """Whether the file system of a folder has flock, tried on a file that nobody else sees."""
    with tempfile.TemporaryFile(dir=folder) as probe:
        return _try_flock(probe, fcntl.LOCK_EX) is not None


def _try_flock(file: IO[str] | IO[bytes], kind: int) -> bool | None:
    """Whether the lock is ours now; None where the file system has none."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _NO_FLOCK:
            return None
        raise
    return True


def _is_in_place(path: Path, file: IO[str]) -> bool:
    """Whether the file that we have open is the one that others find."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def lock_holder(path: Path) -> str | None:
    """Who stands in a lock file while a process holds it; None where none does. Nothing is written."""
    _refuse_pipe(path)
    try:
        with path.open(errors="replace") as file:
            taken, text = _try_flock(file, fcntl.LOCK_SH), file.read()
    except FileNotFoundError:
        return None
    held = not taken if taken is not None else _may_live(text)
    return _in_words(text) if held or _marks_a_living(text) else None


def wait_until_free(folder: Path) -> None:
    """For LOCK_WAIT seconds: a predecessor that has lost its Ray worker, say, may still save what it has."""
    deadline, before = time.monotonic() + int(os.environ.get(LOCK_WAIT, "0")), None
    while time.monotonic() < deadline and (holder := lock_holder(folder / LOCK)):
        if holder != before:
            print(f"{folder}: {holder} still writes here; waiting for its end", file=sys.stderr, flush=True)
        before = holder
        time.sleep(_TIMEOUT)


def written_holder(path: Path) -> tuple[str, bool]:
    """Who stands in a lock file, in words, and whether it may stand there for ever."""
    with suppress(OSError):
        text = path.read_text(errors="replace")
        return _in_words(text), _is_marker(text) or not has_flock(path.parent)
    return "unknown", False


def _marks_a_living(text: str) -> bool:
    return _is_marker(text) and _may_live(text)


def _is_marker(text: str) -> bool:
    """Whether a lock file's being there is the lock, since its holder found no flock."""
    return re.match(r"[0-9]+\n", text) is not None


def _may_live(text: str) -> bool:
    """Whether the process that stands in a lock file may be alive: that of another machine may."""
    match = _HOLDER.match(text)
    return match is None or not _is_here(match[2]) or is_alive(int(match[1]))


def _is_here(host: str) -> bool:
    name, _, namespace = host.partition(_NAMESPACE)
    return name == socket.gethostname() and namespace in ("", f"{Path('/proc/self/ns/pid').stat().st_ino:x}")


def _in_words(text: str) -> str:
    match = _HOLDER.match(text)
    return f"process {match[1]} on {match[2].partition(_NAMESPACE)[0]}" if match else text.strip() or "unknown"


def is_alive(pid: int) -> bool:
    """Whether a process of this machine is alive.

    One that has ended is not, also where nobody reaps it: in a container there is often no init that would.
    """
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # alive, another user's
        pass
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:  # just gone, or no Linux
        return True
    return state not in "ZX"
