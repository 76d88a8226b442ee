"""What is measured while a Trainer trains: windows of steps, what they held, waiting for data, losses, a GPU's time.

It needs torch and transformers alone, since peer_clock.py has it in other projects' environments.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from step_profile import summarise
from transformers import TrainerCallback


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class DataWait:
    """Seconds that this process has been blocked in a data loader's `next`."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Time every data loader, whoever makes it."""
        from torch.utils.data.dataloader import _BaseDataLoaderIter

        original = _BaseDataLoaderIter.__next__

        def timed(iterator: Any) -> Any:
            begin = time.perf_counter()
            try:
                return original(iterator)
            finally:
                self.seconds += time.perf_counter() - begin

        _BaseDataLoaderIter.__next__ = timed
        try:
            yield
        finally:
            _BaseDataLoaderIter.__next__ = original


class Clock(TrainerCallback):
    """Seconds of each window of steps after a warm-up. The GPU is waited for at a window's ends only."""

    def __init__(self, warm_up: int, window: int, steps: int, wait: DataWait, log: Callable[[str], None]) -> None:
        self._warm_up, self._window, self._last, self._log = warm_up, window, warm_up + steps, log
        self._wait = wait
        self.windows: list[float] = []
        self.waits: list[float] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._log("training starts")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_save = False  # the last step would write tens of gigabytes
        done = state.global_step - self._warm_up
        if done < 0 or done % self._window or state.global_step > self._last:
            return
        synchronize()
        now, waited = time.perf_counter(), self._wait.seconds
        if done == 0:
            self._log("warm")
        else:
            self.windows.append(now - self._edge[0])
            self.waits.append(waited - self._edge[1])
            self._log(f"{self._window} steps in {self.windows[-1]:.2f} s, {self.waits[-1]:.2f} s of them for data")
        self._edge = (now, waited)


class Count(TrainerCallback):
    """Samples of each step and the positions that they fill, padding included, counted in the batches themselves."""

    def __init__(self) -> None:
        self.samples: list[int] = []
        self.positions: list[int] = []
        self._step = (0, 0)

    def add(self, samples: int, positions: int) -> None:
        """A micro-batch's."""
        self._step = (self._step[0] + samples, self._step[1] + positions)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.samples.append(self._step[0])
        self.positions.append(self._step[1])
        self._step = (0, 0)


class Losses(TrainerCallback):
    """The loss of every logged step."""

    def __init__(self) -> None:
        self.found: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_save = False

    def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            self.found.append(logs["loss"])


class StepProfile(TrainerCallback):
    """Traces the last `steps` steps of a run; `summary` says where their time went."""

    def __init__(self, steps: int, trace: Path) -> None:
        self._steps, self._trace = steps, trace
        self.summary: dict[str, Any] | None = None
        self._profiler: Any = None

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == state.max_steps - self._steps:
            activity = torch.profiler.ProfilerActivity
            kind = activity.CUDA if torch.cuda.is_available() else activity.CPU
            synchronize()
            self._profiler = torch.profiler.profile(activities=[kind])
            self._profiler.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._profiler and state.global_step == state.max_steps:
            synchronize()
            self._profiler.stop()
            self._profiler.export_chrome_trace(str(self._trace))
            self.summary = {"steps": self._steps, **summarise(json.loads(self._trace.read_text())["traceEvents"])}
