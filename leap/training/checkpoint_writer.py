"""Checkpoints that are written while training goes on: the state is copied, and a thread writes the copy."""

import atexit
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from types import TracebackType
from typing import Any

from transformers import TrainerState

from leap.errors import LeapError
from leap.hardware import available_memory
from leap.interrupt import INTERRUPTED
from leap.training.checkpoint_folder import explaining_disk_errors, finish_checkpoint, partial_folder, start_checkpoint
from leap.training.checkpointing import (
    LossSum,
    Training,
    checkpoint_bytes,
    gather_state,
    live_state,
    prune_checkpoints,
    rng_state,
    save_progress,
    save_rng_states,
    save_weights,
    weights_dtype,
)
from leap.training.host_copy import HostCopy
from leap.training.memory import gigabytes, has_room_for_copy
from leap.training.optimizer_state import is_sharded
from leap.training.ranks import Ranks
from leap.training.stopping import Metric

SAVED, FAILED = 1, 1000  # news of the writer; between them are the numbers of signals


class CheckpointWriter:
    """A run's checkpoints, whole or not at all, never more than one of them unfinished. All ranks make the same calls.

    `identity` goes into their markers, `keep` is how many of them stay, with the best by `metric`. A thread and no
    process: torch.save and safetensors let others run while they write, and a process would need the model, its memory
    and a way to say why it failed. What other ranks are needed for, and what is small, is done before training goes on.
    """

    def __init__(
        self,
        training: Training,
        run: Path,
        identity: dict[str, Any],
        keep: int | None,
        ranks: Ranks,
        metric: Metric = "loss",
    ) -> None:
        self._training, self._run, self._identity, self._ranks = training, run, identity, ranks
        self._keep, self._metric = keep, metric
        self._copy = HostCopy()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._pending: tuple[TrainerState, Path, int] | None = None  # state, folder and bytes
        self._explained = False
        atexit.register(self._end_at_once)

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """What ends a run lets the last checkpoint become whole first; a second Ctrl-C does not."""
        if self._thread and (kind is None or issubclass(kind, Exception)):
            self._thread.join()
            if self._error and self._pending:  # the run ends with the error that it has
                print(f"{self._pending[1]} is not saved: {self._error}", file=sys.stderr)
        if not (self._thread and self._thread.is_alive()):
            self._copy.close()
            atexit.unregister(self._end_at_once)

    @property
    def news(self) -> int:
        """SAVED or FAILED when the pending checkpoint is done; 0 in ranks that do not write, and until then."""
        if self._thread is None or self._thread.is_alive() or self._pending is None:
            return 0
        return FAILED if self._error else SAVED

    def save(self, state: TrainerState, losses: LossSum) -> bool:
        """Begin checkpoint-N of the state's step. Whether it is written while training goes on; else it is done.

        Raises LeapError in all ranks where one of them cannot begin. `finish` the one before first.
        """
        assert self._pending is None
        training = self._training
        place = self._run / f"checkpoint-{state.global_step}"
        folder, random_numbers = partial_folder(place), self._ranks.gather(rng_state())
        loss = fmean(self._ranks.gather(losses.since_log.item()))
        needed = checkpoint_bytes(training.model, training.plain_optimizer)
        marker = {
            **self._identity,
            "step": state.global_step,
            "resumable": True,
            "weights": weights_dtype(training.model),
        }
        state = replace(state, log_history=[*state.log_history])  # as it is now

        def begin() -> None:
            start_checkpoint(place, needed)
            save_rng_states(folder, random_numbers)

        self._everywhere(place, needed, begin)
        if training.deepspeed:  # its engine's files are written by all ranks
            engine: Any = training.wrapped
            self._everywhere(place, needed, lambda: engine.save_checkpoint(str(folder)), in_all=True)
        progress = partial(save_progress, training, folder, state, loss, losses.last_logged)
        self._everywhere(place, needed, progress)

        beside = all(self._ranks.gather(self._fits_beside(needed)))
        gathered = training.deepspeed or is_sharded(training.model)
        weights, optimizer = gather_state(training, self._ranks.writes) if gathered else live_state(training)
        if self._ranks.writes:
            if beside and not gathered:
                weights, optimizer = self._copy.of({"weights": weights, "optimizer": optimizer}).values()

            def write() -> None:
                # One more than `keep`, for nodes with disks of their own: this one may not become whole on another.
                kept = self._keep and self._keep + 1
                with explaining_disk_errors(place, needed):
                    save_weights(training, folder, weights, optimizer)
                    finish_checkpoint(place, marker)
                    prune_checkpoints(self._run, state.log_history, kept, self._metric)
                self._copy.pin()  # for the next one

            self._start(write)
        self._pending = state, place, needed
        return beside

    def finish(self) -> TrainerState | None:
        """Wait until the pending checkpoint is whole; its state, or None where none is pending.

        Raises LeapError in all ranks where writing it failed.
        """
        if self._pending is None:
            return None
        (state, place, needed), self._pending = self._pending, None
        self._everywhere(place, needed, self._join)
        prune = partial(prune_checkpoints, self._run, state.log_history, self._keep, self._metric)
        self._everywhere(place, needed, prune)
        return state

    def _fits_beside(self, needed: int) -> bool:
        """Whether training can go on meanwhile: for those ranks to say that write, whose memory is needed."""
        training = self._training
        if not self._ranks.writes:
            return True
        if training.deepspeed or getattr(training.model, "hf_quantizer", None):
            return False  # what their own code writes is the live state
        if self._copy.taken or is_sharded(training.model):  # gathered weights are in the host's memory in any case
            return True
        available = available_memory()
        if fits := has_room_for_copy(needed, available):
            return True
        if not self._explained:
            self._explained = True
            print(
                f"checkpoints stop training: a copy of {gigabytes(needed)} to write them from is too much for the "
                f"{gigabytes(available or 0)} of host memory that are free",
                file=sys.stderr,
            )
        return fits

    def _start(self, work: Callable[[], None]) -> None:
        self._error = None

        def run() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 (raised again by `_join`)
                self._error = error

        # A daemon, so that Python's end does not wait for it: see `_end_at_once`.
        self._thread = threading.Thread(target=run, name="checkpoint", daemon=True)
        self._thread.start()

    def _join(self) -> None:
        assert self._thread
        self._thread.join()
        if self._error:
            raise self._error

    def _end_at_once(self) -> None:
        """Python would abort if it ended while a thread is in C++ code. Only a second Ctrl-C comes here like that."""
        if self._thread and self._thread.is_alive():
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(INTERRUPTED)

    def _everywhere(self, place: Path, needed: int, work: Callable[[], None], in_all: bool = False) -> None:
        """One part of saving, in the ranks that write or in all. Where it fails in one, it ends in a LeapError in all.

        `work` must not call other ranks: one that failed would let them wait for ever.
        """
        failure = None
        if self._ranks.writes or in_all:
            try:
                with explaining_disk_errors(place, needed):
                    work()
            except LeapError as error:
                failure = error
        texts = self._ranks.gather(str(failure or ""))
        if failure:
            raise failure
        if found := [text for text in texts if text]:
            raise LeapError(found[0])
