"""LOVE-Agibot's archives of frames, `task_<id>.tar.gz`, turned into one image an episode by several processes."""

import ctypes
import re
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import sharedctypes
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from leap.errors import LeapError, Stopped
from leap.hub.notes import hub_sha256
from leap.preparation.agibot.archives import DOWNLOAD_AGAIN, ArchiveError, GzipStream
from leap.preparation.agibot.first_frames import FirstFrames
from leap.preparation.agibot.frame_store import STATE_FOLDER, FrameStore, ImageStore
from leap.progress import show_bytes
from leap.records.files import check_folder, is_file
from leap.records.litter import listed
from leap.records.locks import FolderLock
from leap.terminal import first_few
from leap.workers import map_in_order

_NAME = re.compile(r"task_([0-9]{1,20})\.tar\.gz")
_BROKEN_SHOWN = 3  # episodes of an archive that are named


class Reader(Protocol):
    """Goes through an archive, handing what it takes to a store; its length counts what was found so far."""

    def take_all(self, stream: GzipStream) -> None: ...

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class Archive:
    """A task's archive. `size` in bytes."""

    task: str
    path: Path
    size: int

    lost: ClassVar = "episodes without an image", "episode"  # how failed parts are called, several and one

    def store(self, images: Path) -> ImageStore:
        """Where its images go."""
        return FrameStore(images, self.task)

    def reader(self, store: ImageStore) -> Reader:
        return FirstFrames(self.task, store.settle)


@dataclass
class Outcome:
    """What became of an archive. `seconds` is wall time; `problem` says why it failed, or episodes of it."""

    archive: Archive
    state: Literal["done", "unchanged", "to do", "failed", "stopped"]
    episodes: int = 0
    made: int = 0  # images that were decoded and written, not kept from before
    seconds: float = 0.0
    problem: str | None = None


class StopReading(Exception):
    """The user wants to stop; what is staged stays."""


@dataclass
class Watch:
    """What parent and workers exchange, in shared memory: a counter per archive has one writer."""

    archives: int
    counted: str = "episodes"
    read: Any = field(init=False)  # bytes read of each archive
    episodes: Any = field(init=False)
    signal: Any = field(init=False)  # that asks for the end

    def __post_init__(self) -> None:
        self.read = sharedctypes.RawArray(ctypes.c_int64, self.archives)
        self.episodes = sharedctypes.RawArray(ctypes.c_int64, self.archives)
        self.signal = sharedctypes.RawValue(ctypes.c_int, 0)

    def state(self) -> tuple[int, str]:
        """(bytes read, how many episodes were seen)."""
        return sum(self.read), f"{sum(self.episodes):,} {self.counted}"

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM become a request to stop, which workers see between reads; a second one ends at once."""
        before: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def request(number: int, _: Any) -> None:
            self.signal.value = number
            signal.signal(number, before[number])

        for number in before:
            signal.signal(number, request)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def find_archives(folder: Path, tasks: Sequence[str] | None = None) -> list[Archive]:
    """The archives in a folder, or those of the tasks. LeapError where there is none, or one of them is missing."""
    found = {}
    for path in listed(folder, "task_*.tar.gz"):
        if not is_file(path):  # which raises for a pipe: that would be waited for
            raise LeapError(f"{path}: a link to nothing; remove it")
        name = _NAME.fullmatch(path.name)
        if not name:
            raise LeapError(f"{path}: the name must be task_<number>.tar.gz; rename it, or move it away")
        found[name[1]] = Archive(name[1], path, path.stat().st_size)
    if not found:
        raise LeapError(
            f"{folder}: no task_<number>.tar.gz here; download them "
            "(scripts/download/download_leap_data.py --love_agibot --tasks all), or name their folder with --archives"
        )
    if missing := [task for task in tasks or () if task not in found]:
        raise LeapError(f"{folder}: no archive of task {', '.join(missing)}; download it, or leave it out of --tasks")
    return sorted((found[task] for task in set(tasks or found)), key=lambda archive: int(archive.task))


def survey(archives: Sequence[Archive], images: Path) -> list[Outcome]:
    """What there is to do, without doing it. Raises LeapError where no folder of images can be."""
    check_folder(images)
    outcomes = []
    for archive in archives:
        store = archive.store(images)
        if store.is_done(archive.path, hub_sha256(archive.path)):
            assert store.record is not None
            outcomes.append(Outcome(archive, "unchanged", episodes=len(store.record.images)))
        else:
            outcomes.append(Outcome(archive, "to do", problem="begun before" if store.begun else None))
    return outcomes


def prepare(
    archives: Sequence[Archive],
    images: Path,
    processes: int,
    outcomes: list[Outcome],
    what: tuple[str, str] = ("first frames", "episodes"),
) -> None:
    """Write the first frame of every episode, `<images>/<task>-<episode>.png`; `outcomes` grows by what became of each.

    `what` names the work on the screen, and what is counted. One archive's failure does not stop the others. Raises
    Stopped and KeyboardInterrupt after SIGTERM and Ctrl-C; the same call goes on from there.
    """
    images.mkdir(parents=True, exist_ok=True)
    with FolderLock(images / STATE_FOLDER):
        for archive in archives:
            archive.store(images).go_on()
        outcomes += [found for found in survey(archives, images) if found.state == "unchanged"]
        for found in outcomes:
            found.archive.store(images).discard()
        done = {found.archive.task for found in outcomes}
        waiting = sorted((a for a in archives if a.task not in done), key=lambda archive: -archive.size)
        watch = Watch(len(waiting), what[1])
        with watch.on_signals(), show_bytes(what[0], sum(a.size for a in waiting), watch.state):
            work = _Work(images, watch)
            outcomes += map_in_order(work, enumerate(waiting), min(processes, len(waiting)))
    if watch.signal.value == signal.SIGINT:
        raise KeyboardInterrupt
    if watch.signal.value:
        raise Stopped("ended by SIGTERM; the same command continues from here", watch.signal.value)


@dataclass(frozen=True)
class _Work:
    """What a process does with an archive."""

    images: Path
    watch: Watch

    def __call__(self, task: tuple[int, Archive]) -> Outcome:
        place, archive = task
        started, store = time.monotonic(), archive.store(self.images)
        outcome = Outcome(archive, "stopped")
        try:
            self._read(place, archive, store, outcome)
        except StopReading:
            pass
        except ArchiveError as error:
            store.discard()
            store.made.clear()
            outcome.state, outcome.problem = "failed", str(error)
        except LeapError as error:
            outcome.state, outcome.problem = "failed", str(error)
        except OSError as error:  # a full disk, a drive that is gone: another archive may be on a better one
            outcome.state, outcome.problem = "failed", f"{error.filename or archive.path}: {error.strerror or error}"
        outcome.made, outcome.seconds = len(store.made), time.monotonic() - started
        return outcome

    def _read(self, place: int, archive: Archive, store: ImageStore, outcome: Outcome) -> None:
        frames = archive.reader(store)

        def on_read(size: int) -> None:
            self.watch.read[place] += size
            self.watch.episodes[place] = len(frames)
            if self.watch.signal.value:
                raise StopReading

        on_read(0)
        expected, status = hub_sha256(archive.path), archive.path.stat()
        with GzipStream(archive.path, on_read) as stream:
            frames.take_all(stream)
        if expected not in (None, stream.sha256):
            raise ArchiveError(
                f"{archive.path}: its SHA-256 is {stream.sha256}, and the hub's is {expected}; {DOWNLOAD_AGAIN}"
            )
        record = store.finish(archive.path, status, stream.sha256, expected is not None)
        outcome.state, outcome.episodes = "done", len(record.images)
        if record.problems:
            outcome.state, outcome.problem = "failed", _problem(archive, record.problems)


def _problem(archive: Archive, problems: dict[str, str]) -> str:
    several, one = archive.lost
    some = first_few([f"{one} {name}, {why}" for name, why in problems.items()], _BROKEN_SHOWN, "; ")
    return f"{archive.path}: {len(problems)} {several} ({some}); the others are in place"
