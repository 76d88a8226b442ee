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
    return _shown(items, what, total) if for_all or is_main_process() else iter(items)


def track_bytes(sizes: Iterable[int], what: str, total: int) -> Iterator[int]:
    """Yield numbers of bytes as they come, and show how many of all they are, how fast, and the time left."""
    return _shown(sizes, what, total, int, in_bytes=True)


@contextmanager
def show_bytes(what: str, total: int, state: Callable[[], tuple[int, str]]) -> Iterator[None]:
    """Show how far work is that goes on elsewhere meanwhile: `state` gives the bytes done, and a note beside them."""
    ended = threading.Event()

    def watch() -> None:
        with display(what, total, in_bytes=True) as show:
            while not ended.wait(_LOOK_EVERY):
                show(*state())
            show(*state())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _shown(
    items: Iterable[Item],
    what: str,
    total: int | None,
    weight: Callable[[Item], int] = lambda _: 1,
    in_bytes: bool = False,
) -> Iterator[Item]:
    """`weight` is what an item counts for."""
    started, done = time.monotonic(), 0
    with display(what, total, in_bytes) as show:
        for item in items:
            yield item
            done += weight(item)
            show(done)
    if not sys.stderr.isatty():
        spent = duration(time.monotonic() - started)
        print(f"{what}: {_amount(done, in_bytes)} done in {spent}", file=sys.stderr, flush=True)


@contextmanager
def display(what: str, total: int | None, in_bytes: bool) -> Iterator[Callable[..., None]]:
    """What it gives is called with how much is done, and with a note beside it, as often as one likes."""
    if sys.stderr.isatty():
        amount = (DownloadColumn(), TransferSpeedColumn()) if in_bytes else (MofNCompleteColumn(), TimeElapsedColumn())
        texts = [TextColumn(text, markup=False) for text in ("{task.description}", "{task.fields[note]}")]
        columns = (texts[0], BarColumn(), *amount, TimeRemainingColumn(), texts[1])
        with Progress(*columns, console=new_console(stderr=True)) as bar:
            task = bar.add_task(what, total=total, note="")
            yield lambda done, note="": bar.update(task, completed=done, note=note)
        return
    started = last_line = time.monotonic()

    def show(done: int, note: str = "") -> None:
        nonlocal last_line
        if (now := time.monotonic()) - last_line >= _LINE_EVERY:
            last_line = now
            print(f"{what}: {_state(done, total, now - started, in_bytes)}{note and f', {note}'}", file=sys.stderr,
                  flush=True)  # fmt: skip

    yield show


def _state(done: int, total: int | None, seconds: float, in_bytes: bool) -> str:
    rate = done / seconds
    if total is None:
        return f"{_amount(done, in_bytes)}, {_amount(rate, in_bytes)}/s"
    left = duration((total - done) / rate) if rate > 0 else "unknown time"
    return f"{_amount(done, in_bytes)}/{_amount(total, in_bytes)}, {_amount(rate, in_bytes)}/s, {left} left"


def _amount(number: float, in_bytes: bool) -> str:
    """A count or a rate in words."""
    return decimal(int(number)) if in_bytes else str(number) if isinstance(number, int) else f"{number:.1f}"


def quiet_libraries() -> None:
    """Keep transformers' own bars out of log files, where each becomes a long line."""
    if not sys.stderr.isatty():
        from transformers.utils import logging

        logging.disable_progress_bar()


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
