"""The progress of evaluations on the screen: once, as JSON, or live."""

import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from leap import provenance
from leap.errors import LeapError
from leap.evaluation.monitor import Monitor, Progress
from leap.gpus import GpuState, gpu_states
from leap.progress import duration
from leap.report.results import model_order

_COLUMNS = ("model", "dimension", "status", "done", "rate", "left", "format errors", "failed", "")
_STYLES = {"running": "cyan", "complete": "green", "unreadable": "bold red"}
_AROUND = 8  # lines of a live screen that are not rows of the table


def print_once(results: Path, as_json: bool = False) -> bool:
    """The state of now; False where a file cannot be read. Raises LeapError where no evaluation has begun."""
    found = _ordered(Monitor(results).read())
    if not found:
        raise LeapError(f"{results}: no evaluation has begun there; run scripts/evaluation/run_vlm_evaluation.py first")
    if as_json:
        print(as_object(results, found))
    else:
        Console().print(_screen(results, found, gpu_states(), None), crop=False, soft_wrap=False)
    return not any(progress.problem for progress in found)


def as_object(results: Path, found: Sequence[Progress]) -> str:
    evaluations = [progress.to_dict() for progress in found]
    gpus = [gpu.to_dict() for gpu in gpu_states()]
    return json.dumps({"results": str(results), "time": provenance.now(), "evaluations": evaluations, "gpus": gpus})


def watch(results: Path, interval: float, as_json: bool = False) -> None:
    """Show the state every `interval` seconds until Ctrl-C: a live screen on a terminal, else one print a time."""
    monitor, console = Monitor(results), Console()
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            found = _ordered(monitor.read())
            if as_json:
                print(as_object(results, found), flush=True)
            elif console.is_terminal:
                live.update(_screen(results, found, gpu_states(), console.height), refresh=True)
            else:
                console.print(_screen(results, found, gpu_states(), None))
            time.sleep(interval)


def _ordered(found: Sequence[Progress]) -> list[Progress]:
    """By model, each one's dimensions in the benchmark's order, as they came."""
    place = {model: number for number, model in enumerate(model_order({progress.model for progress in found}))}
    return sorted(found, key=lambda progress: place[progress.model])


def _screen(results: Path, found: Sequence[Progress], gpus: Sequence[GpuState], height: int | None) -> RenderableType:
    if not found:
        return Text(f"{results}: no evaluation has begun there yet; waiting (Ctrl-C ends)")
    shown = _that_fit(found, height - _AROUND - len(gpus) if height else None)
    table = Table(box=SIMPLE_HEAD, title=_title(results, found), title_justify="left")
    for column in _COLUMNS:
        numeric = column in ("done", "rate", "left", "format errors", "failed")
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for progress in shown:
        table.add_row(*_row(progress), style=_STYLES.get(progress.status, "yellow"))
    folded = len(found) - len(shown)
    notes = [f"{folded} more, complete or waiting: --once shows all"] if folded else []
    return Group(table, *map(Text, [*notes, *map(_gpu, gpus)]))


def _that_fit(found: Sequence[Progress], rows: int | None) -> Sequence[Progress]:
    """All of them, or where the screen is too small the ones in work first."""
    if rows is None or len(found) <= rows:
        return found
    order = ("running", "unreadable", "incomplete", "stopped", "complete")
    return sorted(found, key=lambda progress: order.index(progress.status))[: max(rows, 1)]


def _title(results: Path, found: Sequence[Progress]) -> Text:
    states = Counter(progress.status for progress in found)
    done, total = sum(progress.done for progress in found), sum(progress.total or 0 for progress in found)
    told = ", ".join(f"{number} {state}" for state, number in states.items())
    return Text(f"{results}  {time.strftime('%H:%M:%S')}\n{told}; {done} of {total} examples")


def _row(progress: Progress) -> list[Text]:
    total = "?" if progress.total is None else str(progress.total)
    nothing = "" if progress.done else "loading, no answer yet" if progress.status == "running" else "no answer yet"
    cells = (
        progress.model,
        progress.dimension,
        progress.status,
        f"{progress.done}/{total}",
        "-" if progress.rate is None else f"{progress.rate:.2f}/s",
        "-" if progress.left is None else duration(progress.left),
        str(progress.format_errors),
        str(progress.inference_errors),
        progress.problem or nothing,
    )
    return [Text(cell) for cell in cells]


def _gpu(gpu: GpuState) -> str:
    parts = [f"GPU {gpu.index} {gpu.name}"]
    if gpu.memory_used is not None and gpu.memory_total is not None:
        parts.append(f"{gpu.memory_used / 1024:.1f} of {gpu.memory_total / 1024:.1f} GiB")
    if gpu.utilization is not None:
        parts.append(f"{gpu.utilization} % busy")
    return ", ".join(parts)
