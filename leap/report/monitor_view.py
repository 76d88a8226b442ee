"""The progress of evaluations on the screen: once, as JSON, or live."""

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from leap import provenance
from leap.console import new_console
from leap.errors import LeapError
from leap.evaluation.evaluation_progress import Monitor, Progress
from leap.hardware import GpuState, gpu_states
from leap.progress import duration, rounded
from leap.report.results import model_order

_COLUMNS = ("model", "dimension", "status", "done", "rate", "left", "format\nerrors", "failed")
_NO_RESPONSE = "refused,\nempty"  # filtered ones too
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
        console = new_console()
        console.print(_screen(results, found, console, None), crop=False)
    return not any(progress.problem for progress in found)


def as_object(results: Path, found: Sequence[Progress]) -> str:
    evaluations = [asdict(progress) for progress in found]
    gpus = [asdict(gpu) for gpu in gpu_states()]
    return json.dumps({"results": str(results), "time": provenance.now(), "evaluations": evaluations, "gpus": gpus})


def watch(results: Path, interval: float, as_json: bool = False) -> None:
    """Show the state every `interval` seconds until Ctrl-C: a live screen on a terminal, else one print a time."""
    monitor, console = Monitor(results), new_console()
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            found = _ordered(monitor.read())
            if as_json:
                print(as_object(results, found), flush=True)
            elif console.is_terminal:
                live.update(_screen(results, found, console, console.height), refresh=True)
            else:
                console.print(_screen(results, found, console, None), crop=False)
            time.sleep(interval)


def _ordered(found: Sequence[Progress]) -> list[Progress]:
    """By model, each one's dimensions in the benchmark's order, as they came."""
    place = {model: number for number, model in enumerate(model_order({progress.model for progress in found}))}
    return sorted(found, key=lambda progress: place[progress.model])


def _screen(results: Path, found: Sequence[Progress], console: Console, height: int | None) -> RenderableType:
    if not found:
        return Text(f"{results}: no evaluation has begun there yet; waiting (Ctrl-C ends)")
    gpus = gpu_states()
    shown = _that_fit(found, height - _AROUND - len(gpus) if height else None)
    table = _table(shown)
    if Measurement.get(console, console.options.update(width=1000), table).maximum > console.width:
        table = _table(shown, between=0)
    folded = len(found) - len(shown)
    notes = [f"and {folded} more; --once shows all"] if folded else []
    notes += [progress.problem for progress in shown if progress.problem]
    texts = [Text(line) for line in (_title(results, found), *notes, *map(_gpu, gpus))]
    if height is None:  # paths stay whole, for whoever copies them
        texts = [Text(text.plain, no_wrap=True, overflow="ignore") for text in texts]
    return Group(texts[0], table, *texts[1:])


def _table(shown: Sequence[Progress], between: int = 1) -> Table:
    """With `between` blanks more than one around each cell. A long name of a model gives way, never a number."""
    others = any(progress.refused + progress.filtered + progress.empty for progress in shown)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, between))
    for column in (*_COLUMNS, *([_NO_RESPONSE] if others else [])):
        wraps = column == "model"
        table.add_column(
            column,
            justify="left" if column in _COLUMNS[:3] else "right",
            no_wrap=not wraps,
            overflow="fold" if wraps else "ellipsis",
        )
    for progress in shown:
        cells = _row(progress)
        if others:
            cells.append(Text(str(progress.refused + progress.filtered + progress.empty)))
        table.add_row(*cells, style=_STYLES.get(progress.status, "yellow"))
    return table


def _that_fit(found: Sequence[Progress], rows: int | None) -> Sequence[Progress]:
    """All of them, or where the screen is too small the ones in work first."""
    if rows is None or len(found) <= rows:
        return found
    order = ("running", "unreadable", "incomplete", "stopped", "complete")
    return sorted(found, key=lambda progress: order.index(progress.status))[: max(rows, 1)]


def _title(results: Path, found: Sequence[Progress]) -> str:
    states = Counter(progress.status for progress in found)
    done, total = sum(progress.done for progress in found), sum(progress.total or 0 for progress in found)
    counts = ", ".join(f"{number} {state}" for state, number in states.items())
    return f"{results}  {time.strftime('%H:%M:%S')}\n{counts}; {done} of {total} examples"


def _row(progress: Progress) -> list[Text]:
    total = "?" if progress.total is None else str(progress.total)
    cells = (
        progress.model,
        progress.dimension,
        _state(progress),
        f"{progress.done}/{total}",
        "-" if progress.rate is None else f"{rounded(progress.rate)}/s",
        "-" if progress.left is None else duration(progress.left),
        str(progress.format_errors),
        str(progress.inference_errors),
    )
    return [Text(cell) for cell in cells]


def _state(progress: Progress) -> str:
    if progress.done or progress.inference_errors or progress.problem:
        return progress.status
    return "loading" if progress.status == "running" else "nothing yet"


def _gpu(gpu: GpuState) -> str:
    parts = [f"GPU {gpu.index} {gpu.name}"]
    if gpu.memory_used is not None and gpu.memory_total is not None:
        parts.append(f"{gpu.memory_used / 1024:.1f} of {gpu.memory_total / 1024:.1f} GiB")
    if gpu.utilization is not None:
        parts.append(f"{gpu.utilization} % busy")
    return ", ".join(parts)
