"""Work spread over processes, answered in order, with only a little of it in memory at a time."""

import ctypes
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from leap.errors import LeapError

Task = TypeVar("Task")
Result = TypeVar("Result")
_AHEAD = 4  # tasks that each process may have waiting or answered

_work: Callable[[Any], Any]  # what this worker process does with a task


def end_with_parent(_: Any = None) -> None:
    """For a worker or a job to call as it starts: else it would go on for ever when its parent is killed."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


def map_in_order(work: Callable[[Task], Result], tasks: Iterable[Task], processes: int) -> Iterator[Result]:
    """`map`, by as many processes; with one, in this process.

    `work` goes to a process once, however much it holds. Raises what `work` raises, and LeapError where the system
    kills a process.
    """
    if processes <= 1:
        yield from map(work, tasks)
        return
    pool = ProcessPoolExecutor(processes, initializer=_start, initargs=(work,))
    running: deque[Future[Result]] = deque()
    try:
        for task in tasks:
            running.append(pool.submit(_run, task))
            if len(running) >= processes * _AHEAD:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    except BrokenProcessPool as error:
        raise LeapError("the system killed a worker process; most likely memory ran out") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start(work: Callable[[Any], Any]) -> None:
    global _work
    _work = work
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the parent ends its workers
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads do not survive a fork


def _run(task: Any) -> Any:
    return _work(task)
