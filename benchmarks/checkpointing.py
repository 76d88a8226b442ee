"""What checkpoints cost a training run: written while training goes on, and with training stopped, in one run.

    python benchmarks/checkpointing.py --steps 160 --save_steps 80 --modes beside
    python benchmarks/checkpointing.py --device cpu --small --disk_gb_s 0.15

The model has Qwen3-VL-2B's shape and random weights, and is trained by the code that users run, on samples like those
of training_throughput.py. "beside" is what a run does where the host's memory holds a copy of the state; "stopping" is
what it does elsewhere, and did before there were copies. A checkpoint's cost is the time that training stands still for
it, and what steps take longer than the median while one is written, at the recipe's distance of 200 steps. The last
one, which a run waits for, is told apart: of a run with 43 checkpoints it is one. So is the first, whose copy takes its
memory. `--disk_gb_s` keeps the writer to a slower disk's speed.
"""

import argparse
import os
import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import installed  # noqa: F401
from compared import REPOSITORY, free_memory, origin, result_path
from full_size import make_model, make_samples
from training_throughput import MODES, Setting, memory, teller, train_ours
from transformers import TrainerCallback, TrainerState

from leap.cli import Parser, count, gigabytes, image_tokens, run
from leap.hardware import available_memory
from leap.models.loading import load_processor
from leap.records.json_files import write_json
from leap.training.checkpoint_writer import CheckpointWriter
from leap.training.checkpointing import LossSum
from leap.training.memory import has_room_for_copy

RECIPE_STEPS = 200  # between checkpoints, in the full recipe
WARM_UP = 6  # steps that compile


@dataclass
class Times:
    """Moments (perf_counter) of one run."""

    disk: float | None = None  # bytes a second that the writer is kept to
    steps: list[float] = field(default_factory=list)  # ends
    saves: list[tuple[float, float]] = field(default_factory=list)  # training stands still for the copy
    waits: list[tuple[float, float]] = field(default_factory=list)  # ... and for a checkpoint to become whole
    writes: list[tuple[float, float]] = field(default_factory=list)
    size: int = 0  # bytes of a checkpoint


class StepEnds(TrainerCallback):
    """Notes when each step is done."""

    def __init__(self, times: Times) -> None:
        self._times = times

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        import torch

        if torch.cuda.is_available():  # else the host's lead over the GPU would be taken for speed
            torch.cuda.synchronize()
        self._times.steps.append(time.perf_counter())


def timed_writer(times: Times) -> type[CheckpointWriter]:
    """The writer that runs use, with a clock at what stops training and at what writes."""

    class Timed(CheckpointWriter):
        def save(self, state: TrainerState, losses: LossSum) -> bool:
            begin = time.perf_counter()
            goes_on = super().save(state, losses)
            times.saves.append((begin, time.perf_counter()))
            return goes_on

        def finish(self) -> TrainerState | None:
            begin = time.perf_counter()
            if saved := super().finish():
                times.waits.append((begin, time.perf_counter()))
            return saved

        def _start(self, work: Callable[[], None]) -> None:
            def write() -> None:
                begin = time.perf_counter()
                work()
                times.size = self._pending_bytes()
                if times.disk:
                    time.sleep(max(0.0, begin + times.size / times.disk - time.perf_counter()))
                times.writes.append((begin, time.perf_counter()))

            super()._start(write)

        def _pending_bytes(self) -> int:
            newest = max(self._run.glob("checkpoint-*"), key=lambda folder: int(folder.name.split("-")[1]))
            return sum(file.stat().st_size for file in newest.iterdir())

    return Timed


def main() -> None:
    arguments = parse_arguments()
    if arguments.device == "cuda":
        arguments.device = "cuda:0"
    folder = arguments.workdir / ("qwen3-vl-small" if arguments.small else "qwen3-vl-2b")
    if not (folder / "config.json").is_file():
        make_model(folder, arguments.device, small=arguments.small)
    processor = load_processor(folder)
    samples = make_samples(arguments.workdir, arguments.samples, processor, [tuple(arguments.image)])
    setting = Setting(arguments, "full", MODES["full"], folder, processor, samples, 1)
    found = {mode: measure(setting, mode) for mode in arguments.modes}
    where = origin(arguments.device)
    first = found[arguments.modes[0]]
    result = {
        "benchmark": "checkpointing" + "_small" * arguments.small,
        **where,
        "settings": {
            "steps": arguments.steps,
            "save_steps": arguments.save_steps,
            "samples_a_step": setting.step_samples,
            "disk_gb_s": arguments.disk_gb_s,
            "checkpoint_gb": first["checkpoint_gb"],
            "host_memory_gb": round((available_memory() or 0) / 1e9, 1),
        },
        "unit": f"% of the time at save_steps {RECIPE_STEPS}",
        "ours": first["share_of_recipe"],
        **found,
    }
    if len(found) == 2:
        result |= {
            "seed_setting": found["stopping"]["share_of_recipe"],
            "ratio": round(found["stopping"]["share_of_recipe"] / max(first["share_of_recipe"], 0.01), 1),
            "compared_with": "less than with training stopped for each",
        }
    path = result_path(arguments.output, result)
    write_json(path, result)
    for mode, values in found.items():
        print(f"{mode}: {values}", flush=True)
    print(f"{path}: checkpoints take {first['share_of_recipe']} % of the time at save_steps {RECIPE_STEPS}", flush=True)


def parse_arguments() -> argparse.Namespace:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--modes", nargs="+", choices=("beside", "stopping"), default=["beside", "stopping"], help="what is measured")
    add("--device", default="cuda", help="cuda or cpu")
    add("--steps", type=count, default=160, help="of each run (default %(default)s)")
    add("--save_steps", type=count, default=80, help="between checkpoints of these runs (default %(default)s)")
    add("--samples", type=count, default=720, help="of the training file (default %(default)s)")
    add("--small", action="store_true", help="few and narrow layers, for a CPU: 0.5 GB a checkpoint")
    add("--disk_gb_s", type=gigabytes, help="gigabytes (10^9 bytes) a second that checkpoints are written with at most")
    add("--batch", type=count, nargs=2, metavar=("ROWS", "ACCUMULATED"), help="in place of the recipe's")
    add("--image", type=count, nargs=2, default=(640, 480), metavar=("WIDTH", "HEIGHT"), help="in pixels")
    add("--image_tokens", type=image_tokens, nargs=2, default=(256, 768), metavar=("MIN", "MAX"), help="of an image")
    add("--set", nargs="+", default=[], metavar="KEY=VALUE", help="recipe values")
    add("--workdir", type=Path, default=Path("/tmp/leap-speed"), help="what is made for the benchmark lies here")
    add("--output", type=Path, default=REPOSITORY / "benchmarks" / "results", help="folder to write to")
    arguments = parser.parse_args()
    if arguments.steps < 2 * arguments.save_steps or arguments.save_steps <= WARM_UP:
        parser.error(f"--steps must be twice --save_steps at least, and that more than {WARM_UP}")
    return arguments


def measure(setting: Setting, mode: str) -> dict[str, Any]:
    """A run with checkpoints, written in this mode."""
    asked = setting.arguments
    free_memory(asked.device)
    times = Times(disk=asked.disk_gb_s and asked.disk_gb_s * 1e9)
    values = {
        "max_steps": asked.steps,
        "warmup_steps": 0,
        "save_steps": asked.save_steps,
        "save_total_limit": 1,  # two at once are 51 GB
    }
    fits = has_room_for_copy if mode == "beside" else lambda *_: False
    log = teller(int(os.environ.get("RANK", "0")), mode)
    with (
        patch("leap.training.loop.CheckpointWriter", timed_writer(times)),
        patch("leap.training.checkpoint_writer.has_room_for_copy", fits),
    ):
        train_ours(setting, f"checkpointing-{mode}", setting.samples, values, [StepEnds(times)], log)
    shutil.rmtree(asked.workdir / "output" / f"full-checkpointing-{mode}")
    return {**costs(times, asked.save_steps, mode), **memory()}


def costs(times: Times, save_steps: int, mode: str) -> dict[str, Any]:
    """Seconds of steps and checkpoints, and the share of the latter at the recipe's distance."""
    last = times.steps[-1]
    spans = [*pairwise(times.steps)][WARM_UP:]
    pure = {span: span[1] - span[0] - overlap(span, times.saves + times.waits) for span in spans}
    quiet = [seconds for span, seconds in pure.items() if not overlap(span, times.writes)]
    step = statistics.median(quiet or pure.values())
    slower = sum(seconds - step for span, seconds in pure.items() if overlap(span, times.writes))
    saves, writes = ([end - begin for begin, end in those] for those in (times.saves, times.writes))
    waits = [end - begin for begin, end in times.waits if begin < last]
    if mode == "beside":  # all but the last are written beside steps, and the next waits for what takes too long
        each = saves[-1] + max(0.0, slower) / (len(writes) - 1) + max(0.0, max(writes) - RECIPE_STEPS * step)
    else:
        each = statistics.median(saves) + statistics.median(writes)
    return {
        "checkpoint_gb": round(times.size / 1e9, 2),
        "seconds_a_step": round(step, 4),
        "seconds_to_begin": [round(seconds, 3) for seconds in saves],
        "seconds_to_write": [round(seconds, 2) for seconds in writes],
        "seconds_waited": [round(seconds, 2) for seconds in waits],
        "seconds_slower": round(slower, 2),
        "seconds_for_the_last": round(times.writes[-1][1] - times.saves[-1][0], 2),
        "share_of_recipe": round(100 * each / (each + RECIPE_STEPS * step), 2),
    }


def overlap(span: tuple[float, float], others: list[tuple[float, float]]) -> float:
    """Seconds of a span that lie within others."""
    return sum(max(0.0, min(span[1], end) - max(span[0], begin)) for begin, end in others)


if __name__ == "__main__":
    run(main)
