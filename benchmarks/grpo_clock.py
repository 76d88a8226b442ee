"""What grpo_speed.py runs in a trainer's own environment: its GRPO, step by step, and what sampling takes of each.

    PYTHON benchmarks/grpo_clock.py JOB.json FOUND.json

Both trainers are a `transformers.Trainer`. The GPU is waited for at the ends of a step and of a sampling, which begins
with the new weights that vLLM is given. The memory is the device's, whoever has it. FOUND.json is written each step, by
the first rank.
"""

import functools
import json
import runpy
import sys
import time
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from training_watch import synchronize
from transformers import Trainer, TrainerCallback


class TrainingEnded(Exception):
    """The last step is done: what is written afterwards is not timed."""


class Steps(TrainerCallback):
    """Seconds of each step and of its sampling, the lengths of responses, and the device's memory at most."""

    def __init__(self, found_path: Path, packages: list[str]) -> None:
        self._found_path, self._versions = found_path, {name: version(name) for name in packages}
        self.seconds: list[float] = []
        self.sampling: list[float] = []
        self.lengths: list[float] = []
        self.peak = 0.0
        self._edge = self._sampled = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._edge = self._now()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        now = self._now()
        self.seconds.append(now - self._edge)
        self.sampling.append(self._sampled)
        print(f"step {state.global_step}: {self.seconds[-1]:.2f} s, sampling {self._sampled:.2f}", flush=True)
        if state.is_world_process_zero:
            self._write()
        self._edge, self._sampled = self._now(), 0.0
        if state.global_step == state.max_steps:
            raise TrainingEnded

    def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **kwargs: Any) -> None:
        if logs and "completions/mean_length" in logs:
            self.lengths.append(float(logs["completions/mean_length"]))

    def _write(self) -> None:
        found = {"seconds": self.seconds, "sampling": self.sampling, "lengths": self.lengths}
        found |= {"peak_gb": round(self.peak, 1) or None, "versions": self._versions}
        partial = self._found_path.with_suffix(".partial")
        partial.write_text(json.dumps(found))
        partial.replace(self._found_path)

    def watch(self, trainer: type, name: str) -> None:
        """A method that samples."""
        original = getattr(trainer, name)

        @functools.wraps(original)
        def timed(*arguments: Any, **options: Any) -> Any:
            started = self._now()
            found = original(*arguments, **options)
            self._sampled += self._now() - started
            return found

        setattr(trainer, name, timed)

    def _now(self) -> float:
        synchronize()
        if torch.cuda.is_available():
            free, total = torch.cuda.mem_get_info()
            self.peak = max(self.peak, (total - free) / 1e9)
        return time.perf_counter()


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    steps = Steps(Path(sys.argv[2]), job["packages"])
    make = Trainer.__init__

    @functools.wraps(make)
    def made(self: Trainer, *args: Any, **kwargs: Any) -> None:
        make(self, *args, **kwargs)
        self.add_callback(steps)

    Trainer.__init__ = made
    with suppress(TrainingEnded):
        {"LEAP": train_leap, "ms-swift": train_swift}[job["trainer"]](job["words"], steps)


def train_leap(words: list[str], steps: Steps) -> None:
    from trl import GRPOTrainer

    steps.watch(GRPOTrainer, "_generate_single_turn")
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")


def train_swift(words: list[str], steps: Steps) -> None:
    from swift import rlhf_main
    from swift.rlhf_trainers.grpo_trainer import GRPOTrainer

    steps.watch(GRPOTrainer, "_generate_completions")
    rlhf_main(words)


if __name__ == "__main__":
    main()
