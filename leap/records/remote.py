"""Data in a store of objects (s3://, gs://, hf://, by fsspec), seen as files of a bounded local cache.

s3://bucket/images/1.png is the path LEAP_CACHE/remote/s3/bucket/images/1.png, whether it has been fetched or not: paths
stay paths in everything above. What is opened with `open_file`, or asked for with `present`, and is not there comes
then; `fetch` brings many at once. A file appears whole under its name or not at all, and carries as its time of change
the version that it has there, so that one which changes there is fetched anew at the next start. Where all of them
would be over LEAP_CACHE_GB, those go first whose last use (their time of access, which is set here on every file
system) is the longest ago; folders stay, since they are what a benchmark is walked by.

fsspec's own caches would not do: simplecache takes what a kill left half-written for the file, filecache keeps what it
knows in one file that every process replaces, and neither has a bound.
"""

import hashlib
import math
import os
import re
import sys
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from functools import cache, lru_cache
from io import BufferedReader
from itertools import count
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from leap.backoff import backoff
from leap.errors import LeapError, UsageError, first_line
from leap.progress import duration, is_main_process, show_bytes
from leap.records.files import DISK_FULL, TEMPORARY, naming, unfinished
from leap.records.locks import FolderLock

Status = tuple[int, int]  # of a file: size in bytes, time of change in nanoseconds; of a remote one its version
_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]*)://(.*)", re.DOTALL)
# Stores whose addresses say all that there is to say: no host, port or user. Memory is a test's.
_STORES = ("s3", "gs", "hf", "memory")
_VERSIONS = ("ETag", "etag", "md5Hash", "blob_id", "created")
_MARKER = "CACHEDIR.TAG"  # of folders that backups leave out; source: https://bford.info/cachedir
_SIGNATURE = "Signature: 8a477f597d28d172789f06886806bc55\n# Files that LEAP has fetched, and removes.\n"
_GIGABYTES = 100.0  # of the cache, where LEAP_CACHE_GB does not say
_FULL = 0.9  # the share of it that stays when some must go, so that files are not looked through for each
_AHEAD = 64 << 20  # bytes that a process makes room for at a time: the lock on the count is all processes'
_GROWING = 3600.0  # seconds after its last byte for which a part may be another process's that goes on with it
_TOGETHER = 64  # files that are asked for at once
_TRIES, _PAUSE, _LONGEST_PAUSE = 4, 1.0, 30.0  # of a file whose connection breaks, seconds
_FEW = 100  # that a dry run fetches
_FOLDERS = 16  # that are listed at once
_EXTRAS = {"s3": "s3", "gs": "gs"}  # extras of LEAP
# Roots of the modules whose errors say that a server was not reached, or refused.
_CLIENTS = ("aiobotocore", "botocore", "aiohttp", "gcsfs", "google", "httpx", "httpx2", "httpcore2", "requests",
            "huggingface_hub", "socket", "ssl")  # fmt: skip


def is_remote(text: str) -> bool:
    """Whether it is an address and no path: also file://, which `as_path` makes one."""
    return _ADDRESS.match(text) is not None


def as_path(text: str, root: Path = Path()) -> Path:
    """Where the file at an address is, or will be, in the cache; of a path that place, from `root`.

    Nothing is fetched. Raises LeapError for an address that names no file or folder of a store that is known.
    """
    match = _ADDRESS.match(text)
    if match is None:
        return root / text
    protocol, rest = match.groups()
    if protocol == "file":
        return root / rest
    parts = rest.rstrip("/").split("/")
    if "@" in parts[0]:  # it would stand in reports and on screens
        raise LeapError(f"{protocol}://: an address may hold no user or password; set them as that store's tools do")
    if protocol not in _STORES:
        raise LeapError(f"{text.partition('?')[0]}: {protocol}:// is not read here; give s3://, gs://, hf:// or a path")
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise LeapError(f"{text}: no address of a file or folder; give one such as {protocol}://bucket/folder")
    return cache_folder().joinpath(protocol, *parts)


def is_cached(path: str | Path) -> bool:
    """Whether a path stands for a file at an address."""
    return str(path).startswith(f"{_resolved(_given())}/") and bool(cache_folder())


def address(path: str | Path) -> str:
    """What a path in the cache stands for; any other as it is. Raises LeapError for one that leads out of the cache."""
    if not is_cached(path):
        return str(path)
    protocol, _, rest = str(path)[len(str(cache_folder())) + 1 :].partition("/")
    if ".." in rest.split("/"):
        raise LeapError(f"{protocol}://{rest}: no .. may stand in an address; write the folder that is meant")
    return f"{protocol}://{rest}"


def cache_folder() -> Path:
    """LEAP_CACHE/remote, or ~/.cache/leap/remote.

    Raises LeapError where that is a folder of others: what lies in it is removed when its turn comes.
    """
    return _own(_given())


def _given() -> str:
    return os.environ.get("LEAP_CACHE") or "~/.cache/leap"


@lru_cache
def _resolved(text: str) -> Path:
    return Path(text).expanduser().resolve() / "remote"


@lru_cache
def _own(text: str) -> Path:
    folder = _resolved(text)
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return folder
    except NotADirectoryError:
        names = [""]
    if names and _MARKER not in names:
        raise LeapError(f"LEAP_CACHE={text}: {folder} holds files that are not LEAP's; name another folder")
    return folder


def _begin_cache() -> Path:
    """The marker comes first of all that lies in it."""
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / _MARKER).is_file():
        (folder / _MARKER).write_text(_SIGNATURE)
    return folder


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
def remote_errors(place: str, sent: Path | None = None) -> Iterator[None]:
    """What goes wrong with an address in one line: a library or rights that are missing, no such thing, no network.

    What goes wrong on this machine's disk stays as it is: with files of the cache, or of the folder that is `sent`.
    """
    try:
        yield
    except ImportError as error:
        extra = _EXTRAS.get(_protocol(place))
        remedy = f'pip install -e ".[{extra}]"' if extra else "install what fsspec has it from"
        raise LeapError(f"{place}: {first_line(error)}; {remedy}") from error
    except Exception as error:
        of_a_name = place.startswith("hf://") and isinstance(error, ValueError | NotImplementedError)
        if not (isinstance(error, OSError) or of_a_name or _module(error) in _CLIENTS) or _is_of_this_disk(error, sent):
            raise
        raise LeapError(f"{place}: {_explained(error)}") from error


def _is_of_this_disk(error: Exception, sent: Path | None) -> bool:
    if not isinstance(error, OSError):
        return False
    if sent:  # a copy names its source first, whichever of both was full
        return error.filename2 is None and str(error.filename).startswith(f"{sent}/")
    # A write names no file. s3fs has EIO, too, for what the store says, but in the store's words.
    full = error.filename is None and error.errno in DISK_FULL and error.strerror == os.strerror(error.errno or 0)
    return full or is_cached(error.filename or "")


def _module(error: Exception) -> str:
    return type(error).__module__.partition(".")[0]


def _explained(error: Exception) -> str:
    said = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, FileNotFoundError):
        return f"there is no such file, folder or bucket ({said})"
    if isinstance(error, ValueError | NotImplementedError) and not isinstance(error, OSError):
        return said
    if isinstance(error, PermissionError):
        return f"access is refused ({said}); are these the right credentials, and may they do this?"
    if _is_without_credentials(error):
        return f"there are no credentials ({said}); set them as that store's own tools have them"
    if isinstance(error, OSError) and error.strerror == os.strerror(error.errno or 0) and error.errno in DISK_FULL:
        return f"{DISK_FULL[error.errno]} there ({said})"
    return f"it cannot be reached ({said}); is the network there, and the endpoint right?"


def _is_without_credentials(error: BaseException) -> bool:
    return "credential" in f"{type(error).__name__} {error}".lower()


def _may_pass(error: BaseException | None) -> bool:
    """Whether what went wrong with a store may go well a moment later."""
    lasting = isinstance(error, FileNotFoundError | PermissionError | ImportError)
    return error is not None and not lasting and not _is_without_credentials(error)


def _protocol(place: str) -> str:
    return place.partition("://")[0]


def _system(protocol: str) -> Any:
    """fsspec's file system; credentials are found as its own tools find them.

    All threads of a process have one, so that credentials are looked for once; that of the hub is its thread's own.
    """
    return _system_of_process(protocol, os.getpid(), threading.get_ident() if protocol == "hf" else 0)


@lru_cache
def _system_of_process(protocol: str, process: int, thread: int) -> Any:
    import fsspec

    return fsspec.filesystem(protocol, use_listings_cache=False)  # a million names are kept once: see `_listing`


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
        with remote_errors(folder):
            found = _system(_protocol(folder)).ls(folder, detail=True)
    except LeapError as error:
        if isinstance(error.__cause__, FileNotFoundError):  # an image may be looked for in several folders
            return {}
        raise
    return {one["name"].rpartition("/")[2]: _status(one) for one in found if _is_file(one)}


def _is_file(info: Mapping[str, Any]) -> bool:
    """Consoles make an empty object whose name ends with a slash where somebody makes a folder."""
    return info["type"] == "file" and not info["name"].endswith("/")


def _status(info: Mapping[str, Any]) -> Status:
    """Seconds that stand for a version: every file system keeps those."""
    version = next((str(info[name]) for name in _VERSIONS if info.get(name)), None)
    if version is None:
        raise LeapError(f"{info['name']}: its store does not say which version it is; copy it to a disk")
    seconds = int.from_bytes(hashlib.sha256(version.encode()).digest()[:4]) >> 1
    return int(info.get("size") or 0), seconds * 10**9


def remote_type(path: Path) -> str | None:
    """What is at an address: "file", "directory", or None. Raises LeapError where it cannot be reached."""
    info = _info(path)
    return None if info is None else str(info["type"])


def _info(path: Path) -> dict[str, Any] | None:
    place = address(path)
    try:
        with remote_errors(place):
            return dict(system_of(path).info(place))
    except LeapError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise


def folders_in(path: Path) -> list[str]:
    """The names of the folders in a folder at an address. Raises LeapError where that is not there."""
    place = address(path)
    with remote_errors(place):
        found = system_of(path).ls(place, detail=True)
    return [one["name"].rstrip("/").rpartition("/")[2] for one in found if one["type"] == "directory"]


def is_there(path: Path) -> bool:
    """Whether a file is there, which then can be opened: one at an address by its folder's listing, not fetched."""
    if not is_cached(path):
        return path.is_file()
    folder = address(path.parent)  # first: it refuses what leads out of the cache
    return path.is_file() or path.name in _listing(folder)


def present(path: Path) -> Path:
    """The path, whose file is here now where there is one: one at an address is fetched, and goes last of all."""
    if is_cached(path) and not _note_use(path):
        _fetch_one(path)
    return path


def open_file(path: Path) -> BufferedReader:
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


def _note_use(path: Path) -> bool:
    """Whether the file is here."""
    try:
        os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:  # others' files are theirs to keep
        pass
    return True


def _fetch_one(path: Path) -> bool:
    info = _info(path)
    if info is None or not _is_file(info):
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


def drop_changed(wanted: Mapping[Path, Status]) -> None:
    """Remove what is here in another version, so that what opens it has the one that was listed."""
    for path in lacking(wanted):
        path.unlink(missing_ok=True)


def _local(path: Path) -> Status | None:
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_size, found.st_mtime_ns


def fetch(wanted: Mapping[Path, Status], what: str | None = None) -> None:
    """Bring files in these versions, many at once; what is here already is not asked for. `what` is shown with bytes.

    Raises LeapError for one that does not come whole, or is larger than the cache may be; others stay that came.
    """
    missing = lacking(wanted)
    for path, (size, _) in missing.items():
        if size > cache_bytes() * _FULL:
            raise LeapError(f"{address(path)}: its {decimal(size)} are too much for the cache; raise LEAP_CACHE_GB")
    if not missing:
        return
    download = _Download(missing)
    with show_bytes(what, download.total, download.state) if what else nullcontext():
        download.run()


def fetch_listed(files: Iterable[Path]) -> None:
    """Bring many at once that are to be read one by one, as their folders' listings have them; what stands for no
    address is left alone."""
    fetch({path: there for path in files if is_cached(path) and (there := status(path))})


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


class _Download:
    """Files on their way into the cache."""

    def __init__(self, missing: Mapping[Path, Status]) -> None:
        self.total = sum(size for size, _ in missing.values())
        self._missing, self._done = missing, 0
        self._parts: dict[Path, Path] = {}  # where each of those grows that are asked for just now

    def state(self) -> tuple[int, str]:
        """The bytes that are here; a note that is none."""
        return self._done + sum(found[0] for part in self._parts.copy().values() if (found := _local(part))), ""

    def run(self) -> None:
        _begin_cache()
        if len(self._missing) == 1:  # as in workers of a data loader
            self._bring(*self._missing)
            return
        with ThreadPoolExecutor(min(_TOGETHER, len(self._missing))) as pool:
            list(pool.map(self._bring, self._missing))

    def _bring(self, path: Path) -> None:
        for tries in count(1):
            try:
                with _room(os.getpid()).of(self._missing[path][0]):
                    self._bring_once(path)
                return
            except LeapError as error:
                if tries == _TRIES or not _may_pass(error.__cause__):
                    raise
                time.sleep(backoff(tries, _PAUSE, _LONGEST_PAUSE))

    def _bring_once(self, path: Path) -> None:
        place = address(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = self._parts[path] = unfinished(path)
        try:
            with naming(path), remote_errors(place):
                system_of(path).get_file(place, str(part))
            self._finish(path, part)
        finally:
            part.unlink(missing_ok=True)
            del self._parts[path]

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


@lru_cache
def _room(process: int) -> "_Room":
    """This process's own: a forked one has neither the room of its parent nor its lock."""
    return _Room()


class _Room:
    """Bytes of the cache that this process may fill."""

    def __init__(self) -> None:
        self._coming = self._ahead = 0  # bytes of files on their way; room that is not used yet
        self._changed = threading.Condition()

    @contextmanager
    def of(self, size: int) -> Iterator[None]:
        """Room for a file until it has come: those used the longest ago go where it would be too much."""
        with self._changed:
            self._changed.wait_for(lambda: not self._coming or self._coming + size <= cache_bytes() * _FULL)
            self._coming += size
            self._take(size)
        try:
            yield
        finally:
            with self._changed:
                self._coming -= size
                self._changed.notify_all()

    def _take(self, size: int) -> None:
        folder, bound = cache_folder(), cache_bytes()
        if size <= self._ahead:
            self._ahead -= size
            return
        taken = max(size - self._ahead, min(_AHEAD, bound // 100))
        note = folder / ".use" / "bytes"  # the count is all processes'
        with FolderLock(note.parent, timeout=600):
            text = note.read_text() if note.is_file() else ""
            total = int(text) + taken if text.isdigit() else bound + 1  # unknown: counted anew
            if total > bound:
                total = _remove_least_recent(folder, int(bound * _FULL) - self._coming)
                total += self._coming + taken - size
            new = unfinished(note)
            new.write_text(str(total))
            os.replace(new, note)  # not synced, which would take longer than an image does
        self._ahead += taken - size


def _remove_least_recent(folder: Path, kept: int) -> int:
    """The bytes that stay in the cache: at most `kept` where there are more.

    A part that a kill left is used by nobody, and goes in its turn; not one that may still grow.
    """
    found: list[tuple[int, int, str]] = []
    total, growing = 0, time.time() - _GROWING
    for system in folder.glob("[!.]*/"):
        for place, _, names in os.walk(system):
            for path in (os.path.join(place, name) for name in names):
                with suppress(FileNotFoundError):
                    status = os.stat(path)
                    total += status.st_size
                    # Its atime too: a part that has come has the mtime of the file there, before it is renamed.
                    if not path.endswith(TEMPORARY) or max(status.st_mtime, status.st_atime) < growing:
                        found.append((status.st_atime_ns, status.st_size, path))
    for _, size, path in sorted(found):
        if total <= kept:
            break
        Path(path).unlink(missing_ok=True)
        total -= size
    return total


def fetch_data(path: Path, names: str = "*") -> None:
    """A file, or a folder with all files of such `names` below it, as they are there now; who wants the same meanwhile
    waits. It is said how much comes.

    A path that stands for no address is left alone. Raises LeapError where there is nothing, or more than the cache may
    hold.
    """
    if not is_cached(path):
        return
    place, lock = address(path), hashlib.sha256(address(path).encode()).hexdigest()[:16]
    with FolderLock(_begin_cache() / ".fetching" / lock, timeout=math.inf):
        found = _files_at(path)
        _remove_strays(path, found)
        wanted = {file: there for file, there in found.items() if file.match(names)}
        size, bound = sum(size for size, _ in wanted.values()), cache_bytes()
        if size > bound * _FULL:
            raise LeapError(
                f"{place}: its {decimal(size)} are needed together, and the cache may hold {decimal(bound)}; raise "
                "LEAP_CACHE_GB, or copy it to a disk"
            )
        if missing := lacking(wanted):
            fetch(missing, f"fetching {place} ({decimal(sum(size for size, _ in missing.values()))})")


def _files_at(path: Path) -> dict[Path, Status]:
    """A file itself, or all below a folder; asked anew."""
    place, system = address(path), system_of(path)
    with remote_errors(place):
        system.invalidate_cache()
        info = system.info(place)
        if info["type"] == "file":
            return {path: _status(info)}
        start = len(system._strip_protocol(place)) + 1
        found = [one for one in system.find(place, detail=True).values() if _is_file(one)]
    return {as_path(f"{place}/{one['name'][start:]}"): _status(one) for one in found}


def _remove_strays(path: Path, found: Collection[Path]) -> None:
    """What is not there any more goes here, folders too: by them an example would still be one."""
    folders = {folder for file in found for folder in file.parents}
    for place, _, names in os.walk(path, topdown=False):
        for name in names:
            if Path(place, name) not in found and not name.endswith(TEMPORARY):
                Path(place, name).unlink(missing_ok=True)
        if Path(place) not in folders:
            with suppress(OSError):  # a part is in it
                os.rmdir(place)
