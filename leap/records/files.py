"""Files and folders that survive a crash: replaced whole or not at all; errors say which file it was."""

import errno
import hashlib
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from itertools import count
from pathlib import Path

from leap.errors import LeapError
from leap.redaction import hide

LOCK = ".lock"  # see leap.records.locks
TEMPORARY = ".tmp"
DISK_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "a file may not be so large",
    errno.EIO: "writing failed",
}
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe (FIFO)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


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


def unfinished(path: Path, suffix: str = TEMPORARY) -> Path:
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
    hidden = shutil.ignore_patterns(LOCK, f".*{TEMPORARY}")
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


def file_digest(path: Path) -> bytes:
    """sha256 of a file's content, read once as long as the file stays what it is: models take seconds, and a sweep asks
    for the same images model after model."""
    found = path.stat()
    return _digest(path, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


@cache
def _digest(path: Path, *_file: int) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def read_text(path: Path) -> str:
    """A UTF-8 file's text, with or without a byte order mark."""
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LeapError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from error


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
