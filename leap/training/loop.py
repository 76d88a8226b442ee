"""The training loop, from top to bottom: data, loss, gradients, clipping, the optimiser's step, logs, checkpoints.

`train_loop` is one optimiser step after another; `forward_backward` is what a step does with its micro-batches.
accelerate brings devices, precision, DDP and trackers. Callbacks are transformers' TrainerCallback, with its state and
control, so that those of other projects can be used.
"""

import gc
import os
import random
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainerControl, TrainerState, get_scheduler, set_seed

from leap.data.batch_plan import MicroBatches
from leap.data.chat_encoding import IGNORED
from leap.data.transfer import Arrays, tensors_of
from leap.errors import LeapError, Stopped
from leap.training.checkpoint_writer import FAILED, SAVED, CheckpointWriter
from leap.training.checkpointing import LossSum, Training, load, load_rng_state, load_weights
from leap.training.finite import StepLosses
from leap.training.optimizer_state import is_sharded
from leap.training.optimizers import make_optimizer
from leap.training.ranks import Ranks
from leap.training.recipe import Recipe
from leap.training.schedule import warmup_steps
from leap.training.sharding import Sharded
from leap.training.signals import Signals, stop_message
from leap.training.wall_time import SESSIONS, WallTime
from leap.workers import default_loader_workers, start_loader_worker, usable_workers

_PREFETCH = 3  # micro-batches that each worker may have ready


class InTraining(Protocol):
    """What a benchmark is asked with: this rank's model as it is, on its device."""

    @property
    def recipe(self) -> Recipe: ...
    @property
    def accelerator(self) -> Accelerator: ...
    @property
    def model(self) -> Any: ...
    @property
    def processor(self) -> Any: ...
    @property
    def ranks(self) -> Ranks: ...
    @property
    def state(self) -> TrainerState: ...


class Benchmark(Protocol):
    """A subset of the benchmark that every rank answers its share of (leap.evaluation.training_benchmark)."""

    @property
    def fingerprint(self) -> str: ...

    def __len__(self) -> int: ...

    def scores(self, job: InTraining) -> dict[str, float]: ...


@dataclass
class TrainingJob:
    """All that the loop needs. `train` and `validation` are this rank's micro-batches."""

    recipe: Recipe
    accelerator: Accelerator
    model: nn.Module  # on the rank's device, packed forward and checkpointing installed
    processor: Any
    train: MicroBatches
    validation: MicroBatches | None
    output: Path
    resume: Path | None  # the checkpoint to go on from
    state: TrainerState  # of it, or a new one
    identity: dict[str, Any]  # for the checkpoints' markers
    eval_steps: int | None = None  # steps between evaluations: of the validation samples, of the benchmark, or both
    benchmark: Benchmark | None = None
    base_name: str = ""  # what checkpoints of adapters call their base model
    callbacks: Sequence[TrainerCallback] = ()
    keeps_gradients: bool = True  # of a sharded model: whole ones, summed once a step
    ranks: Ranks = field(default_factory=Ranks)
    wall: WallTime = field(default_factory=WallTime)  # since the run began

    @property
    def output_dir(self) -> str:
        """As callbacks ask the Trainer's arguments for it."""
        return str(self.output)


def train_loop(job: TrainingJob) -> TrainerState:
    """Train to the last step. Raises Stopped where a signal ended it (a checkpoint is saved), LeapError for a NaN loss.

    Every rank calls it.
    """
    recipe, accelerator, plan = job.recipe, job.accelerator, job.train.plan
    set_seed(recipe.seed)
    model, optimizer = _prepare(job)
    scheduler = get_scheduler(
        recipe.lr_scheduler_type,
        optimizer,
        warmup_steps(recipe, plan.steps),
        plan.steps,
        dict(recipe.lr_scheduler_kwargs or {}),
    )
    training = Training(job.model, model, optimizer, scheduler, accelerator, job.processor, job.base_name)
    state = job.state
    state.is_world_process_zero = accelerator.is_main_process
    losses = load(training, job.resume) if job.resume else LossSum(torch.zeros((), device=accelerator.device))
    first_step, wall = state.global_step, job.wall
    earlier = state.stateful_callbacks.get(SESSIONS, [])
    control, seen = TrainerControl(), StepLosses()
    _start_trackers(job, first_step)
    micro_batches = _loader(job.train, recipe, range(first_step * plan.micro_batches, len(job.train)))

    def callbacks(moment: str, at: TrainerState = state, **values: Any) -> None:
        for callback in job.callbacks:
            getattr(callback, moment)(job, at, control, model=job.model, **values)

    def log(values: dict[str, float]) -> None:
        values = {**values, "epoch": state.epoch}
        state.log_history.append({**values, "step": state.global_step})
        prefix = "eval" if any(name.startswith("eval_") for name in values) else "train"
        accelerator.log({f"{prefix}/{name.removeprefix('eval_')}": value for name, value in values.items()},
                        step=state.global_step)  # fmt: skip
        callbacks("on_log", logs=values)

    def complete() -> None:
        """Wait for the checkpoint that is being written, if any. Callbacks hear of it now, and have its state."""
        with wall.spent("saving"):
            if saved := checkpoints.finish():
                callbacks("on_save", saved)

    def count_time() -> None:
        samples = plan.samples_before(state.global_step) - plan.samples_before(first_step)
        session = wall.session(first_step, state.global_step - first_step, samples)
        state.stateful_callbacks = {**state.stateful_callbacks, SESSIONS: [*earlier, session]}

    callbacks("on_train_begin")
    model.zero_grad()
    ended_by = 0
    wall.begin(accelerator.device.type == "cuda")
    with (
        Signals(accelerator.is_main_process) as signals,
        CheckpointWriter(
            training, job.output, job.identity, recipe.save_total_limit, job.ranks, recipe.metric_for_best_model
        ) as checkpoints,
    ):
        while state.global_step < plan.steps and not control.should_training_stop:
            with wall.waiting_for_data():
                step_batches = list(islice(micro_batches, plan.micro_batches))
            if state.global_step == first_step and job.resume:  # the loader's first batches use random numbers, too
                load_rng_state(job.resume, accelerator)
            callbacks("on_step_begin")

            for samples, loss in forward_backward(job, model, step_batches, state.global_step + 1):
                losses.since_log += loss
                seen.losses.append((state.global_step + 1, samples, loss))
            norm = _clip(job, model, optimizer)
            optimizer.step()
            learning_rate = scheduler.get_last_lr()[0]
            if not accelerator.optimizer_step_was_skipped:  # fp16: infinite gradients under too large a loss scale
                scheduler.step()
            model.zero_grad()

            state.global_step += 1
            state.epoch = state.global_step / plan.steps_per_epoch
            if not recipe.fp16:  # whose scaler passes over steps with infinite gradients
                seen.norms[state.global_step] = norm.full_tensor() if isinstance(norm, DTensor) else norm
            news = job.ranks.largest(max(signals.received, checkpoints.news))
            if news in (SAVED, FAILED):
                complete()
            ended_by = news if SAVED < news < FAILED else 0
            last = state.global_step == plan.steps
            control.should_log = state.global_step % recipe.logging_steps == 0
            control.should_evaluate = bool(job.eval_steps) and (last or state.global_step % job.eval_steps == 0)
            control.should_save = last or bool(ended_by) or state.global_step % recipe.save_steps == 0
            control.should_training_stop = last or bool(ended_by)
            callbacks("on_step_end")

            if control.should_log or control.should_evaluate or control.should_save:
                # These wait for the device anyway. An evaluation may find that its step is the best, to be saved.
                weights = job.model.parameters() if control.should_evaluate or control.should_save else []
                seen.refuse_non_finite(job.ranks, job.output, job.train.place, weights, state.global_step, complete)
                seen = StepLosses()
                wall.synchronised(state.global_step - first_step)
            if control.should_log:
                mean = losses.drain(accelerator, state.global_step)
                log({"loss": mean, "grad_norm": _number(norm), "learning_rate": learning_rate})
            if control.should_evaluate:
                with wall.spent("validation"):
                    log(evaluate(job))
                callbacks("on_evaluate")
            if control.should_save:
                complete()  # never more than one
                count_time()
                with wall.spent("saving"):
                    goes_on = checkpoints.save(state, losses)
                if not goes_on:
                    complete()
        complete()
        count_time()
        stopped = ended_by and state.global_step < plan.steps
        if not stopped:  # the summary of a run that is to go on is none
            total = losses.total + losses.since_log.item()
            seconds = state.stateful_callbacks[SESSIONS][-1]["seconds"]
            log({"train_runtime": seconds, "train_loss": total / max(state.global_step - first_step, 1)})
    job.ranks.close()
    for tracker in accelerator.trackers:
        tracker.finish()
    callbacks("on_train_end", stopped=stopped)
    if stopped:
        raise Stopped(stop_message(ended_by, state.global_step), ended_by)
    return state


def forward_backward(
    job: TrainingJob, model: nn.Module, step_batches: list[dict[str, Any]], step: int
) -> Iterator[tuple[list[int], Tensor]]:
    """The gradients of an optimiser step. Yields each micro-batch's samples and its share of the step's loss.

    Gradients are summed over ranks with the last micro-batch. One that runs out of memory is done again in smaller ones
    (`_in_smaller_batches`), with those of the step before it, since the gradients then are those of a part of it.
    """
    label_tokens = step_batches[0]["step_label_tokens"]
    model.train()
    for index, batch in enumerate(step_batches):
        last = index == len(step_batches) - 1
        attempt = _Attempt(job, model, label_tokens)
        loss = attempt.run(batch, last)
        if loss is None:
            loss = _in_smaller_batches(attempt, step_batches[: index + 1], last, step)
        yield batch["sample_indices"], loss


class _Attempt:
    """Forward and backward of one micro-batch, which may run out of memory."""

    def __init__(self, job: TrainingJob, model: nn.Module, label_tokens: int) -> None:
        self.job, self.model, self._label_tokens = job, model, label_tokens

    def run(self, batch: dict[str, Any], sync: bool) -> Tensor | None:
        """The loss, [] on the device; None where memory ended and this rank can try again by itself."""
        accelerator, in_backward = self.job.accelerator, False
        deepspeed = accelerator.distributed_type.value == "DEEPSPEED"  # whose engine counts micro-batches itself
        try:
            with nullcontext() if sync or deepspeed else accelerator.no_sync(self.model):
                loss = step_loss(self.model, self.job, batch, self._label_tokens)
                in_backward = True
                accelerator.backward(loss, **({"scale_wrt_gas": False} if deepspeed else {}))
                return loss.detach()
        except torch.OutOfMemoryError:
            # Once gradients are being summed, the other ranks wait for this one's.
            if deepspeed or is_sharded(self.job.model) or (sync and in_backward and accelerator.num_processes > 1):
                raise
            return None


def _in_smaller_batches(attempt: _Attempt, done: list[dict[str, Any]], last: bool, step: int) -> Tensor:
    """Drop the step's gradients and do its micro-batches up to this one again, each divided until all of them fit.

    Returns the loss of the last of them; those before it are counted already. Raises OutOfMemoryError where samples one
    by one do not fit.
    """
    micro_batches = attempt.job.train
    pieces = [[batch["sample_indices"]] for batch in done]  # of each micro-batch
    while any(len(samples) > 1 for parts in pieces for samples in parts):
        pieces = [[half for samples in parts for half in micro_batches.halves(samples)] for parts in pieces]
        print(
            f"rank {attempt.job.accelerator.process_index}: out of memory in step {step}: its samples so far "
            f"are done again in {sum(map(len, pieces))} batches instead of {len(done)}",
            file=sys.stderr,
            flush=True,
        )
        attempt.model.zero_grad(set_to_none=False)  # DDP's gradients are parts of its buckets
        gc.collect()
        torch.cuda.empty_cache()
        losses: list[Tensor | None] = []
        for parts, batch in zip(pieces, done, strict=True):
            losses = []
            for samples in parts:
                again = micro_batches.batch(samples) if samples else batch
                losses.append(attempt.run(again, sync=last and samples is pieces[-1][-1]))
            if None in losses:
                break
        found = [loss for loss in losses if loss is not None]
        if len(found) == len(losses):
            return torch.stack(found).sum()
    raise torch.OutOfMemoryError("samples one by one do not fit")


def _clip(job: TrainingJob, model: nn.Module, optimizer: Any) -> Any:
    """The norm of all gradients, which the optimiser's next step sees clipped."""
    limit = job.recipe.max_grad_norm or float("inf")
    clip = getattr(getattr(optimizer, "optimizer", None), "clip", None)  # TritonAdamW's, as it reads them
    return clip(limit) if clip else job.accelerator.clip_grad_norm_(model.parameters(), limit)


def step_loss(model: nn.Module, job: TrainingJob, batch: dict[str, Any], label_tokens: int) -> Tensor:
    """A micro-batch's cross-entropy, summed, over the label tokens of the whole step: each token weighs the same in
    whatever micro-batch and on whatever rank it lies."""
    accelerator = job.accelerator
    with accelerator.autocast() if is_sharded(job.model) else nullcontext():  # else the prepared forward has it
        total = summed_loss(model, _to_device(batch, accelerator.device))
    if not total.requires_grad:  # the LLM is frozen, and no sample of the batch has an image
        total = total + 0 * sum(weight.sum() for weight in model.parameters() if weight.requires_grad)
    # Gradients are averaged over ranks, tokens counted over all of them.
    return total / label_tokens * accelerator.num_processes


def summed_loss(model: nn.Module, batch: dict[str, Any]) -> Tensor:
    """The cross-entropy of a batch's label tokens, summed: packed by the packed forward, else of padded samples."""
    if "targets" in batch:  # leap.models.qwen3_vl.packed_forward, to which batches.py gives the `cross_entropy` below
        return model(**batch)
    targets = batch.pop("labels")[:, 1:]  # position t predicts token t + 1
    wanted = targets != IGNORED
    columns = wanted.any(dim=0).nonzero().squeeze(1)  # only these positions go through the vocabulary matrix
    logits = model(**batch, logits_to_keep=columns, use_cache=False).logits
    chosen = wanted[:, columns]
    return cross_entropy(logits[chosen], targets[:, columns][chosen])


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """[labels, vocabulary] and [labels] to their summed loss, in float32."""
    return nn.functional.cross_entropy(logits.float(), targets, reduction="sum")


def evaluate(job: TrainingJob) -> dict[str, float]:
    """The validation loss and the benchmark's scores, of what the run has. Training goes on with the random numbers it
    would have had without them."""
    with kept_random_numbers():
        found = validate(job, job.validation) if job.validation is not None else {}
        return found | (job.benchmark.scores(job) if job.benchmark else {})


@contextmanager
def kept_random_numbers() -> Iterator[None]:
    """What is done within uses none of the run's random numbers."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def validate(job: TrainingJob, validation: MicroBatches) -> dict[str, float]:
    """The validation loss: the mean over all label tokens of the set."""
    started, total = time.time(), torch.zeros((), dtype=torch.float64, device=job.accelerator.device)
    job.model.eval()
    with torch.no_grad():
        for batch in _loader(validation, job.recipe, range(len(validation))):
            with job.accelerator.autocast() if is_sharded(job.model) else nullcontext():
                try:
                    total += summed_loss(job.model, _to_device(batch, job.accelerator.device))
                except torch.OutOfMemoryError as error:
                    message = "validation ran out of memory: lower --per_device_eval_batch_size"
                    raise LeapError(message) from error
    cost = validation.plan.cost
    loss = job.accelerator.reduce(total, "sum").item() / cost.label_tokens.sum()
    seconds = time.time() - started
    rate = round(len(cost.tokens) / seconds, 3)
    return {"eval_loss": float(loss), "eval_runtime": round(seconds, 4), "eval_samples_per_second": rate}


def _prepare(job: TrainingJob) -> tuple[nn.Module, Any]:
    """The model as it is called to train (autocast, DDP), and its optimiser."""
    if job.resume:
        load_weights(job.model, job.resume)
    optimizer = make_optimizer(job.recipe, job.model)
    if is_sharded(job.model):  # each part is where it belongs, and FSDP2 sums the gradients
        return Sharded(job.model, job.keeps_gradients), job.accelerator.prepare_optimizer(optimizer)
    model, optimizer = job.accelerator.prepare(job.model, optimizer)
    return model, optimizer


def _loader(micro_batches: MicroBatches, recipe: Recipe, order: range) -> Iterator[dict[str, Any]]:
    """Micro-batches in order, each made by one worker while earlier ones are trained on."""
    wanted = recipe.dataloader_num_workers
    if wanted is None:
        wanted = default_loader_workers(torch.cuda.is_available(), int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    workers = usable_workers(wanted)
    loader = DataLoader(
        micro_batches,
        batch_size=None,
        sampler=order,
        collate_fn=Arrays,  # type: ignore[arg-type]  # without a batch_size it is given a sample
        num_workers=workers,
        prefetch_factor=_PREFETCH if workers else None,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=start_loader_worker,
        generator=torch.Generator().manual_seed(recipe.seed),  # else it would take from the run's random numbers
    )
    return map(tensors_of, loader)


def _to_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Without waiting: the memory is pinned."""
    return {
        name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
        for name, value in batch.items()
        if name not in ("sample_indices", "step_label_tokens")
    }


def _start_trackers(job: TrainingJob, first_step: int) -> None:
    """TensorBoard drops what a killed run logged after its last checkpoint: those steps are logged anew."""
    run = job.output.name
    job.accelerator.init_trackers(run, init_kwargs={"tensorboard": {"purge_step": first_step + 1}})


def _number(value: Any) -> float:
    value = value.full_tensor() if isinstance(value, DTensor) else value
    return float(value)
