"""Progress of long work: a live bar on a terminal, a line every ten seconds in a log file."""

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TypeVar

from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from leap.console import new_console
from leap.environment import rank

Item = TypeVar("Item")
_LINE_EVERY = 10.0  # seconds
_LOOK_EVERY = 0.5  # seconds, at work that is done elsewhere


def is_main_process() -> bool:
    """False in all but the first of several processes that torchrun started: they keep silent."""
    return rank() == 0


def track(items: Iterable[Item], what: str, total: int | None = None, for_all: bool = False) -> Iterator[Item]:
    """Yield the items and show how far the work is: in the main process, or where one works `for_all`."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    if not (for_all or is_main_process()):
        return iter(items)
    return _bar(items, what, total) if sys.stderr.isatty() else _lines(items, what, total)


def track_bytes(sizes: Iterable[int], what: str, total: int) -> Iterator[int]:
    """Yield numbers of bytes as they come, and show how many of all they are, how fast, and the time left."""
    if not sys.stderr.isatty():
        return _lines(sizes, what, total, int, _size)
    return _byte_bar(sizes, what, total)


def quiet_libraries() -> None:
    """Keep transformers' own bars out of log files, where each becomes a long line."""
    if not sys.stderr.isatty():
        from transformers.utils import logging

        logging.disable_progress_bar()


def _bar(items: Iterable[Item], what: str, total: int | None) -> Iterator[Item]:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=new_console(stderr=True)) as progress:
        yield from progress.track(items, total=total, description=what)


def _byte_bar(sizes: Iterable[int], what: str, total: int) -> Iterator[int]:
    with _byte_progress() as progress:
        task = progress.add_task(what, total=total, note="")
        for size in sizes:
            progress.advance(task, size)
            yield size


def _byte_progress() -> Progress:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    note = TextColumn("{task.fields[note]}", markup=False)
    return Progress(*columns, TimeRemainingColumn(), note, console=new_console(stderr=True))


def _lines(
    items: Iterable[Item],
    what: str,
    total: int | None,
    weight: Callable[[Item], int] = lambda _: 1,
    shown: Callable[[float], str] = lambda done: str(done) if isinstance(done, int) else f"{done:.1f}",
) -> Iterator[Item]:
    """`weight` is what an item counts for, `shown` a count or a rate in words."""
    started = last_line = time.monotonic()
    done = 0
    for item in items:
        yield item
        done += weight(item)
        now = time.monotonic()
        if now - last_line >= _LINE_EVERY:
            last_line = now
            print(f"{what}: {_state(done, total, now - started, shown)}", file=sys.stderr, flush=True)
    print(f"{what}: {shown(done)} done in {duration(time.monotonic() - started)}", file=sys.stderr, flush=True)


def _state(done: int, total: int | None, seconds: float, shown: Callable[[float], str]) -> str:
    rate = done / seconds
    if total is None:
        return f"{shown(done)}, {shown(rate)}/s"
    left = duration((total - done) / rate) if rate > 0 else "unknown time"
    return f"{shown(done)}/{shown(total)}, {shown(rate)}/s, {left} left"


def _size(of_bytes: float) -> str:
    return decimal(int(of_bytes))


@contextmanager
def show_bytes(what: str, total: int, state: Callable[[], tuple[int, str]]) -> Iterator[None]:
    """Show how far work is that goes on elsewhere meanwhile: `state` gives the bytes done, and a note beside them."""
    ended = threading.Event()
    show = _watch_bar if sys.stderr.isatty() else _watch_lines
    thread = threading.Thread(target=show, args=(what, total, state, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _watch_bar(what: str, total: int, state: Callable[[], tuple[int, str]], ended: threading.Event) -> None:
    with _byte_progress() as progress:
        task = progress.add_task(what, total=total, note="")
        going = True
        while going:
            going = not ended.wait(_LOOK_EVERY)
            done, note = state()
            progress.update(task, completed=done, note=note)


def _watch_lines(what: str, total: int, state: Callable[[], tuple[int, str]], ended: threading.Event) -> None:
    started = time.monotonic()
    while not ended.wait(_LINE_EVERY):
        done, note = state()
        shown = _state(done, total, time.monotonic() - started, _size)
        print(f"{what}: {shown}, {note}", file=sys.stderr, flush=True)


def rounded(value: float, decimals: int = 2) -> str:
    """A positive number with so many decimals, never as if it were 0: "< 0.01"."""
    least = 10.0**-decimals
    return f"< {least:.{decimals}f}" if 0 < value < least else f"{value:.{decimals}f}"


def duration(seconds: float) -> str:
    """Seconds as a person says them: 8.2 s, 3 min 5 s, 2 h 40 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
