"""One job: a command in a process of its own, with a log, a PID file while it runs, and an end that leaves nothing."""

import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from leap import provenance
from leap.errors import LeapError
from leap.records.locks import is_alive
from leap.redaction import hide
from leap.supervise import descendants, end_all
from leap.workers import end_with_parent

_POLL = 0.1  # seconds between two looks at a running process
HEADER = "==== "  # opens each run in a log, which later runs append to


@dataclass(frozen=True)
class Job:
    """A command to run. `name` names its log and PID file; `environment` is set on top of the caller's.

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


@dataclass(frozen=True)
class StopRequest:
    """The user's request to stop, in a file: every process of a run sees it, and no signal can fall between two lines.

    The file's size counts the requests: the first ends jobs with SIGTERM and time to finish, the second with SIGKILL.
    """

    path: Path

    def ask(self) -> None:
        with self.path.open("ab") as file:
            file.write(b"!")

    def level(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

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


def pid_file(logs: Path, name: str) -> Path:
    return logs / f"{name}.pid"


def log_file(logs: Path, name: str) -> Path:
    return logs / f"{name}.log"


def run_job(job: Job, logs: Path, environment: Mapping[str, str], stop: StopRequest, grace: float) -> JobResult:
    """Run a job to its end, or until a stop is asked for; `environment` is the whole one.

    The process leads a session of its own, of which nothing is left in the end: SIGTERM, then SIGKILL after `grace` s.
    """
    started, log = time.monotonic(), log_file(logs, job.name)

    def result(state: Literal["done", "failed", "stopped"], reason: str | None = None) -> JobResult:
        return JobResult(job.name, state, time.monotonic() - started, log, reason)

    if stop.level():
        return result("stopped", "not started")
    if other := running_pid(pid_file(logs, job.name)):
        return result("failed", f"process {other} runs it already (remove {pid_file(logs, job.name)} if it does not)")
    try:
        process = _start(job, log, environment)
    except OSError as error:
        return result("failed", f"cannot start: {error.filename or log}: {error.strerror}")
    try:
        pid_file(logs, job.name).write_text(f"{process.pid}\n")
        stopped = _wait(process, stop)
    finally:
        _end(process, stop, grace)
        pid_file(logs, job.name).unlink(missing_ok=True)
    if stopped:
        return result("stopped", "interrupted")
    return result("failed", _exit_reason(process.returncode)) if process.returncode else result("done")


def _start(job: Job, log: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        output.write(hide(f"{HEADER}{provenance.now()} {shlex.join(job.command)}\n").encode())
        output.flush()
        return subprocess.Popen(
            job.command,
            env=dict(environment),
            cwd=job.folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=end_with_parent,  # a killed keeper's job would go on, and be in the way of the next run
        )


def running_pid(path: Path) -> int | None:
    """The PID in a PID file if such a process is alive; None for no file, or one that a crash left."""
    text = path.read_text(errors="replace").strip() if path.is_file() else ""
    if not re.fullmatch(r"[1-9][0-9]{0,8}", text):  # what else stands there is no process
        return None
    return int(text) if is_alive(int(text)) else None


def end_leftover(logs: Path, name: str) -> None:
    """End a job whose keeper died before it could."""
    if pid := running_pid(pid_file(logs, name)):
        _signal(pid, signal.SIGKILL)
    pid_file(logs, name).unlink(missing_ok=True)


def _wait(process: subprocess.Popen[bytes], stop: StopRequest) -> bool:
    """Wait for the end; True where a stop was asked for first."""
    while process.poll() is None:
        if stop.level():
            return True
        time.sleep(_POLL)
    return False


def _end(process: subprocess.Popen[bytes], stop: StopRequest, grace: float) -> None:
    left = descendants(process.pid)  # those that have left the group are lost when their parent ends
    if process.poll() is None:
        _signal(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + grace
        while process.poll() is None and time.monotonic() < deadline and stop.level() < 2:
            time.sleep(_POLL / 2)
    left += descendants(process.pid)
    _signal(process.pid, signal.SIGKILL)  # its own children too: loader workers, servers
    process.wait()
    end_all(left)


def _signal(group: int, number: int) -> None:
    with suppress(ProcessLookupError):  # all gone
        os.killpg(group, number)


def _exit_reason(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    return f"killed by signal {signal.Signals(-code).name}"
