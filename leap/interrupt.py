"""Imported first by every script: Ctrl-C before the work begins ends it in one line, with exit code 130.

Without this, an interrupt while modules are loaded is a traceback through them. Nothing has been begun by then, so that
there is nothing to put away. `leap.cli.run` brings KeyboardInterrupt back for the work itself.
"""

import os
import signal
from typing import Any

INTERRUPTED = 130


def _end_with_a_line(*_: Any) -> None:
    os.write(2, b"interrupted before anything was done\n")
    os._exit(INTERRUPTED)


def interrupts_raise() -> None:
    """From here on Ctrl-C is a KeyboardInterrupt again, unless another handler than this module's is in force."""
    if signal.getsignal(signal.SIGINT) is _end_with_a_line:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def interrupts_end() -> None:
    """From here on Ctrl-C ends the process at once: all is said, and only Python's own cleaning up is left."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))


if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else nohup's or another program's is in force
    signal.signal(signal.SIGINT, _end_with_a_line)
