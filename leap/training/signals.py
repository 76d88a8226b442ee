"""An orderly end: SIGTERM (Slurm's, when the time is up) and SIGINT end training after the step, with a checkpoint."""

import os
import signal
import sys
import threading
import time
from typing import Any

from leap.supervise import SAME_END


class Signals:
    """`received` is the number of the first signal since the `with` block began, or 0. A second SIGINT ends at once."""

    def __init__(self, main: bool) -> None:
        """`main`: this rank says that a signal came."""
        self.received, self._main, self._rank, self._at = 0, main, os.getpid(), 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():  # others cannot have handlers
            self._before = {signum: signal.signal(signum, self._handle) for signum in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _handle(self, signum: int, frame: Any) -> None:
        if os.getpid() != self._rank:  # a forked data loader's worker: a Ctrl-C reaches it too
            return
        now = time.monotonic()
        if self.received and signum == signal.SIGINT and now - self._at > SAME_END:
            raise KeyboardInterrupt
        if not self.received:
            self.received, self._at = signum, now
            if self._main:
                print(f"{signal.Signals(signum).name}: ends after this step with a checkpoint", file=sys.stderr)


def stop_message(signum: int, step: int) -> str:
    name = signal.Signals(signum).name
    return f"stopped by {name} after step {step}, which is saved; run the same command to go on"
