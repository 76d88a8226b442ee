"""One job: a command in a process of its own, with a log, and an end that leaves nothing."""

import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from leap import provenance
from leap.environment import LOCK_WAIT
from leap.errors import LeapError
from leap.redaction import hide
from leap.supervise import GRACE, exit_reason, start

_POLL = 0.1  # seconds between two looks at a running process
_AGAIN = 1.0  # seconds between two signals after a second request: for SAME_END they are taken for the first one
HEADER = "==== "  # opens each run in a log, which later runs append to


@dataclass(frozen=True)
class Job:
    """A command to run. `name` names its log; `environment` is set on top of the caller's.

    It runs in `folder`, or in the caller's.
    """

    name: str
    command: list[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\w[\w.+-]*", self.name):
            raise LeapError(f"job name {self.name!r}: use letters, digits, '.', '+', '-' and '_'; it names the log")


@dataclass(frozen=True)
class JobResult:
    """What became of a job. `reason` says why it failed or was stopped; `seconds` is wall time."""

    name: str
    state: Literal["done", "failed", "stopped"]
    seconds: float
    log: Path
    reason: str | None = None


@dataclass
class StopRequest:
    """The user's request to stop, which is looked at between two steps: no signal can fall between two lines.

    `level` counts the requests: the first ends jobs with SIGTERM and time to finish, the second with SIGKILL.
    """

    level: int = 0

    def ask(self) -> None:
        self.level += 1

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Ctrl-C, SIGTERM and a closed terminal become a request to stop; nohup's ignored SIGHUP stays ignored."""
        kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        taken = {number: old for number, old in kept.items() if old is not signal.SIG_IGN}
        for number in taken:
            signal.signal(number, lambda *_: self.ask())
        try:
            yield
        finally:
            for number, old in taken.items():
                signal.signal(number, old)


def log_file(logs: Path, name: str) -> Path:
    return logs / f"{name}.log"


def run_job(job: Job, logs: Path, environment: Mapping[str, str], stop: StopRequest, grace: float) -> JobResult:
    """Run a job to its end, or until a stop is asked for or it is interrupted; `environment` is on top of ours.

    It has a supervisor, which leaves nothing of it in the end, whatever becomes of this process: SIGTERM, then SIGKILL
    after `grace` s.
    """
    started, log = time.monotonic(), log_file(logs, job.name)

    def result(state: Literal["done", "failed", "stopped"], reason: str | None = None) -> JobResult:
        return JobResult(job.name, state, time.monotonic() - started, log, reason)

    if stop.level:
        return result("stopped", "not started")
    try:
        given = {"PYTHONUNBUFFERED": "1", **os.environ, **after_predecessor(grace), **environment, **job.environment}
        process = _start(job, log, given, grace)
    except OSError as error:
        return result("failed", f"cannot start: {error.filename or log}: {error.strerror}")
    if was_stopped(process, stop):
        return result("stopped", "interrupted")
    return result("failed", exit_reason(process.returncode)) if process.returncode else result("done")


def was_stopped(process: subprocess.Popen[bytes], stop: StopRequest) -> bool:
    """Wait for the end of what is supervised, and whether a request to stop, or an interrupt, brought it about."""
    sent, again = 0, 0.0
    try:
        while process.poll() is None:
            if stop.level > min(sent, 1) and time.monotonic() >= again:
                process.terminate()
                sent, again = sent + 1, time.monotonic() + _AGAIN
            time.sleep(_POLL)
    except KeyboardInterrupt:  # Ray's way to cancel
        sent += 1
    finally:
        process.terminate()
        process.wait()
    return sent > 0


def after_predecessor(grace: float) -> dict[str, str]:
    """The environment of what may be started while an earlier start of it, which has `grace` s, has not ended yet."""
    return {LOCK_WAIT: str(round(grace + GRACE))}


def _start(job: Job, log: Path, environment: Mapping[str, str], grace: float) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        output.write(hide(f"{HEADER}{provenance.now()} {shlex.join(job.command)}\n").encode())
        output.flush()
        return start(
            job.command,
            grace,
            env=environment,
            cwd=job.folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
