"""Work spread over processes, answered in order, with only a little of it in memory at a time."""

import ctypes
import errno
import multiprocessing.queues
import os
import re
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar

from leap.errors import LeapError
from leap.hardware import usable_cores

Task = TypeVar("Task")
Result = TypeVar("Result")
_AHEAD = 4  # tasks that each process may have waiting or answered
_ENOUGH = 8  # workers for one GPU: with four, a step of the 2B model never waited
_SEMAPHORES = 4  # and a few more that each worker of a data loader or pool needs
_DIED = re.compile(r"DataLoader worker \(pid.*\) (is killed by signal: (?P<signal>\w+)|exited unexpectedly)")

_work: Callable[[Any], Any]  # what this worker process does with a task


def end_with_parent(_: Any = None) -> None:
    """For a worker or a job to call as it starts: else it would go on for ever when its parent is killed."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


def default_loader_workers(on_gpu: bool, processes_here: int) -> int:
    """How many prepare batches for each of `processes_here` training processes: a model on the CPU needs all cores."""
    return min(_ENOUGH, max(1, usable_cores() // processes_here - 1)) if on_gpu else 0


def usable_workers(wanted: int) -> int:
    """`wanted`, or 0 where this system has no room for what they share; then a line says so.

    Python keeps its semaphores in /dev/shm, which may be full, or not there at all.
    """
    try:
        [multiprocessing.Semaphore() for _ in range(_SEMAPHORES * (wanted + 2) if wanted else 0)]
    except OSError as error:
        print(
            f"workers     none: /dev/shm has no room for their semaphores ({error.strerror}), so this process does "
            "all, slower; in a container, docker run --shm-size=1g helps",
            file=sys.stderr,
            flush=True,
        )
        return 0
    return wanted


def start_loader_worker(_: int) -> None:
    """For a PyTorch data loader's worker to call as it starts."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the parent ends its workers
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # in this thread and those that it starts
        threading.Thread(target=_wait_for_parents_signal, daemon=True).start()
    # A batch that cannot be handed over (memory ran out) would be lost, and the main process wait for it for ever.
    multiprocessing.queues.Queue._on_queue_feeder_error = _end_worker  # type: ignore[attr-defined]


def _wait_for_parents_signal() -> None:
    """End with a SIGTERM of the main process, and not with a batch system's, which reaches every process of a job.

    The main process saves a checkpoint then, and needs the batches of the step that it is in.
    """
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def _end_worker(_queue: Any, _error: Exception, _batch: Any) -> None:
    os._exit(1)


@contextmanager
def clear_worker_errors(flag: str) -> Iterator[None]:
    """Errors of a PyTorch data loader's workers, which it raises anew with a traceback within, become one line.

    `flag` sets how many workers there are. Raises LeapError for a worker's own one, for one that was killed or could
    not be started, and for what the system refused it. Other kinds are mistakes of a program, and stay as they are.
    """
    try:
        yield
    except (LeapError, OSError, MemoryError, RuntimeError) as error:
        # Its frames hold the loader and the error itself. Freed as such a cycle, queues of the loader close before it
        # can tell its workers to end, and whoever runs into that waits 5 s for each of them.
        traceback.clear_frames(error.__traceback__)
        text = str(error)
        if "Original Traceback" in text and not isinstance(error, RuntimeError):
            reason = re.split(rf"^[\w.]*{type(error).__name__}(?:: |$)", text, flags=re.MULTILINE)[-1].strip()
            if isinstance(error, LeapError):
                raise type(error)(reason) from error
            if isinstance(error, OSError):
                raise LeapError(f"a data loader worker cannot read its data: {reason}; look at that disk") from error
            message = "a data loader worker's memory ran out"
        elif died := _DIED.search(text):
            how = f"ended (signal: {died['signal']})" if died["signal"] else "ended"
            message = f"a data loader worker {how}; most likely memory ran out"
        elif isinstance(error, OSError) and error.errno in (errno.EAGAIN, errno.ENOMEM) and not error.filename:
            message = f"a data loader worker cannot be started: {error.strerror}"
        else:
            raise
        raise LeapError(f"{message}. Use fewer workers ({flag}; with 0 it is this process), or more memory") from error


def map_in_order(work: Callable[[Task], Result], tasks: Iterable[Task], processes: int) -> Iterator[Result]:
    """`map`, by as many processes; with one, in this process.

    `work` goes to a process once, however much it holds. Raises what `work` raises, and LeapError where the system
    kills a process.
    """
    if processes <= 1 or not usable_workers(processes):
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
