"""The errors that a user can mend: each says what is wrong, where, and what to do."""

from leap.redaction import hide


class LeapError(Exception):
    """Bad input or a failed stage. Scripts print its text in one line and exit with 1."""

    def __init__(self, text: str) -> None:
        super().__init__(hide(text))


class UsageError(LeapError):
    """A wrong command line. Scripts print its text in one line and exit with 2."""


def without_frames(error: LeapError) -> LeapError:
    """The same error to keep: a traceback's frames, and those of its causes, would keep all that they hold in memory,
    an engine for one."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def first_line(error: BaseException) -> str:
    """An error's first line, with the next where it ends with a colon, or its kind where it has no text."""
    first, *more = str(error).splitlines() or [type(error).__name__]
    return f"{first} {more[0].strip()}" if first.endswith(":") and more else first


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: Python's, PyTorch's on a GPU, or on a CPU, where that is a plain RuntimeError."""
    known = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return known or (isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error))


class Stopped(Exception):
    """Work that a signal ended and has put everything away. Scripts exit with 128 + the signal."""

    def __init__(self, text: str, signal: int) -> None:
        super().__init__(text)
        self.signal = signal
