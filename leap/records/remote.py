"""Data at an address that fsspec knows (s3://, gs://, hf://, …), seen as files of a bounded local cache.

s3://bucket/images/1.png is the path LEAP_CACHE/s3/bucket/images/1.png, whether it has been fetched or not: paths stay
paths in everything above. What is opened with `open_file` and is not there comes then; `fetch` brings many at once.
A file appears whole under its name or not at all, and carries as its time of change the version that it has there, so
that one which changes there is fetched anew at the next start. Where all of them are over LEAP_CACHE_GB, those go whose
last use (their time of access, which is set here on every file system) is the longest ago.

fsspec's own caches would not do: simplecache takes what a kill left half-written for the file, filecache keeps what it
knows in one file that every process replaces, and neither has a bound.
"""

import hashlib
import math
import os
import re
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from functools import cache, lru_cache
from pathlib import Path
from typing import IO, Any

from rich.filesize import decimal

from leap.errors import LeapError, UsageError, first_line
from leap.progress import duration, is_main_process, show_bytes
from leap.records.files import DISK_FULL, naming, unfinished
from leap.records.locks import FolderLock

Status = tuple[int, int]  # of a file: size in bytes, time of change in nanoseconds; of a remote one its version
_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]*)://(.*)", re.DOTALL)
_VERSIONS = ("ETag", "etag", "md5Hash", "blob_id", "LastModified", "last_modified", "updated", "mtime", "created")
_GIGABYTES = 100.0  # of the cache, where LEAP_CACHE_GB does not say
_FULL = 0.9  # the share of it that stays when some must go, so that files are not looked through for each
_TOGETHER = 64  # files that are asked for at once
_FEW = 100  # that a dry run fetches
_FOLDERS = 16  # that are listed at once
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}  # extras of LEAP
# Roots of the modules whose errors say that a server was not reached, or refused.
_CLIENTS = ("aiobotocore", "botocore", "aiohttp", "gcsfs", "google", "httpx", "httpx2", "httpcore2", "requests",
            "huggingface_hub", "socket", "ssl")  # fmt: skip


def is_remote(text: str) -> bool:
    """Whether it is an address and no path: also file://, which `as_path` makes one."""
    return _ADDRESS.match(text) is not None


def as_path(text: str, root: Path = Path()) -> Path:
    """Where the file at an address is, or will be, in the cache; of a path that place, from `root`.

    Nothing is fetched. Raises LeapError for an address that names no file or folder.
    """
    match = _ADDRESS.match(text)
    if match is None:
        return root / text
    protocol, rest = match.groups()
    if protocol in ("file", "local"):
        return Path(rest)
    parts = rest.rstrip("/").split("/")
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise LeapError(f"{text}: no address of a file or folder; give one such as {protocol}://bucket/folder")
    return cache_folder().joinpath(protocol, *parts)


def is_cached(path: str | Path) -> bool:
    """Whether a path stands for a file at an address."""
    return str(path).startswith(f"{cache_folder()}/")


def address(path: str | Path) -> str:
    """What a path in the cache stands for; any other as it is."""
    if not is_cached(path):
        return str(path)
    protocol, _, rest = str(path)[len(str(cache_folder())) + 1 :].partition("/")
    return f"{protocol}://{rest}"


def cache_folder() -> Path:
    """LEAP_CACHE, or ~/.cache/leap."""
    return _resolved(os.environ.get("LEAP_CACHE") or "~/.cache/leap")


@lru_cache
def _resolved(text: str) -> Path:
    return Path(text).expanduser().resolve()


def cache_bytes() -> int:
    """What the cache may hold. Raises UsageError for a LEAP_CACHE_GB that is no number above 0."""
    given = os.environ.get("LEAP_CACHE_GB", str(_GIGABYTES))
    try:
        size = float(given)
    except ValueError:
        size = 0.0
    if not 0 < size < 1e9:
        raise UsageError(f"LEAP_CACHE_GB={given}: a number of gigabytes above 0 is needed; correct it, or unset it")
    return int(size * 1e9)


@contextmanager
def reaching(place: str) -> Iterator[None]:
    """What goes wrong with an address in one line: a library or rights that are missing, no such thing, no network."""
    protocol = _protocol(place)
    try:
        yield
    except (ImportError, ValueError) as error:
        if isinstance(error, ValueError) and "Protocol not known" not in str(error):
            raise
        extra = _EXTRAS.get(protocol)
        remedy = f'pip install -e ".[{extra}]"' if extra else "install what fsspec has it from"
        raise LeapError(f"{place}: {first_line(error)}; {remedy}") from error
    except Exception as error:
        if _is_of_this_disk(error) or not (isinstance(error, OSError) or _module(error) in _CLIENTS):
            raise
        raise LeapError(f"{place}: {_explained(error)}") from error


def _is_of_this_disk(error: Exception) -> bool:
    return isinstance(error, OSError) and (error.errno in DISK_FULL or is_cached(error.filename or ""))


def _module(error: Exception) -> str:
    return type(error).__module__.partition(".")[0]


def _explained(error: Exception) -> str:
    said = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, FileNotFoundError):
        return f"there is no such file, folder or bucket ({said})"
    if isinstance(error, PermissionError):
        return f"access is refused ({said}); are these the right credentials, and may they do this?"
    if "credential" in f"{type(error).__name__} {said}".lower():
        return f"there are no credentials ({said}); set them as that store's own tools have them"
    return f"it cannot be reached ({said}); is the network there, and the endpoint right?"


def _protocol(place: str) -> str:
    return place.partition("://")[0]


def _system(protocol: str) -> Any:
    """fsspec's file system, which it keeps for this process; credentials are found as its own tools find them."""
    import fsspec

    return fsspec.filesystem(protocol)


def system_of(path: Path) -> Any:
    return _system(_protocol(address(path)))


def status(path: Path) -> Status | None:
    """Of the file there, by a listing of its folder that is made once; None where there is none."""
    return _listing(address(path.parent)).get(path.name)


def list_folders(folders: Collection[Path]) -> None:
    """Ask for several listings at once, so that `status` has them."""
    with ThreadPoolExecutor(_FOLDERS) as pool:
        list(pool.map(_listing, map(address, folders)))


@cache
def _listing(folder: str) -> dict[str, Status]:
    """The files of a folder, by name."""
    try:
        with reaching(folder):
            found = _system(_protocol(folder)).ls(folder, detail=True)
    except LeapError as error:
        if isinstance(error.__cause__, FileNotFoundError):  # an image may be looked for in several folders
            return {}
        raise
    return {one["name"].rpartition("/")[2]: _status(one) for one in found if one["type"] == "file"}


def _status(info: Mapping[str, Any]) -> Status:
    """Seconds that stand for a version: every file system keeps those."""
    version = next((str(info[name]) for name in _VERSIONS if info.get(name)), "")
    seconds = int.from_bytes(hashlib.sha256(version.encode()).digest()[:4]) >> 1
    return int(info.get("size") or 0), seconds * 10**9


def kind(path: Path) -> str | None:
    """What is at an address: "file", "directory", or None. Raises LeapError where it cannot be reached."""
    place = address(path)
    try:
        with reaching(place):
            return str(system_of(path).info(place)["type"])
    except LeapError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise


def folders_in(path: Path) -> list[str]:
    """The names of the folders in a folder at an address. Raises LeapError where that is not there."""
    place = address(path)
    with reaching(place):
        found = system_of(path).ls(place, detail=True)
    return [one["name"].rstrip("/").rpartition("/")[2] for one in found if one["type"] == "directory"]


def is_there(path: Path) -> bool:
    """Whether a file is there, which then can be opened: one at an address is fetched for that."""
    return path.is_file() or (is_cached(path) and _fetch_one(path))


def open_file(path: Path) -> IO[bytes]:
    """A file to read from, fetched where it must be. Once open it stays readable, whatever leaves the cache."""
    if not is_cached(path):
        return path.open("rb")
    while True:
        with suppress(FileNotFoundError):
            file = path.open("rb")
            _note_use(path)
            return file
        if not _fetch_one(path):
            raise LeapError(f"{address(path)}: there is no such file")


def _note_use(path: Path) -> None:
    with suppress(OSError):  # it may just have gone; others' files are theirs to keep
        os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))


def _fetch_one(path: Path) -> bool:
    place = address(path)
    try:
        with reaching(place):
            info = system_of(path).info(place)
    except LeapError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return False
        raise
    if info["type"] != "file":
        return False
    fetch({path: _status(info)})
    return True


def lacking(wanted: Mapping[Path, Status]) -> dict[Path, Status]:
    """Those files that are not here as they are there. The others are noted as used."""
    missing = {}
    for path, there in wanted.items():
        if _local(path) == there:
            _note_use(path)
        else:
            missing[path] = there
    return missing


def _local(path: Path) -> Status | None:
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_size, found.st_mtime_ns


def fetch(wanted: Mapping[Path, Status], what: str | None = None) -> None:
    """Bring files in these versions, many at once; what is here already is not asked for. `what` is shown with bytes.

    Raises LeapError for one that does not come whole, or is larger than the cache may be.
    """
    missing = lacking(wanted)
    for path, (size, _) in missing.items():
        if size > cache_bytes() * _FULL:
            raise LeapError(f"{address(path)}: its {decimal(size)} are too much for the cache; raise LEAP_CACHE_GB")
    bringing = _Bringing(missing)
    with show_bytes(what, bringing.total, bringing.state) if what and missing else nullcontext():
        bringing.run()


class NotFetched(LeapError):
    """What a dry run would have to fetch, and does not: how much it is, and how long it takes."""


def announce(wanted: Mapping[Path, Status], go_on: bool) -> None:
    """Say how much is to be fetched before it is. Raises NotFetched where that is not to `go_on`, but for a few files.

    Of these it knows how fast they come: they are fetched, and stay.
    """
    missing = lacking(wanted)
    if not missing:
        return
    size, bound = sum(size for size, _ in missing.values()), cache_bytes()
    amount = f"{len(missing)} files of {address(next(iter(missing)).parent)} to fetch, {decimal(size)}"
    if size > bound * _FULL:
        amount += f", more than the cache holds ({decimal(bound)}, LEAP_CACHE_GB): some come again each epoch"
    if go_on or len(missing) <= _FEW:
        if is_main_process():
            print(amount, file=sys.stderr, flush=True)
        return
    first = dict(list(missing.items())[:_FEW])
    started = time.monotonic()
    fetch(first)
    rate = sum(size for size, _ in first.values()) / (time.monotonic() - started)
    raise NotFetched(
        f"{amount}: {duration(size / max(rate, 1))} at the {decimal(int(rate))}/s of the first {_FEW}. All are there; "
        f"they come once, at the first start, as they are checked. The whole plan of a few: --max_train_samples {_FEW}"
    )


class _Bringing:
    """Files on their way into the cache."""

    def __init__(self, missing: Mapping[Path, Status]) -> None:
        self.total = sum(size for size, _ in missing.values())
        self._missing, self._done = missing, 0
        self._parts: dict[Path, Path] = {}  # where each of those grows that are asked for just now

    def state(self) -> tuple[int, str]:
        """The bytes that are here; a note that is none."""
        return self._done + sum(found[0] for part in self._parts.copy().values() if (found := _local(part))), ""

    def run(self) -> None:
        by_system: dict[str, list[Path]] = {}
        for path in self._missing:
            by_system.setdefault(_protocol(address(path)), []).append(path)
        for protocol, files in by_system.items():
            for start in range(0, len(files), _TOGETHER):
                self._bring(_system(protocol), files[start : start + _TOGETHER])

    def _bring(self, system: Any, files: Sequence[Path]) -> None:
        for folder in {path.parent for path in files}:
            folder.mkdir(parents=True, exist_ok=True)
        self._parts = {path: unfinished(path) for path in files}
        before = self._done
        try:
            with naming(cache_folder()), reaching(address(files[0])):
                system.get([address(path) for path in files], [str(part) for part in self._parts.values()])
            for path, part in self._parts.items():
                self._finish(path, part)
        finally:
            for part in self._parts.values():
                part.unlink(missing_ok=True)
            self._parts = {}
            _make_room(self._done - before)

    def _finish(self, path: Path, part: Path) -> None:
        size, version = self._missing[path]
        if (came := part.stat().st_size) != size:
            raise LeapError(
                f"{address(path)}: {came} bytes came of {size}: it has just changed, or the connection broke; run the "
                "same command again"
            )
        os.utime(part, ns=(time.time_ns(), version))
        os.replace(part, path)
        self._done += size


def _make_room(added: int) -> None:
    """So many bytes have come: those used the longest ago go where it is too much. The count is all processes'."""
    folder, bound = cache_folder(), cache_bytes()
    count = folder / ".use" / "bytes"
    with FolderLock(count.parent, timeout=600):
        text = count.read_text() if count.is_file() else ""
        total = int(text) + added if text.isdigit() else bound + 1  # unknown: counted anew
        if total > bound:
            total = _remove_least_recent(folder, bound)
        new = unfinished(count)
        new.write_text(str(total))
        os.replace(new, count)  # not synced, which would take longer than an image does


def _remove_least_recent(folder: Path, bound: int) -> int:
    """What stays in the cache, in bytes. What a kill left unfinished is used by nobody, and goes in its turn."""
    found: list[tuple[int, int, str]] = []
    for system in folder.glob("[!.]*"):
        for place, _, names in os.walk(system):
            for path in (os.path.join(place, name) for name in names):
                with suppress(FileNotFoundError):
                    status = os.stat(path)
                    found.append((status.st_atime_ns, status.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found) if total > bound else ():
        if total <= bound * _FULL:
            break
        Path(path).unlink(missing_ok=True)
        total -= size
    return total


def fetch_data(path: Path, names: str = "*") -> None:
    """A file, or a folder with all files of such `names` below it, as they are there now; who wants the same meanwhile
    waits.

    A path that stands for no address is left alone. Raises LeapError where there is nothing, or more than the cache may
    hold.
    """
    if not is_cached(path):
        return
    place = address(path)
    with FolderLock(cache_folder() / ".fetching" / hashlib.sha256(place.encode()).hexdigest()[:16], timeout=math.inf):
        found = _files_at(path)
        for stray in path.rglob("[!.]*") if path.is_dir() else ():
            if stray.is_file() and stray not in found:
                stray.unlink()
        wanted = {file: there for file, there in found.items() if file.match(names)}
        size, bound = sum(size for size, _ in wanted.values()), cache_bytes()
        if size > bound * _FULL:
            raise LeapError(
                f"{place}: its {decimal(size)} are needed together, and the cache may hold {decimal(bound)}; raise "
                "LEAP_CACHE_GB, or copy it to a disk"
            )
        fetch(wanted, f"fetching {place}")


def _files_at(path: Path) -> dict[Path, Status]:
    """A file itself, or all below a folder; asked anew."""
    place, system = address(path), system_of(path)
    with reaching(place):
        system.invalidate_cache()
        info = system.info(place)
        if info["type"] == "file":
            return {path: _status(info)}
        start = len(system._strip_protocol(place)) + 1
        return {path / name[start:]: _status(one) for name, one in system.find(place, detail=True).items()}
