"""A run of jobs on the screen: how far it is, and in the end a table with the last lines of each failed job's log."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from leap.console import new_console
from leap.jobs.process import HEADER, Job, JobResult
from leap.progress import duration
from leap.terminal import in_one_line


def show_progress(results: Iterable[JobResult], jobs: Sequence[Job]) -> Iterator[JobResult]:
    """Yield the results as they come and print a line for each; on a terminal with a bar."""
    columns = (TextColumn("jobs"), BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn())
    console = new_console(stderr=True)
    bar = Progress(*columns, console=console, refresh_per_second=2, disable=not sys.stderr.isatty())
    with bar as progress:
        shown = progress.add_task("jobs", total=len(jobs))
        for number, result in enumerate(results, start=1):
            print(in_one_line(f"[{number}/{len(jobs)}] {_line(result)}"), flush=True)
            progress.advance(shown)
            yield result


def _line(result: JobResult) -> str:
    state = result.state.upper() if result.state == "failed" else result.state
    return f"{state} {result.name}, {duration(result.seconds)}" + (f": {result.reason}" if result.reason else "")


def print_outcome(results: Sequence[JobResult], console: Console | None = None, lines: int = 12) -> bool:
    """Print the table, and the last `lines` of each failed job's log; True where every job is done."""
    console = console or new_console()
    failed = [result for result in results if result.state != "done"]
    for result in failed:
        console.print(f"\n{result.name}: {result.reason}", style="bold red", markup=False, highlight=False)
        for line in log_tail(result.log, lines):
            console.print(Text(f"    {line}"), soft_wrap=True)
        console.print(Text(f"    its log is {result.log}"), soft_wrap=True)
    table = Table(
        box=SIMPLE_HEAD, title=f"{len(results) - len(failed)} of {len(results)} jobs done", title_justify="left"
    )
    table.add_column("job", overflow="fold")
    table.add_column("state", no_wrap=True)
    table.add_column("seconds", justify="right", no_wrap=True)
    for result in results:
        style = "" if result.state == "done" else "bold red"
        cells = (result.name, result.state, f"{result.seconds:.1f}")
        table.add_row(*(Text(cell, style) for cell in cells))
    console.print(table)
    return not failed


def log_tail(log: Path, lines: int) -> list[str]:
    """The last lines that a log's newest run wrote; bytes that are no UTF-8 are shown as such."""
    if not log.is_file():
        return []
    found = log.read_text(encoding="utf-8", errors="backslashreplace").splitlines()
    starts = [number for number, line in enumerate(found) if line.startswith(HEADER)]
    return found[starts[-1] + 1 if starts else 0 :][-lines:]
