"""What became of LOVE-Agibot's archives, as a table."""

from collections import Counter
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from leap.console import new_console
from leap.preparation.agibot.archive_tasks import Outcome
from leap.progress import duration


def print_outcomes(outcomes: Sequence[Outcome]) -> bool:
    """A line for each archive that was read or waits, then the sums; False where one failed."""
    if not outcomes:
        return True
    console = new_console()
    table = Table("task", box=SIMPLE_HEAD)
    for name in ("MB", "episodes", "new images", "time"):
        table.add_column(name, justify="right")
    table.add_column("state")
    for found in sorted(outcomes, key=lambda outcome: int(outcome.archive.task)):
        if found.state != "unchanged":
            table.add_row(*_cells(found))
    if table.row_count:
        console.print(table)
    for found in outcomes:
        if found.state == "failed":
            console.print(f"FAILED {found.problem}", style="bold red", markup=False, highlight=False, soft_wrap=True)
    counts = Counter(found.state for found in outcomes)
    states = ", ".join(f"{count} {state}" for state, count in counts.items())
    images = f"{sum(o.episodes for o in outcomes):,} images, {sum(o.made for o in outcomes):,} of them new"
    print(f"archives: {states}; {images}")
    return not counts["failed"]


def _cells(found: Outcome) -> list[str]:
    time = duration(found.seconds) if found.seconds else ""
    state = f"{found.state} ({found.problem})" if found.state == "to do" and found.problem else found.state
    numbers = (f"{found.archive.size / 1e6:,.1f}", f"{found.episodes:,}", f"{found.made:,}")
    return [found.archive.task, *numbers, time, state]
