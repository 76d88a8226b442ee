"""Run a command that must not outlive the process which asked for it, whatever end that process comes to.

    python -I supervise.py PARENT_PID GRACE COMMAND [ARGUMENTS ...]

The command runs in a process group of its own. When it ends, when a signal ends this process, or when the parent is
gone (SIGKILL gives it no chance to clean up), the whole group is ended, and on Linux every descendant that has left the
group: SIGTERM first, SIGKILL after GRACE seconds or at a second signal that comes SAME_END later or more. Uses the
standard library alone, so that it starts at once.

What the parent starts is only a stand-in for the supervisor, its child: a worker of Ray's kills its own children before
it ends, and a supervisor killed so would leave the command behind.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from typing import Any

GRACE = 10.0  # seconds for an orderly end, where nobody says how many
SAME_END = 2.0  # seconds: Slurm, Ray and a terminal signal all processes of a job, and each passes its signal on
_POLL = 0.1  # seconds
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def start(command: list[str], grace: float = GRACE, **options: Any) -> "subprocess.Popen[bytes]":
    """Start a command so, with Popen's options; Ctrl-C is this process's to pass on, by `terminate`."""
    words = [sys.executable, "-I", __file__, str(os.getpid()), str(grace), *command]
    return subprocess.Popen(words, start_new_session=True, **options)


def main() -> int:
    """The command's exit code, 128 + N where signal N ended it; 127 where it cannot be started."""
    parent, grace, command = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]
    stand_in = os.getpid()
    if supervisor := os.fork():
        return _stand_in(parent, supervisor)
    os.setsid()  # what is sent to the parent's group ends the stand-in, and that is noticed
    return _supervise(stand_in, grace, command)


def _stand_in(parent: int, supervisor: int) -> int:
    """Pass on signals and, in the end, the exit code; end with the parent."""
    signums = _signals()
    while (ended := os.waitpid(supervisor, os.WNOHANG)) == (0, 0) and os.getppid() == parent:
        while signums:
            os.kill(supervisor, signums.pop(0))
        time.sleep(_POLL)
    code = os.waitstatus_to_exitcode(ended[1])
    return code if code >= 0 else 128 - code


def _signals() -> list[int]:
    """To which those that ask for an end are added as they come."""
    signums: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda signum, _: signums.append(signum))
    return signums


def _supervise(parent: int, grace: float, command: list[str]) -> int:
    signums = _signals()
    _adopt_orphans()
    try:
        child = subprocess.Popen(command, process_group=0)
    except OSError as error:
        print(f"cannot start {command[0]}: {error.strerror}", file=sys.stderr)
        return 127
    while child.poll() is None and not signums and os.getppid() == parent:
        time.sleep(_POLL)
    if child.poll() is None:
        _signal_all(child.pid, signal.SIGTERM)
        asked = time.monotonic()
        while child.poll() is None and (passed := time.monotonic() - asked) < grace:
            if passed < SAME_END:
                signums.clear()
            elif signums:
                break
            time.sleep(_POLL)
    _signal_all(child.pid, signal.SIGKILL)  # what the command started and left behind, too
    code = child.wait()
    _end_orphans()
    return code if code >= 0 else 128 - code


def exit_reason(code: int) -> str:
    """What the exit code of a supervised command says."""
    with contextlib.suppress(ValueError):  # what is no signal's is a program's own
        return f"killed by signal {signal.Signals(abs(code) if code < 0 else code - 128).name}"
    return f"exit code {code}"


def _adopt_orphans() -> None:
    """Make this process the parent of grandchildren whose own parent ends: only so are they found, and waited for."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _signal_all(group: int, number: int) -> None:
    """The group, and the descendants that are not in it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)
    for process in descendants(os.getpid()):
        send(process, number, but_group=group)


def _end_orphans() -> None:
    """Until no descendant is left: each has children that become ours, and holds its GPU memory for a moment longer."""
    deadline = time.monotonic() + GRACE
    with contextlib.suppress(ChildProcessError):
        while time.monotonic() < deadline:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                for process in descendants(os.getpid()):
                    send(process, signal.SIGKILL)
                time.sleep(_POLL)


def descendants(ancestor: int) -> list[tuple[int, str]]:
    """(id, time of start) of every process below this one, as /proc lists them; none where there is no /proc."""
    children: dict[int, list[tuple[int, str]]] = {}
    for entry in os.listdir("/proc") if os.path.isdir("/proc/self") else ():
        if entry.isdecimal() and (found := _status(int(entry))):
            parent, started, _ = found
            children.setdefault(parent, []).append((int(entry), started))
    below, found_all = [ancestor], []
    while below:
        for process in children.get(below.pop(), ()):
            found_all.append(process)
            below.append(process[0])
    return found_all


def _status(process: int) -> tuple[int, str, bool] | None:
    """(parent, time of start, whether it runs and is not only waited for by its parent); None for one that is gone."""
    try:
        with open(f"/proc/{process}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[1]), fields[19], fields[0] not in "ZX"


def send(process: tuple[int, str], number: int, but_group: int | None = None) -> None:
    """Signal a process of `descendants`, if it is still that one and not another with its id."""
    identity, started = process
    with contextlib.suppress(ProcessLookupError, PermissionError):
        found = _status(identity)
        if found and found[1] == started and os.getpgid(identity) != but_group:
            os.kill(identity, number)


if __name__ == "__main__":
    sys.exit(main())
