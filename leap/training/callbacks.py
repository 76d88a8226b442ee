"""What happens at a run's moments beside training: progress lines, checkpoints that are sent, early stopping."""

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from transformers import TrainerCallback

from leap.progress import duration
from leap.records.upload import Upload
from leap.terminal import overwrite
from leap.training.checkpoint_folder import BEING_SENT, whole_checkpoints
from leap.training.checkpointing import prune_checkpoints
from leap.training.stopping import Metric, best_step, has_stopped

# What an evaluation logs, as a person reads it.
_EVALUATED = {
    "eval_loss": ("validation loss", ".4f"),
    "eval_grounded": ("grounded", ".1f"),
    "eval_total_score": ("total score", ".1f"),
}


class ProgressLines(TrainerCallback):
    """Loss, rate and time left: one live line on a terminal, one line a log step elsewhere."""

    def __init__(self, samples_before: Callable[[int], int]) -> None:
        """`samples_before` says how many samples so many steps have."""
        self._samples_before = samples_before

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._started, self._first = time.monotonic(), state.global_step

    def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **kwargs: Any) -> None:
        if not state.is_world_process_zero or not logs:
            return
        if "loss" in logs:
            self._log(args, state, f"loss {logs['loss']:.4f}  lr {logs['learning_rate']:.2e}")
        elif said := [f"{name} {logs[key]:{form}}" for key, (name, form) in _EVALUATED.items() if key in logs]:
            self._log(args, state, "  ".join(said), keep=True)

    def _log(self, args: Any, state: Any, what: str, keep: bool = False) -> None:
        steps, seconds = state.global_step - self._first, time.monotonic() - self._started
        samples = self._samples_before(state.global_step) - self._samples_before(self._first)
        left = duration((state.max_steps - state.global_step) * seconds / max(steps, 1))
        line = f"step {state.global_step}/{state.max_steps}  {what}  {samples / seconds:.1f} samples/s  {left} left"
        live = sys.stderr.isatty() and not keep and state.global_step < state.max_steps
        if sys.stderr.isatty():
            overwrite(line, end="" if live else "\n")
        else:
            print(line, file=sys.stderr, flush=True)


class UploadCheckpoints(TrainerCallback):
    """Sends every whole checkpoint of a run while training goes on, and first those that no earlier start has sent."""

    def __init__(self, upload: Upload) -> None:
        self._upload, self._waiting = upload, SimpleQueue[Path | None]()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._send_all, daemon=True)

    def _send_all(self) -> None:
        waiting = set[Path]()
        try:
            while folder := self._waiting.get():
                self._upload.send(folder)
                waiting.add(folder)
                sent = waiting - self._upload.failed.keys()
                BEING_SENT.difference_update(sent)
                waiting -= sent
        except Exception as error:  # noqa: BLE001  whatever it is, the end of training raises it
            self._error = error
            print(f"nothing more is sent: {error!r}", file=sys.stderr, flush=True)

    def _add(self, folder: Path) -> None:
        BEING_SENT.add(folder)
        self._waiting.put(folder)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        BEING_SENT.clear()
        for folder in whole_checkpoints(Path(args.output_dir)):
            self._add(folder)
        self._thread.start()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._add(Path(args.output_dir, f"checkpoint-{state.global_step}"))

    def on_train_end(self, args: Any, state: Any, control: Any, stopped: bool = False, **kwargs: Any) -> None:
        """After a signal there is no time to send what waits: what sent the signal kills soon."""
        if BEING_SENT:
            done = "left for the next start, which sends them" if stopped else "being sent"
            print(f"{len(BEING_SENT)} checkpoints: {done} to {self._upload.address}", file=sys.stderr, flush=True)
        if stopped:
            return
        self._waiting.put(None)
        self._thread.join()
        if self._error:
            raise self._error
        self._upload.refuse_failed()
        BEING_SENT.clear()
        prune_checkpoints(
            Path(args.output_dir), state.log_history, args.recipe.save_total_limit, args.recipe.metric_for_best_model
        )


class EarlyStopping(TrainerCallback):
    """Stops a run whose validation loss or score gets no better. A new best one is saved, and so is the last step."""

    def __init__(self, patience: int, metric: Metric) -> None:
        self._patience, self._metric = patience, metric

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        stop = has_stopped(state.log_history, self._patience, self._metric)
        control.should_training_stop |= stop
        best = best_step(state.log_history, metric=self._metric)
        control.should_save |= stop or best == state.global_step
