"""What every script shares: exit codes, errors told in one line, and how numbers on a command line are read."""

import argparse
import logging
import os
import sys
from collections.abc import Callable

from leap.errors import LeapError, Stopped, UsageError
from leap.terminal import guard, in_one_line

DONE, FAILED, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130


def _told(error: LeapError) -> str:
    """The error's own line, also where PyTorch raised it anew with a data loader worker's traceback around it."""
    text = str(error)
    return text.rpartition(f"{type(error).__name__}: ")[2].strip() if "Original Traceback" in text else text


def run(main: Callable[[], int | None]) -> None:
    """Call `main` and exit: 0 done, 1 failed, 2 wrong usage, 130 interrupted, 143 ended in good order by SIGTERM.

    A LeapError is the user's to mend, so its text is enough; any other exception keeps its traceback.
    """
    # Where it is installed, it says at every start, of a GPU machine too, which kernels for CPUs it could have.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    guard()
    try:
        code = main() or DONE
    except LeapError as error:
        print(f"error: {in_one_line(_told(error))}", file=sys.stderr)
        code = WRONG_USAGE if isinstance(error, UsageError) else FAILED
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        code = 128 + stopped.signal
    except KeyboardInterrupt:
        again = "the same command without --fresh" if "--fresh" in sys.argv else "the same command"
        print(f"interrupted; {again} continues from here", file=sys.stderr)
        code = INTERRUPTED
    except BrokenPipeError:  # the reader of our output (head, say) has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = DONE
    except OSError as error:  # a full disk, a folder that may not be written
        print(in_one_line(f"error: {error.filename or 'a file'}: {error.strerror or error}"), file=sys.stderr)
        code = FAILED
    sys.exit(code)


def whole(text: str) -> int:
    """For argparse: a whole number, 0 included."""
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number")
    return int(text)


def count(text: str) -> int:
    """For argparse: a whole number of at least 1."""
    if not whole(text):
        raise argparse.ArgumentTypeError("at least 1 is needed")
    return int(text)


def seconds(text: str) -> float:
    """For argparse: seconds, 0 included."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return value


def count_or_all(text: str) -> int | None:
    """For argparse: at least 1, or None for all."""
    return None if text in ("None", "all") else count(text)
