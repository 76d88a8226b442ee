"""A Trainer that loses no work: whole checkpoints, exact resuming, an orderly end on signals and on a NaN loss."""

import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.tensor import DTensor
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import ExportableState

from leap.errors import LeapError, Stopped
from leap.models.checkpoints import ADAPTER, MARKER, find_checkpoints, is_resumable
from leap.models.loading import load_model
from leap.records.files import read_object
from leap.training.checkpoint_folder import (
    finish_checkpoint,
    partial_folder,
    remove_oldest,
    slim_older,
    start_checkpoint,
    step_of,
    telling_disk_errors,
)
from leap.training.lora import load_adapters
from leap.training.optimizer_state import (
    gather_optimizer_state,
    is_sharded,
    restore_optimizer_state,
    restore_scheduler_state,
)
from leap.training.processes import Processes
from leap.training.stopping import best_step

_LOSS = "loss_since_log.json"  # the loss of the steps that no log entry holds yet
_AGAIN = 2.0  # seconds: torchrun passes on a Ctrl-C that its processes had from the terminal already
_NAMED = 40  # rows in an error


class CheckpointingTrainer(Trainer):
    """The Trainer's loop with LEAP's checkpoints.

    `identity` goes into every checkpoint's marker, `keep` is how many checkpoints stay. A batch may hold "rows", the
    indices of its rows in the training set, whose `place(index)` then names them where a loss is not finite.
    """

    def __init__(
        self, *arguments: Any, identity: dict[str, Any] | None = None, keep: int | None = None, **options: Any
    ) -> None:
        super().__init__(*arguments, **options)
        self.args.logging_nan_inf_filter = False  # it hides a NaN, and waits for the device at every batch
        self._identity, self._keep = identity or {}, keep
        self._process, self._signal, self._told_at = os.getpid(), 0, 0.0
        self._ending = 0  # the signal on which all processes agreed
        self._steps_seen = _Finite()
        self.add_callback(_Moments(self))

    # Training, and its end by a signal

    def train(self, resume_from_checkpoint: Any = None, **options: Any) -> Any:
        """As the Trainer's. Raises Stopped when a signal ended it (a checkpoint is saved), LeapError for a NaN loss."""
        self._processes, self._resumed = Processes(), resume_from_checkpoint
        self._forget_later_scalars()
        with self._listening():
            result = super().train(resume_from_checkpoint=resume_from_checkpoint, **options)
        self._processes.close()
        if self._ending and self.state.global_step < self.state.max_steps:
            raise Stopped(
                f"stopped by {signal.Signals(self._ending).name} after step {self.state.global_step}, which is saved; "
                "run the same command to go on",
                self._ending,
            )
        return result

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """SIGTERM (Slurm's, when the time is up) and SIGINT end training in good order; a second SIGINT at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._told) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _told(self, number: int, frame: Any) -> None:
        if os.getpid() != self._process:  # a forked data loader's worker: a Ctrl-C reaches it too
            return
        now = time.monotonic()
        if self._signal and number == signal.SIGINT and now - self._told_at > _AGAIN:
            raise KeyboardInterrupt
        if not self._signal:
            self._signal, self._told_at = number, now
            if self.args.should_save:
                print(f"{signal.Signals(number).name}: ends after this step with a checkpoint", file=sys.stderr)

    def end_of_step(self, control: Any) -> None:
        """Save and stop where any process was told to: all after the same step, or one would wait for the others."""
        self._ending = self._processes.largest(self._signal)
        if self._ending:
            control.should_save = control.should_training_stop = True

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The summary of a run that is to go on is none. Its mean loss is that of the steps since this start.

        Releases of the Trainer divide the sum by other numbers of steps.
        """
        if "train_loss" in logs:
            steps = self.state.global_step - step_of(self._resumed)
            logs["train_loss"] = self._total_loss_scalar / max(steps, 1)
        if not (self._ending and "train_runtime" in logs):
            super().log(logs, start_time)

    def _forget_later_scalars(self) -> None:
        """TensorBoard drops what a killed run logged after its last checkpoint: those steps are logged anew."""
        from transformers.integrations import TensorBoardCallback

        for callback in self.callback_handler.callbacks:
            if isinstance(callback, TensorBoardCallback) and callback.logging_dir and self.args.should_save:
                from torch.utils.tensorboard import SummaryWriter

                first = step_of(self._resumed) + 1
                callback.tb_writer = SummaryWriter(log_dir=callback.logging_dir, purge_step=first)

    # Losses that are no numbers

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *arguments: Any, **options: Any) -> Tensor:
        """As the Trainer's; remembers the rows and their loss, which stays on the device."""
        rows = list(inputs.pop("rows", ()))
        loss = super().training_step(model, inputs, *arguments, **options)
        self._steps_seen.losses.append((self.state.global_step + 1, rows, loss))
        return loss

    def _maybe_log_save_evaluate(self, tr_loss: Tensor, grad_norm: Any, *arguments: Any, **options: Any) -> None:
        if isinstance(grad_norm, DTensor):  # a part of it, to be added up in all processes
            grad_norm = grad_norm.full_tensor()
        if grad_norm is not None and not self.args.fp16:  # fp16's scaler passes over steps with infinite gradients
            self._steps_seen.norms[self.state.global_step] = grad_norm
        control = self.control
        if control.should_log or control.should_save or control.should_evaluate:  # these wait for the device anyway
            self._refuse_non_finite()
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, *arguments, **options)

    def _refuse_non_finite(self) -> None:
        """Raises LeapError in all processes where a loss or gradient is not finite, or a weight that may be saved."""
        trouble = self._steps_seen.trouble(self._places)
        may_save = self.control.should_save or self.control.should_evaluate  # which may find that its step is the best
        if not trouble and may_save and not _all_finite(self.model.parameters()):
            trouble = f"a weight is not finite after step {self.state.global_step}"
        self._steps_seen = _Finite()
        told = [text for text in self._processes.gather(trouble) if text]
        if told:
            whole = [folder for folder in find_checkpoints(Path(self.args.output_dir)) if is_resumable(folder)]
            raise LeapError(
                f"{told[0]}. Nothing of it is saved ({f'{whole[-1]} is whole' if whole else 'no checkpoint yet'}): "
                "look at these rows, or use a lower learning rate or more warm-up steps"
            )

    def _places(self, rows: list[int]) -> str:
        place = getattr(self.train_dataset, "place", str)
        more = f" and {len(rows) - _NAMED} more" if len(rows) > _NAMED else ""
        return ", ".join(map(place, sorted(rows)[:_NAMED])) + more

    # Writing a checkpoint

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        run, step = Path(self.args.output_dir), self.state.global_step
        place = run / f"checkpoint-{step}"
        self.store_flos()
        loss = fmean(self._processes.gather(self._tr_loss.item()))
        needed = checkpoint_bytes(self.model, self._plain_optimizer())
        marker = {**self._identity, "step": step, "resumable": True, "weights": _dtype(self.model)}
        self._everywhere(place, needed, lambda: start_checkpoint(place, needed), first_only=True)
        self._everywhere(place, needed, lambda: self._save_rng_state(str(partial_folder(place))))
        if self.is_deepspeed_enabled:  # its engine's files are written by all processes
            self._everywhere(place, needed, lambda: self._save_deepspeed(str(partial_folder(place))))
        weights, optimizer = self._gather_state()
        write = lambda: self._write(partial_folder(place), weights, optimizer, loss)  # noqa: E731
        self._everywhere(place, needed, write, first_only=True)
        self._everywhere(place, needed, lambda: finish_checkpoint(place, marker), first_only=True)
        self._everywhere(place, needed, lambda: self._tidy(run), first_only=True)

    def _everywhere(self, place: Path, needed: int, work: Callable[[], None], first_only: bool = False) -> None:
        """One part of saving, in the first or in all processes. Where it fails in one, it ends in a LeapError in all.

        `work` must not call other processes: one that failed would let them wait for ever.
        """
        failure = None
        if self.args.should_save or not first_only:
            try:
                with telling_disk_errors(place, needed):
                    work()
            except LeapError as error:
                failure = error
        texts = self._processes.gather(str(failure or ""))
        if failure:
            raise failure
        if told := [text for text in texts if text]:
            raise LeapError(told[0])

    def _gather_state(self) -> tuple[dict[str, Any] | None, dict[str, Any]]:
        """Whole weights (None: the model's own) and optimiser state in the first process. All processes call it."""
        if self.is_deepspeed_enabled:
            return None, {}
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        weights = get_model_state_dict(self.model, options=options) if is_sharded(self.model) else None
        if weights:  # gathered, tied weights are two: one is saved
            names = {name for name, _ in self.model.named_parameters()}
            twice = {name for name, _ in self.model.named_parameters(remove_duplicate=False)} - names
            weights = {name: value for name, value in weights.items() if name not in twice}
        return weights, gather_optimizer_state(self.model, self._plain_optimizer())

    def _write(self, folder: Path, weights: dict[str, Any] | None, optimizer: dict[str, Any], loss: float) -> None:
        if not self.is_deepspeed_enabled:
            self._save(str(folder), state_dict=weights)  # weights, processor, training arguments
            torch.save(optimizer, folder / "optimizer.pt")
            torch.save(self.lr_scheduler.state_dict(), folder / "scheduler.pt")
        self._save_scaler(str(folder))
        (folder / _LOSS).write_text(json.dumps({"sum": loss, "after_step": self._globalstep_last_logged}))
        for callback in [*self.callback_handler.callbacks, self.control]:
            if isinstance(callback, ExportableState):
                self.state.stateful_callbacks[type(callback).__name__] = callback.state()
        self.state.save_to_json(str(folder / "trainer_state.json"))

    def _save_deepspeed(self, folder: str) -> None:
        self.save_model(folder, _internal_call=True)
        self._save_optimizer_and_scheduler(folder)

    def _tidy(self, run: Path) -> None:
        steps = [step_of(folder) for folder in find_checkpoints(run)]
        best = best_step(self.state.log_history, steps)
        remove_oldest(run, self._keep, None if best is None else str(run / f"checkpoint-{best}"))
        slim_older(run)

    def _plain_optimizer(self) -> Any:
        return getattr(self.optimizer, "optimizer", self.optimizer)  # accelerate wraps it

    # Reading a checkpoint

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        self._load_weights(Path(resume_from_checkpoint))

    def _load_weights(self, folder: Path) -> None:
        """Raises LeapError where they do not fit; the Trainer would go on with the base model's in their place."""
        if (folder / ADAPTER).is_file():
            load_adapters(self.model, folder)
        else:
            saved = load_model(folder, _dtype(self.model), attention=None)
            options = StateDictOptions(full_state_dict=True)  # of divided weights each process takes its part
            set_model_state_dict(self.model, saved.state_dict(), options=options)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or self.is_deepspeed_enabled:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        folder = Path(checkpoint)
        saved = torch.load(folder / "optimizer.pt", map_location="cpu", weights_only=True, mmap=True)
        try:
            restore_optimizer_state(self.model, self._plain_optimizer(), saved)
        except LeapError as error:
            raise LeapError(f"{folder}: {error}") from error
        restore_scheduler_state(self.lr_scheduler, torch.load(folder / "scheduler.pt", weights_only=True))

    def take_up_loss(self) -> None:
        """Go on with the sum of losses that the next log entry is the mean of."""
        if self._resumed and (saved := Path(self._resumed, _LOSS)).is_file():
            values = read_object(saved)
            self._tr_loss.fill_(values["sum"])
            self._total_loss_scalar = -values["sum"]  # it is of steps before this start: see `log`
            self._globalstep_last_logged = values["after_step"]

    def set_other_losses_aside(self) -> None:
        """Held-out losses of other rows than this start's are neither compared with its own nor the lowest."""
        before = read_object(Path(self._resumed, MARKER)) if self._resumed else {}
        if "held_out" in before and before["held_out"] != self._identity.get("held_out"):
            for entry in self.state.log_history:
                if "eval_loss" in entry:
                    entry["eval_loss_of_other_rows"] = entry.pop("eval_loss")


class _Moments(TrainerCallback):
    """What the loop tells a callback only."""

    def __init__(self, trainer: CheckpointingTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        state.compute_steps(args, state.max_steps)  # a resumed state still has the old run's save and log steps
        self._trainer.take_up_loss()
        self._trainer.set_other_losses_aside()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._trainer.end_of_step(control)


@dataclass
class _Finite:
    """Losses (step, rows, loss) and gradient norms by step since the last look at them, still on the device."""

    losses: list[tuple[int, list[int], Tensor]] = field(default_factory=list)
    norms: dict[int, Any] = field(default_factory=dict)

    def trouble(self, places: Callable[[list[int]], str]) -> str:
        """The first step with a loss or gradient that is not finite, and its rows; empty where there is none."""
        if _all_finite([*(loss for *_, loss in self.losses), *self.norms.values()]):
            return ""
        for step, rows, loss in self.losses:
            if not math.isfinite(loss):
                return f"step {step}: the loss is {float(loss)} on the rows {places(rows)}"
        step = next(step for step, norm in self.norms.items() if not math.isfinite(norm))
        rows = [row for other, rows, _ in self.losses for row in rows if other == step]
        return f"step {step}: the gradient is {float(self.norms[step])} on the rows {places(rows)}"


def _all_finite(values: Any) -> bool:
    """Whether all numbers of all tensors are finite, with one wait for the device."""
    found = [torch.isfinite(value).all() for value in map(_local, values)]
    devices = {one.device for one in found}
    return all(bool(torch.stack([one for one in found if one.device == device]).all()) for device in devices)


def _local(value: Any) -> Tensor:
    """A tensor of this process's own; numbers become one, and of a divided tensor it is this process's part."""
    value = value.detach() if isinstance(value, Tensor) else torch.tensor(float(value))
    return value.to_local() if hasattr(value, "to_local") else value


def checkpoint_bytes(model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """The size of weights (an adapter's, where there is one) and optimiser state."""
    adapted = getattr(model, "peft_config", None) is not None
    saved = [parameter for parameter in model.parameters() if parameter.requires_grad or not adapted]
    state = [value for values in optimizer.state.values() for value in values.values() if isinstance(value, Tensor)]
    return sum(tensor.numel() * tensor.element_size() for tensor in [*saved, *state])


def _dtype(model: nn.Module) -> str:
    return str(next(model.parameters()).dtype).removeprefix("torch.")
