"""What a checkpoint holds, saved and loaded by plain functions that any loop can call.

Weights as transformers saves them, the optimiser's state by the parameters' names (`optimizer_state`), the schedule,
every rank's random numbers, the Trainer's `trainer_state.json`, and the sum of losses that no log entry holds yet.
`checkpoint_folder` makes the folder whole or not there at all.
"""

import json
import random
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.utils.serialization import config as serialization
from transformers import TrainerState
from transformers.trainer_pt_utils import safe_globals

from leap.environment import world_size
from leap.models.checkpoints import ADAPTER, TRAINER_STATE, find_checkpoints, read_log, read_marker
from leap.models.loading import load_model, refusing
from leap.models.lora import has_adapters, load_adapters, name_base
from leap.records.json_files import object_if_there
from leap.training.checkpoint_folder import (
    remove_oldest,
    step_of,
    strip_older,
)
from leap.training.optimizer_state import (
    gather_optimizer_state,
    gather_whole,
    restore_optimizer_state,
    restore_scheduler_state,
)
from leap.training.stopping import Metric, best_step, own_log

_LOSS = "loss_since_log.json"


class _Loss(BaseModel):
    model_config = ConfigDict(strict=True)

    sum: float
    after_step: int


@dataclass(frozen=True)
class Training:
    """What changes while a run trains, and all that it takes to save and load it."""

    model: nn.Module
    wrapped: nn.Module  # as it is called to train: DDP, FSDP2, or DeepSpeed's engine
    optimizer: Any  # accelerate's
    scheduler: Any
    accelerator: Accelerator
    processor: Any
    base_name: str  # what a checkpoint of adapters calls its base model

    @property
    def plain_optimizer(self) -> torch.optim.Optimizer:
        optimizer: torch.optim.Optimizer = getattr(self.optimizer, "optimizer", self.optimizer)
        return optimizer

    @property
    def deepspeed(self) -> bool:
        return self.accelerator.distributed_type.value == "DEEPSPEED"


@dataclass
class LossSum:
    """The losses of the steps after `last_logged`, summed on the device, and of all logged steps of this start."""

    since_log: Tensor
    last_logged: int = 0
    total: float = 0.0

    def drain(self, accelerator: Accelerator, step: int) -> float:
        """The mean loss of the steps since the last call, over all ranks."""
        loss = accelerator.gather(self.since_log).mean().item()
        mean = loss / (step - self.last_logged)
        self.since_log.zero_()
        self.total, self.last_logged = self.total + loss, step
        return float(mean)


def load_state(resume: Path | None, steps: int, identity: dict[str, Any]) -> TrainerState:
    """The state of a run of so many steps; of one that goes on, with its log (see `own_log`)."""
    state = TrainerState()
    if resume:
        read_log(resume)
        with refusing(resume / TRAINER_STATE, "it cannot be read"):
            state = TrainerState.load_from_json(str(resume / TRAINER_STATE))
        state.log_history = own_log(state.log_history, read_marker(resume), identity)
    state.max_steps = steps
    return state


def load_weights(model: nn.Module, folder: Path) -> None:
    """Raises LeapError where they do not fit."""
    if (folder / ADAPTER).is_file():
        load_adapters(model, folder)
    else:
        saved = load_model(folder, weights_dtype(model), attention=None)
        options = StateDictOptions(full_state_dict=True)  # of divided weights each rank takes its part
        set_model_state_dict(model, saved.state_dict(), options=options)


def load(training: Training, folder: Path) -> LossSum:
    """All but weights and random numbers. Raises LeapError where a checkpoint is another model's."""
    if training.deepspeed:
        from transformers.integrations.deepspeed import deepspeed_load_checkpoint

        deepspeed_load_checkpoint(training.wrapped, str(folder))
    else:
        with _going_on_from(folder):
            saved = torch.load(folder / "optimizer.pt", map_location="cpu", weights_only=True, mmap=True)
            restore_optimizer_state(training.model, training.plain_optimizer, saved)
            restore_scheduler_state(training.scheduler, torch.load(folder / "scheduler.pt", weights_only=True))
    if training.accelerator.scaler is not None and (folder / "scaler.pt").is_file():
        with _going_on_from(folder):
            training.accelerator.scaler.load_state_dict(torch.load(folder / "scaler.pt", weights_only=True))
    losses = LossSum(torch.zeros((), device=training.accelerator.device), step_of(folder))
    if values := object_if_there(folder / _LOSS, _Loss):
        losses.since_log.fill_(values["sum"])
        losses.last_logged = values["after_step"]
        losses.total = -values["sum"]  # it is of steps before this start, whose mean the summary is
    return losses


def _going_on_from(folder: Path) -> AbstractContextManager[None]:
    return refusing(folder, "training cannot go on from it; remove it to go on from the one before")


def load_rng_state(folder: Path, accelerator: Accelerator) -> None:
    """Go on with the random numbers of this rank; of a run of other ranks there are none."""
    file = folder / _rng_name(accelerator.process_index, accelerator.num_processes)
    if not file.is_file():
        return
    with safe_globals():  # torch.load refuses all that it does not know, such as NumPy's state
        saved = torch.load(file, weights_only=True)
    random.setstate(saved["python"])
    np.random.set_state(saved["numpy"])
    torch.random.set_rng_state(saved["cpu"])
    if torch.cuda.is_available() and "cuda" in saved:
        if isinstance(saved["cuda"], list):
            torch.cuda.random.set_rng_state_all(saved["cuda"][: torch.cuda.device_count()])
        else:
            torch.cuda.random.set_rng_state(saved["cuda"])


def rng_state() -> dict[str, Any]:
    """This rank's random numbers."""
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "cpu": torch.random.get_rng_state(),
    }
    if torch.cuda.is_available():
        several = world_size() > 1
        state["cuda"] = torch.cuda.random.get_rng_state_all() if several else torch.cuda.random.get_rng_state()
    return state


def save_rng_states(folder: Path, states: list[dict[str, Any]]) -> None:
    """All ranks', in their order."""
    for rank, state in enumerate(states):
        torch.save(state, folder / _rng_name(rank, len(states)))


def _rng_name(rank: int, world_size: int) -> str:
    """As the Trainer names them."""
    return f"rng_state_{rank}.pth" if world_size > 1 else "rng_state.pth"


State = tuple[dict[str, Any], dict[str, Any]]  # weights, and the optimiser's state ({} where DeepSpeed writes it)


def live_state(training: Training) -> State:
    """The run's own tensors, as they are until the next step: of a model with adapters, only those that learn."""
    model = training.model
    weights = model.state_dict()
    if has_adapters(model):
        frozen = {name for name, weight in model.named_parameters() if not weight.requires_grad}
        weights = {name: value for name, value in weights.items() if name not in frozen}
    return weights, gather_optimizer_state(model, training.plain_optimizer)


def gather_state(training: Training, keep: bool) -> State:
    """The whole state in this rank's host memory, which no step changes, if it is to `keep` it. All ranks call it."""
    model = training.model
    if training.deepspeed:
        return training.accelerator.get_state_dict(training.wrapped), {}
    # Gathered, tied weights are two: one is saved.
    names = {name for name, _ in model.named_parameters()}
    twice = {name for name, _ in model.named_parameters(remove_duplicate=False)} - names
    weights = {name: value for name, value in get_model_state_dict(model).items() if name not in twice}
    return gather_whole(weights, keep), gather_optimizer_state(model, training.plain_optimizer, keep)


def save_weights(training: Training, folder: Path, weights: dict[str, Any], optimizer: dict[str, Any]) -> None:
    """The large files, and those that do not change while training."""
    model: Any = training.model
    # Else transformers writes nothing, and says nothing, in all ranks but the first: nodes may have disks of their own.
    model.should_save_on_this_rank = lambda _: True
    model.save_pretrained(folder, state_dict=weights)
    assert any(folder.glob("*.safetensors")), "a checkpoint without weights is none"
    training.processor.save_pretrained(folder)
    if has_adapters(training.model):
        name_base(folder, training.base_name)
    if not training.deepspeed:
        # CRC32 costs seconds a checkpoint, and torch.load does not look at it.
        with serialization.patch("save.compute_crc32", False):  # type: ignore[attr-defined]
            torch.save(optimizer, folder / "optimizer.pt")


def save_progress(training: Training, folder: Path, state: TrainerState, loss: float, last_logged: int) -> None:
    """The small files that say how far training is."""
    if not training.deepspeed:
        torch.save(training.scheduler.state_dict(), folder / "scheduler.pt")
    if training.accelerator.scaler is not None:
        torch.save(training.accelerator.scaler.state_dict(), folder / "scaler.pt")
    (folder / _LOSS).write_text(json.dumps({"sum": loss, "after_step": last_logged}))
    state.save_to_json(str(folder / TRAINER_STATE))


def prune_checkpoints(run: Path, log: list[dict[str, Any]], keep: int | None, metric: Metric) -> None:
    """What is done to older checkpoints when the newest is whole."""
    steps = [step_of(folder) for folder in find_checkpoints(run)]
    best = best_step(log, steps, metric)
    remove_oldest(run, keep, None if best is None else str(run / f"checkpoint-{best}"))
    strip_older(run)


def checkpoint_bytes(model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """The size of weights (an adapter's, where there is one) and optimiser state."""
    adapted = getattr(model, "peft_config", None) is not None
    saved = [parameter for parameter in model.parameters() if parameter.requires_grad or not adapted]
    state = [value for values in optimizer.state.values() for value in values.values() if isinstance(value, Tensor)]
    return sum(tensor.numel() * tensor.element_size() for tensor in [*saved, *state])


def weights_dtype(model: nn.Module) -> str:
    """Such as float32."""
    return str(next(model.parameters()).dtype).removeprefix("torch.")
