"""One training run: check everything, resume what can be resumed, train, leave checkpoints that load anywhere."""

import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from leap import provenance
from leap.data.chat import ChatFormat
from leap.data.checked_file import CheckedFile, check_training_file
from leap.data.pictures import PictureEncoder, PictureSize
from leap.errors import LeapError, first_line
from leap.models.checkpoints import MARKER, checkpoint_step, find_checkpoints, small_files, weights_hash
from leap.models.loading import load_processor
from leap.progress import is_main_process, processes
from leap.records.files import read_object, write_json
from leap.training.batches import check_packing, make_batches
from leap.training.checkpoint_folder import resume_point, training_in
from leap.training.lora import load_adapters, resolve_start
from leap.training.model import load_trainable, plan_training
from leap.training.optimizer_choice import choose_optimizer
from leap.training.processes import Processes, join
from leap.training.recipe import Recipe
from leap.training.resume import find_resume, note_unknown_files
from leap.training.schedule import check_reports, check_schedule, warmup_steps
from leap.training.sharding import check_sharding
from leap.training.stopping import EarlyStopping, best_step, has_stopped, held_out_losses


@dataclass(frozen=True)
class Run:
    """A run that has been checked: its paths, its rows, what it continues."""

    recipe: Recipe
    root: Path  # of the workspace
    model: Path
    output: Path
    processor: Any
    chat: ChatFormat
    encoder: PictureEncoder
    train: CheckedFile
    held_out: CheckedFile | None
    identity: dict[str, Any]
    resume: Path | None  # the newest complete checkpoint
    learning: list[str]  # what learns, told to a person

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run, as the Trainer counts them."""
        an_epoch = math.ceil(len(self.train) / self.recipe.rows_per_step(processes()))
        return self.recipe.max_steps or math.ceil(an_epoch * self.recipe.num_train_epochs)

    @property
    def finished(self) -> bool:
        """Whether the newest checkpoint is the last step's, or that of an early stop."""
        if self.resume is None:
            return False
        patience = self.recipe.early_stopping_patience
        stopped = bool(patience) and has_stopped(_log_history(self.resume), patience)
        return stopped or (checkpoint_step(self.resume) or 0) >= self.steps


def check_run(recipe: Recipe, root: Path, cache: Path) -> Run:
    """Check model, data and output folder before any work. Relative paths start at `root`. Raises LeapError.

    What the check of the data finds is kept in the folder `cache`, so that the next start need not look again.
    """
    model, output = root / recipe.model_name_or_path, root / recipe.output_dir
    recipe = resolve_start(recipe, root)
    join()
    ranks = Processes()
    recipe = recipe.model_copy(update={"optim": choose_optimizer(recipe, model, output, ranks)})
    check_reports(recipe.report_to)
    processor = load_processor(model)
    family = read_object(model / "config.json").get("model_type", "unknown")
    check_sharding(recipe, family)
    check_packing(recipe, family)
    if not PictureEncoder.encodes(processor):
        raise LeapError(f"{model}: training is for models that read images as Qwen's do, not for {family}")
    chat = ChatFormat(processor)
    encoder = PictureEncoder(processor, PictureSize(recipe.image_tokens_min, recipe.image_tokens_max))
    start = root / recipe.resume_from_lora if recipe.resume_from_lora and resume_point(output) is None else None
    learning = plan_training(recipe, model, start)
    roots = [root / recipe.image_root] if recipe.image_root else [root, root / "data"]
    check = partial(
        check_training_file,
        image_roots=roots,
        chat=chat,
        encoder=encoder,
        max_length=recipe.model_max_length,
        cache=cache,
    )
    train = check(root / recipe.train_file, max_rows=recipe.max_train_samples)
    held_out = None
    if recipe.val_file:
        held_out = check(root / recipe.val_file, max_rows=recipe.max_eval_samples, name="held-out rows")
    if "llm" not in recipe.learning and not train.pictures.any():
        raise LeapError(f"{train.path}: no row has a picture, so that nothing would learn while the LLM is frozen")
    identity = {
        "recipe": {**recipe.identity(), "processes": processes()},
        "base_model": weights_hash(model),
        "base_files": small_files(model),
        "data": train.fingerprint,
    }
    resume = find_resume(output, identity)
    note_unknown_files(resume)
    ranks.same("recipe, base model and data of this run", identity)
    ranks.same("validation samples", held_out.fingerprint if held_out else None)
    ranks.same("samples that are used", [(len(rows), int(rows.tokens.sum())) for rows in (train, held_out) if rows])
    ranks.same("checkpoint to resume from", str(resume.name) if resume else None)
    run = Run(recipe, root, model, output, processor, chat, encoder, train, held_out, identity, resume, learning)
    check_schedule(recipe, run.steps)
    return run


def train(run: Run, repository: Path, logs: Path, callbacks: Sequence[Any] = ()) -> Path:
    """Train to the last step and return the last checkpoint's folder. Losses go to TensorBoard files under `logs`.

    `callbacks` are the Trainer's, called after LEAP's own. Raises Stopped where a signal ended it, with a checkpoint
    saved.
    """
    with training_in(run.output) if is_main_process() else nullcontext():
        if is_main_process() and find_resume(run.output, run.identity) != run.resume:
            raise LeapError(f"{run.output}: another process trained here meanwhile; run the same command again")
        with _scalars_under(logs / "tensorboard" / run.output.name):
            return _train(run, repository, callbacks)


@contextmanager
def _scalars_under(folder: Path) -> Iterator[None]:
    """TensorBoard files go there, unless the user's environment says where. The Trainer takes the place from there."""
    name = "TENSORBOARD_LOGGING_DIR"
    if name in os.environ:
        yield
        return
    os.environ[name] = str(folder)
    try:
        yield
    finally:
        del os.environ[name]  # another run of this process has a folder of its own


def _train(run: Run, repository: Path, callbacks: Sequence[Any]) -> Path:
    import torch
    from transformers.trainer_callback import PrinterCallback, ProgressCallback

    from leap.training.fit import optimizer_bytes
    from leap.training.memory_plan import recall, remember
    from leap.training.optimizers import class_and_settings
    from leap.training.report import TrainingReport, about
    from leap.training.sharding import shard
    from leap.training.trainer import LeapTrainer, NoInputGradients, ProgressLines

    recipe = run.recipe
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")  # packs are of many lengths
    arguments = _arguments(run)
    model = load_trainable(recipe, run.model)
    if recipe.resume_from_lora and not run.resume:
        load_adapters(model, run.root / recipe.resume_from_lora)
    if recipe.fsdp and arguments.world_size > 1:
        model = shard(model, arguments.device, getattr(torch, recipe.number))
    elif not recipe.quantization:
        model = model.to(arguments.device)
    ranks = Processes()
    earlier = ranks.first(recall(run.output))
    batches = make_batches(run, model, arguments, optimizer_bytes(model, recipe.optim), earlier)
    ranks.same("division of a step", batches.fit)
    arguments.gradient_accumulation_steps = batches.train.plan.packs
    if is_main_process():
        print(f"batches     {batches.told}", file=sys.stderr, flush=True)
    identity = {**run.identity, **provenance.git_state(repository), "versions": provenance.versions()}
    identity["held_out"] = f"{run.held_out.fingerprint}, {len(run.held_out)} rows" if run.held_out else None
    if is_main_process():
        write_json(run.output / MARKER, identity)
    trainer = LeapTrainer(
        model=model,
        args=arguments,
        train_dataset=batches.train,
        eval_dataset=batches.held_out,
        processing_class=run.processor,
        optimizer_cls_and_kwargs=class_and_settings(recipe),
        callbacks=[
            TrainingReport(about(run, identity, batches.told), batches.train.plan.rows_before),
            ProgressLines(batches.train.plan.rows_before),
            NoInputGradients(),
            *callbacks,
        ],
        identity=identity,
        keep=recipe.save_total_limit,
        part_rates=recipe.part_rates,
        base_name=_under_root(run.model, run.root),
    )
    if recipe.early_stopping_patience:
        trainer.add_callback(EarlyStopping(recipe.early_stopping_patience))
    for chatty in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(chatty)
    try:
        trainer.train(resume_from_checkpoint=str(run.resume) if run.resume else None)
    except torch.OutOfMemoryError as error:  # one that smaller batches could not mend within the step
        raise remember(run.output, trainer.state.global_step + 1, batches.fit) from error
    _tell_best(trainer.state.log_history, run.output)
    return run.output / f"checkpoint-{trainer.state.global_step}"


def _under_root(model: Path, root: Path) -> str:
    """A folder's path from the workspace root, or its whole path outside of it."""
    model, root = Path(os.path.abspath(model)), Path(os.path.abspath(root))  # a link stays a link
    return str(model.relative_to(root) if model.is_relative_to(root) else model)


def _log_history(checkpoint: Path) -> list[dict[str, Any]]:
    return read_object(checkpoint / "trainer_state.json").get("log_history", [])


def _tell_best(log: list[dict[str, Any]], output: Path) -> None:
    best = best_step(log, [checkpoint_step(folder) or 0 for folder in find_checkpoints(output)])
    if best is not None and is_main_process():
        print(f"lowest held-out loss: {held_out_losses(log)[best]:.4f} in {output}/checkpoint-{best}", file=sys.stderr)


# Recipe values that the Trainer is given in another form.
_RESOLVED = ("max_steps", "eval_strategy", "eval_steps", "save_total_limit", "output_dir", "deepspeed", "fsdp",
             "gradient_checkpointing", "num_train_epochs", "warmup_steps", "report_to", "optim")  # fmt: skip


def _evaluation(run: Run) -> dict[str, Any]:
    """When the held-out loss is measured, in steps: epochs are the data's, which the Trainer does not know."""
    recipe = run.recipe
    strategy = recipe.eval_strategy or ("steps" if recipe.val_file else "no")
    if strategy != "epoch":
        return {"eval_strategy": strategy, "eval_steps": recipe.eval_steps}
    return {"eval_strategy": "steps", "eval_steps": math.ceil(len(run.train) / recipe.rows_per_step(processes()))}


def _arguments(run: Run) -> Any:
    import torch
    from transformers import TrainingArguments

    from leap.training.optimizers import STOCHASTIC

    recipe = run.recipe
    passed = {
        name for name in TrainingArguments.__dataclass_fields__ if name in Recipe.model_fields and name not in _RESOLVED
    }
    try:
        arguments = TrainingArguments(
            **recipe.model_dump(include=passed),
            output_dir=str(run.output),
            optim="adamw_torch" if recipe.optim == STOCHASTIC else recipe.optim,  # see class_and_settings
            deepspeed=str(run.root / recipe.deepspeed) if recipe.deepspeed else None,
            max_steps=run.steps,  # the run is one epoch to the Trainer, see LeapTrainer.get_train_dataloader
            **_evaluation(run),
            warmup_steps=warmup_steps(recipe, run.steps),
            report_to=check_reports(recipe.report_to),
            metric_for_best_model="eval_loss" if recipe.val_file else None,
            greater_is_better=False,
            ddp_broadcast_buffers=False,
            ddp_find_unused_parameters=not run.train.pictures.any(),  # each batch uses the vision tower, or none
            save_strategy="steps",
            save_total_limit=None,  # CheckpointingTrainer removes old checkpoints, once the new one is whole
            remove_unused_columns=False,
            disable_tqdm=True,
            dataloader_pin_memory=torch.cuda.is_available(),
            use_cpu=not torch.cuda.is_available(),  # without it, processes on CPUs would each train alone
        )
    except (ValueError, ImportError, RuntimeError, FileNotFoundError) as error:
        raise LeapError(f"the Trainer refuses this recipe here: {first_line(error)}") from error
    if arguments.n_gpu > 1:
        raise LeapError(
            f"{arguments.n_gpu} GPUs are visible to one process: start one process a GPU "
            f"(NUM_GPUS={arguments.n_gpu} bash scripts/training/run-training.sh), or set CUDA_VISIBLE_DEVICES=0"
        )
    return arguments
