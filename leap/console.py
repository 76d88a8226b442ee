"""The console of all tables and bars: names that others chose are shown as they stand, whatever is in them."""

import sys
from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from leap.terminal import shown, unguarded


def new_console(stderr: bool = False) -> Console:
    """Square brackets are no markup and colons no emoji there, and control characters are shown."""
    stream = unguarded(sys.stderr if stderr else sys.stdout)
    return _Console(file=stream, stderr=stderr, markup=False, emoji=False, highlight=False)


class _Console(Console):
    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(shown(segment.text), segment.style)
