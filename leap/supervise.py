"""Run a command that must not outlive the process which asked for it, whatever end that process comes to.

    python -I supervise.py PARENT_PID COMMAND [ARGUMENTS ...]

The command runs in a process group of its own. When it ends, when this process is told to end, or when the parent is
gone (SIGKILL gives it no chance to clean up), the whole group is ended: SIGTERM first, SIGKILL after GRACE seconds.
Uses the standard library alone, so that it starts at once.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time

GRACE = 10.0  # seconds for an orderly end
_POLL = 0.1  # seconds
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def main() -> int:
    """The command's exit code, 128 + N where signal N ended it."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    told: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda received, _: told.append(received))
    _adopt_orphans()
    child = subprocess.Popen(command, process_group=0)
    while child.poll() is None and not told and os.getppid() == parent:
        time.sleep(_POLL)
    if child.poll() is None:
        _signal_group(child.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(GRACE)
    _signal_group(child.pid, signal.SIGKILL)  # what the command started and left behind, too
    code = child.wait()
    _wait_for_orphans()
    return code if code >= 0 else 128 - code


def _adopt_orphans() -> None:
    """Make this process the parent of grandchildren whose own parent ends: only so can it wait for their end."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _signal_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def _wait_for_orphans() -> None:
    """Until no descendant is left: a killed process holds its GPU memory for a moment longer."""
    deadline = time.monotonic() + GRACE
    with contextlib.suppress(ChildProcessError):
        while time.monotonic() < deadline:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(_POLL)


if __name__ == "__main__":
    sys.exit(main())
