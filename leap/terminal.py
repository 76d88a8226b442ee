"""The screen and the logs: what others wrote (models, servers, file names) is shown, and never obeyed.

A terminal takes control characters as commands: they move the cursor, hide lines, rename the window. So everything that
a script prints goes through `guard`, and tables and bars through leap.console, which writes such commands itself.
"""

import re
import sys
from collections.abc import Sequence
from typing import TextIO, cast

from leap.redaction import HidingStream

# C0 without tab and line feed, DEL and C1, what turns the direction of writing or ends a line, and lone surrogates,
# which stand for the bytes of file names that are not UTF-8.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def shown(text: str) -> str:
    r"""Text with its control characters as \u001b and the like; that is JSON's way too, so printed JSON stays JSON."""
    return _OBEYED.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def in_one_line(text: str) -> str:
    """The same, with a space where a line ends: a name or a server's words could else forge a line of ours."""
    return re.sub(r"\s*\n\s*", " ", shown(text.strip()))


def first_few(names: Sequence[str], most: int = 5, between: str = ", ") -> str:
    """Names in a line, and how many more there are."""
    more = f"{between.rstrip(', ')} and {len(names) - most} more" if len(names) > most else ""
    return between.join(names[:most]) + more


def shorten(text: str, most: int = 60) -> str:
    """A value in a message about it, which is of one line: the beginning of a long one."""
    return text if len(text) <= most else f"{text[:most]}…"


class _Guarded(HidingStream):
    """A stream that shows what is written to it."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        if hasattr(stream, "reconfigure"):  # an ASCII terminal shows \u4f60 and does not end the run
            stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        # tqdm, which the libraries use, begins each renewal of its bar with a carriage return.
        start = text[:1] if text.startswith("\r") and self.stream.isatty() else ""
        super().write(start + shown(text.removeprefix(start)))
        return len(text)


def guard() -> None:
    """From here on, whatever this process prints is shown, without secrets: its own lines, warnings, tracebacks."""
    plain = (stream.stream if isinstance(stream, HidingStream) else stream for stream in (sys.stdout, sys.stderr))
    sys.stdout, sys.stderr = (cast(TextIO, _Guarded(stream)) for stream in plain)


def unguarded(stream: TextIO) -> TextIO:
    """The stream for what writes a terminal's commands of its own and shows the rest; without secrets all the same."""
    return cast(TextIO, HidingStream(stream.stream)) if isinstance(stream, _Guarded) else stream


def overwrite(line: str, end: str) -> None:
    """Replace the line that stands on the terminal (stderr)."""
    stream = unguarded(sys.stderr)
    stream.write(f"\r\x1b[K{shown(line)}{end}")
    stream.flush()
