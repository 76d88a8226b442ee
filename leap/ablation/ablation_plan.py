"""The plan of an ablation, printed before anything is trained: what is compared on what, and memory, disk and hours."""

import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from leap.ablation.runs import AblationRun, label
from leap.errors import UsageError
from leap.hardware import gpu_states
from leap.inference.engines import ENGINES
from leap.models.checkpoints import checkpoint_step
from leap.progress import duration
from leap.records.files import cache_in_use
from leap.training import memory
from leap.training.dry_run import Costs, costs
from leap.training.fine_tune import Run, check_run
from leap.training.schedule import warmup_steps
from leap.vlabench.dimensions import DIMENSIONS
from leap.vlabench.examples import find_examples


@dataclass(frozen=True)
class PlannedRun:
    """A run of the ablation, checked: its data, its folder, its costs, and the checkpoints that are to be evaluated."""

    ablation: AblationRun
    run: Run
    costs: Costs
    steps: tuple[int, ...]

    @property
    def done(self) -> int:
        """Steps that are trained already."""
        return (checkpoint_step(self.run.resume) or 0) if self.run.resume else 0

    @property
    def share(self) -> float:
        """Of all weights, those that learn; 0 to 1."""
        return self.costs.trained / (self.costs.trained + self.costs.frozen)

    def checkpoint(self, step: int) -> Path:
        return self.run.output / f"checkpoint-{step}"


def plan_runs(
    runs: Sequence[AblationRun], root: Path, cache: Path, steps: Sequence[int] = (), keep: bool = True
) -> list[PlannedRun]:
    """Check every run before any is trained. `steps` are the checkpoints to evaluate, the last one if none is named.

    Without `keep` nothing is written. Raises LeapError for what `check_run` refuses, and UsageError for a checkpoint
    that will not be there.
    """
    planned = []
    with cache_in_use(cache, keep) as place:
        checks = [check_run(one.recipe, root, place, report=keep) for one in runs]
    for one, checked in zip(runs, checks, strict=True):
        for step in steps:
            if step not in kept_steps(checked):
                raise UsageError(
                    f"--steps {step}: {one.name} keeps the checkpoints {_some(kept_steps(checked))}; "
                    "name some of them, or change --save_steps and --save_total_limit"
                )
        planned.append(PlannedRun(one, checked, costs(checked), tuple(sorted(set(steps))) or (checked.steps,)))
    return planned


def kept_steps(run: Run) -> list[int]:
    """The steps whose checkpoints are there when the run is over."""
    every, limit = run.recipe.save_steps, run.recipe.save_total_limit
    written = sorted({*range(every, run.steps, every), run.steps})
    return written[-limit:] if limit else written


def _some(steps: list[int]) -> str:
    return ", ".join(map(str, steps if len(steps) < 6 else [*steps[:2], "…", *steps[-2:]]))


def describe(planned: Sequence[PlannedRun], data: Path, engine: str, slots: int) -> str:
    """The plan as a person reads it."""
    first = planned[0].run
    seeds = sorted({one.ablation.seed for one in planned})
    methods = {one.ablation.method: one for one in planned}
    lines = [
        f"model       {first.model}",
        f"the same    {len(first.train)} rows of {first.recipe.train_names} in one order a seed, {first.steps} steps "
        f"of {first.recipe.global_batch_size(1)} rows, schedule {first.recipe.lr_scheduler_type}, images of "
        f"{first.recipe.image_tokens_min} to {first.recipe.image_tokens_max} tokens",
        f"seeds       {', '.join(map(str, seeds))}"
        + ("; with one there is no interval over seeds (--seeds 3)" if len(seeds) < 2 else ""),
    ]
    for method, one in methods.items():
        trainable = "; ".join(one.run.trainable.lines)
        recipe = one.run.recipe
        lines.append(f"{label(method)}, learning rate {recipe.learning_rate:g}, {recipe.optim}: {trainable}")
    if (warming := warmup_steps(first.recipe, first.steps)) >= first.steps:
        lines.append(f"NOTE: no run leaves its warm-up of {warming} steps; give --warmup_steps for so short a run")
    speed = None if all(one.run.finished for one in planned) else flops_a_second()
    lines += ["", *_table(planned, speed), "", *_totals(planned, speed, slots), *_evaluation(planned, data, engine)]
    return "\n".join(lines)


def _table(planned: Sequence[PlannedRun], speed: tuple[float, str] | None) -> list[str]:
    rows = [("run", "trainable", "share", "memory", "disk", "time left", "state")]
    for one in planned:
        left = _seconds(one, speed)
        rows.append(
            (
                one.ablation.name,
                f"{one.costs.trained:,}",
                f"{one.share:.2%}",
                memory.gigabytes(one.costs.held),
                memory.gigabytes(one.costs.size.of_run(one.costs.kept)),
                "unknown" if left is None else duration(left),
                _state(one),
            )
        )
    return aligned(rows, shutil.get_terminal_size().columns if sys.stdout.isatty() else None)


def aligned(rows: Sequence[tuple[str, ...]], screen: int | None) -> list[str]:
    """Columns of equal width; where the screen is too narrow, each row's name stands above the rest of it."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    if screen is not None and sum(widths) + 2 * (len(widths) - 1) > screen:
        below = aligned([row[1:] for row in rows], None)
        return [line for row, rest in zip(rows, below, strict=True) for line in (row[0], f"  {rest}")]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _state(one: PlannedRun) -> str:
    if one.run.finished:
        return "trained"
    return f"continues {one.run.resume.name}" if one.run.resume else "to train"


def _seconds(one: PlannedRun, speed: tuple[float, str] | None) -> float | None:
    if one.run.finished:
        return 0.0
    if speed is None or not one.costs.flops:
        return None
    return one.costs.flops * (1 - one.done / one.run.steps) / speed[0]


def _totals(planned: Sequence[PlannedRun], speed: tuple[float, str] | None, slots: int) -> list[str]:
    """Of all runs together, and whether the disk holds them."""
    left = [_seconds(one, speed) for one in planned]
    known = [seconds for seconds in left if seconds is not None]
    at_once = min(slots, len(planned))
    lines = []
    if not sum(known) and len(known) == len(left):
        lines.append("time        nothing is left to train")
    elif speed and len(known) == len(left):
        lines.append(
            f"time        about {duration(sum(known) / at_once)} of training, {at_once} at a time: {speed[1]}; "
            "starts and saves come on top"
        )
    else:
        lines.append("time        unknown for this device or model")
    needed = sum(one.costs.size.of_run(one.costs.kept) for one in planned if not one.run.finished)
    place = next(folder for folder in [planned[0].run.output, *planned[0].run.output.parents] if folder.is_dir())
    free = shutil.disk_usage(place).free
    short = "" if needed < free else "; TOO LITTLE: keep fewer (--save_total_limit), or make room"
    lines.append(f"disk        {memory.gigabytes(needed)} to write, {memory.gigabytes(free)} free{short}")
    return lines


def _evaluation(planned: Sequence[PlannedRun], data: Path, engine: str) -> list[str]:
    models = 1 + sum(len(one.steps) for one in planned)
    examples = sum(len(find_examples(data, dimension)) for dimension in DIMENSIONS)
    gpus, on_h100 = gpu_states(), ENGINES[engine].examples_a_second if engine in ENGINES else None
    text = ""
    if gpus and on_h100 and (rate := memory.assumed_rate(gpus[0].name)):
        seconds = models * examples / on_h100 * (memory.assumed_rate("H100") or rate) / rate
        text = f", about {duration(seconds)} on one GPU (as measured with a 2B model on an H100, scaled)"
    return [f"evaluation  {models} models (the base too) x {examples} examples of six dimensions{text}"]


def flops_a_second() -> tuple[float, str] | None:
    """What one job's device is taken to do, and how that is known; None for a GPU whose peak is not."""
    gpus = gpu_states()
    if not gpus:
        rate = _cpu_rate()
        return rate * memory.ASSUMED_UTILISATION, (
            f"{memory.ASSUMED_UTILISATION:.0%} (assumed) of the {rate / 1e9:.0f} GFLOP/s that a product of matrices "
            "has on this CPU just now"
        )
    assumed = memory.assumed_rate(gpus[0].name)
    if assumed is None:
        return None
    return assumed, f"at {memory.ASSUMED_UTILISATION:.0%} (assumed) of the peak of {gpus[0].name}"


def _cpu_rate(size: int = 768, seconds: float = 0.3) -> float:
    """Operations a second of a float32 product on this CPU."""
    import torch

    matrix = torch.ones(size, size)
    matrix @ matrix
    started, done = time.monotonic(), 0
    while time.monotonic() - started < seconds:
        matrix @ matrix
        done += 1
    return done * 2 * size**3 / (time.monotonic() - started)
