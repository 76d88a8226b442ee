"""Files of a hub fetched by several threads: patiently, on from where a file was cut, and named when they are right."""

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TypeVar

from leap.backoff import LONGEST_PAUSE, backoff
from leap.errors import LeapError
from leap.hub.client import Hub
from leap.hub.file_listing import HubFile, Snapshot
from leap.hub.hub_errors import RetryableError
from leap.hub.notes import note_origin
from leap.records.files import naming

Answer = TypeVar("Answer")
_WHOLE_TRIES = 2  # one wrong hash may be an accident on the way
_FIRST_SLEEP = 1.0  # seconds, after a lost connection or a server's error
_SHOWN_FROM = 2.0  # seconds of waiting that are worth a line on the screen
_GOODBYE = 2.0  # seconds that the threads have to end in


@dataclass(frozen=True)
class RetryPolicy:
    """How a hub is asked. `initial_sleep` holds for 429 without Retry-After; it doubles up to `max_sleep` (seconds)."""

    max_workers: int = 2
    initial_sleep: float = 60.0
    max_sleep: float = 600.0
    max_tries: int = 8  # in a row, without a new byte


class _Ended(Exception):
    """The work is over, and this thread should end."""


class Retries:
    """When the hub may be asked again: the same for all threads."""

    def __init__(self, policy: RetryPolicy, log: Callable[[str], None]) -> None:
        self.policy, self._log = policy, log
        self._open_at = 0.0  # on time.monotonic()'s clock
        self._ended = threading.Event()

    def end(self) -> None:
        """Threads that wait, or check, end."""
        self._ended.set()

    def wait(self) -> None:
        """Until the hub may be asked."""
        while (seconds := self._open_at - time.monotonic()) > 0 and not self._ended.is_set():
            self._ended.wait(seconds)
        self.check()

    def check(self) -> None:
        """Whether there is anything left to do."""
        if self._ended.is_set():
            raise _Ended

    def persist(self, ask: Callable[[], Answer]) -> Answer:
        """The answer, after as many tries as the policy allows."""
        for tries in count(1):
            self.wait()
            try:
                return ask()
            except RetryableError as failure:
                self.failed(failure, tries)
        raise AssertionError

    def failed(self, failure: RetryableError, tries: int) -> None:
        """Nobody asks for a while after a failure, the `tries`-th in a row. Raises LeapError where it is the last."""
        if tries >= self.policy.max_tries:
            raise LeapError(f"{failure}, {tries} times in a row; the same command goes on from here later") from failure
        if failure.asked > LONGEST_PAUSE:
            raise LeapError(
                f"{failure}: it wants {failure.asked:.0f} s of patience; the same command goes on from here later"
            ) from failure
        first = self.policy.initial_sleep if failure.limited else min(_FIRST_SLEEP, self.policy.initial_sleep)
        seconds = max(failure.asked, backoff(tries, first, self.policy.max_sleep))
        self._open_at = max(self._open_at, time.monotonic() + seconds)
        if seconds >= _SHOWN_FROM or failure.notify:
            self._log(f"{failure}; waiting {seconds:.0f} s (try {tries} of {self.policy.max_tries})")


class Fetch:
    """Files of one snapshot, into `folder`; unfinished ones lie in the folder `parts`."""

    def __init__(self, hub: Hub, snapshot: Snapshot, folder: Path, parts: Path, retries: Retries) -> None:
        self._hub, self._snapshot, self._retries = hub, snapshot, retries
        self._folder, self._parts = folder, parts
        self._waiting, self._events = SimpleQueue[HubFile](), SimpleQueue[int | Exception | None]()
        self.wrong: list[str] = []  # paths of files that came with a wrong hash twice

    def part(self, file: HubFile) -> Path:
        """Where the file grows."""
        place = hashlib.sha256(file.path.encode()).hexdigest()
        return self._parts / f"{place[:16]}-{(file.sha256 or file.blob)[:16]}.part"

    def left(self, file: HubFile) -> int:
        """Bytes of the file that are still to come."""
        with suppress(FileNotFoundError):
            return file.size - self.part(file).stat().st_size
        return file.size

    def run(self, files: Sequence[HubFile]) -> Iterator[int]:
        """Fetch them all; yields numbers of bytes as they come, negative ones for what came in vain.

        Closing the iterator, or an interruption, ends the threads. Raises LeapError where the hub gives nothing.
        """
        for file in files:
            self._waiting.put(file)
        workers = min(self._retries.policy.max_workers, len(files))
        threads = [threading.Thread(target=self._work, daemon=True) for _ in range(workers)]
        for thread in threads:
            thread.start()
        try:
            while workers:
                event = self._events.get()
                if isinstance(event, Exception):
                    raise event
                if event is None:
                    workers -= 1
                else:
                    yield event
        finally:
            self._retries.end()
            for thread in threads:  # daemons: one that hangs in the network does not keep us
                thread.join(_GOODBYE)

    def _work(self) -> None:
        try:
            with suppress(Empty, _Ended), naming(self._folder):
                while True:
                    self._fetch(self._waiting.get_nowait())
        except Exception as error:  # noqa: BLE001  whatever it is, `run` raises it
            self._events.put(error)
        self._events.put(None)

    def _fetch(self, file: HubFile) -> None:
        part, place = self.part(file), self._folder / file.path
        for _ in range(_WHOLE_TRIES):
            self._complete(file, part)
            if file.is_at(part):
                place.parent.mkdir(parents=True, exist_ok=True)
                os.replace(part, place)
                note_origin(self._folder, self._snapshot.commit, file)
                return
            self._events.put(-part.stat().st_size)
            part.unlink()
        self.wrong.append(file.path)

    def _complete(self, file: HubFile, part: Path) -> None:
        tries = 0
        part.touch()
        while (start := part.stat().st_size) < file.size:
            self._retries.wait()
            try:
                self._append(file, part, start)
            except RetryableError as failure:
                tries = 1 if part.stat().st_size > start else tries + 1
                self._retries.failed(failure, tries)

    def _append(self, file: HubFile, part: Path, start: int) -> None:
        """Add to the part what one request brings."""
        left = file.size - start
        with part.open("ab") as end, closing(self._hub.content(self._snapshot, file, start)) as content:
            for piece in content:
                self._retries.check()
                left -= (written := end.write(piece[:left]))
                end.flush()  # a kill loses none of it
                self._events.put(written)
                if left == 0:
                    return
        raise RetryableError(f"{file.path}: the hub's answer ended {left} bytes too early")
