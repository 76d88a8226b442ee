"""One training run: check everything, resume what can be resumed, train, leave checkpoints that load anywhere."""

import math
import os
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from leap import provenance
from leap.data.chat import ChatFormat
from leap.data.pictures import PictureEncoder, PictureSize
from leap.data.training_set import CheckedFile, TrainingSet, check_training_file
from leap.errors import LeapError
from leap.models.checkpoints import MARKER, checkpoint_step, weights_hash
from leap.models.loading import load_model, load_processor
from leap.progress import is_main_process, track
from leap.records.files import write_json
from leap.training.recipe import Recipe
from leap.training.resume import find_resume


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

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run, as the Trainer counts them."""
        batches = math.ceil(len(self.train.rows) / (self.recipe.per_device_train_batch_size * processes()))
        an_epoch = math.ceil(batches / self.recipe.gradient_accumulation_steps)
        return self.recipe.max_steps or math.ceil(an_epoch * self.recipe.num_train_epochs)

    @property
    def finished(self) -> bool:
        return self.resume is not None and (checkpoint_step(self.resume) or 0) >= self.steps


def check_run(recipe: Recipe, root: Path) -> Run:
    """Check model, data and output folder before any work. Relative paths start at `root`. Raises LeapError."""
    model, output = root / recipe.model_name_or_path, root / recipe.output_dir
    processor = load_processor(model)
    chat = ChatFormat(processor)
    encoder = PictureEncoder(processor, PictureSize(recipe.image_tokens_min, recipe.image_tokens_max))
    roots = [root / recipe.image_root] if recipe.image_root else [root, root / "data"]
    check = partial(
        check_training_file, image_roots=roots, chat=chat, encoder=encoder, max_length=recipe.model_max_length
    )
    train_file = root / recipe.train_file
    train = check(train_file, max_rows=recipe.max_train_samples, watch=partial(track, what="checking training rows"))
    held_out = None
    if recipe.val_file:
        watch = partial(track, what="checking held-out rows")
        held_out = check(root / recipe.val_file, max_rows=recipe.max_eval_samples, watch=watch)
    identity = {
        "recipe": {**recipe.identity(), "processes": processes()},
        "base_model": weights_hash(model),
        "data": train.fingerprint,
    }
    resume = find_resume(output, identity)
    return Run(recipe, root, model, output, processor, chat, encoder, train, held_out, identity, resume)


def processes() -> int:
    """How many processes train together, as torchrun says."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def describe(run: Run) -> str:
    """The plan of a run, for `--dry-run` and for the start of a real one."""
    recipe, rows = run.recipe, run.train.rows
    lengths = sorted(row.tokens for row in rows)
    size = recipe.per_device_train_batch_size * recipe.gradient_accumulation_steps * processes()
    pictures = Counter(len(row.pictures) for row in rows)
    lines = [
        f"model       {run.model}",
        f"rows        {len(rows)} ({len(run.train.too_long)} longer than {recipe.model_max_length} tokens left out)",
        f"pictures    {', '.join(f'{n} rows with {k}' for k, n in sorted(pictures.items()))}",
        f"tokens      {lengths[0]} to {lengths[-1]} a row, median {lengths[len(lengths) // 2]}; "
        f"{sum(row.label_tokens for row in rows) / len(rows):.0f} label tokens a row",
        f"steps       {run.steps} of {size} rows, learning rate {recipe.learning_rate}",
        f"checkpoints {run.output}/checkpoint-N every {recipe.save_steps} steps",
        f"start       {'continues ' + str(run.resume) if run.resume else 'from the base model'}",
    ]
    if run.train.too_long:
        lines.append(
            f"left out    lines {', '.join(map(str, run.train.too_long[:10]))}{' …' * (len(run.train.too_long) > 10)}"
        )
    return "\n".join(lines)


def train(run: Run, repository: Path, logs: Path) -> Path:
    """Train to the last step and return the last checkpoint's folder. Losses go to TensorBoard files under `logs`.

    Raises Stopped where a signal ended it, with a checkpoint saved.
    """
    from leap.training.checkpoint_folder import training_in

    with training_in(run.output) if is_main_process() else nullcontext():
        if is_main_process() and find_resume(run.output, run.identity) != run.resume:
            raise LeapError(f"{run.output}: another process trained here meanwhile; run the same command again")
        return _train(run, repository, logs)


def _train(run: Run, repository: Path, logs: Path) -> Path:
    from transformers.trainer_callback import PrinterCallback, ProgressCallback

    from leap.data.collate import Collator
    from leap.training.trainer import LeapTrainer, ProgressLines

    recipe = run.recipe
    os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(logs / "tensorboard" / run.output.name))
    model = load_model(run.model, "float32", attention=recipe.attn_implementation)
    held_out = run.held_out and TrainingSet(run.held_out.rows, run.chat, run.encoder, str(recipe.val_file))
    identity = {**run.identity, **provenance.git_state(repository), "versions": provenance.versions()}
    arguments = _arguments(run)
    if is_main_process():
        write_json(run.output / MARKER, identity)
    trainer = LeapTrainer(
        model=model,
        args=arguments,
        data_collator=Collator(run.processor.tokenizer.pad_token_id, run.chat.image_token_id),
        train_dataset=TrainingSet(run.train.rows, run.chat, run.encoder, recipe.train_file),
        eval_dataset=held_out,
        processing_class=run.processor,
        callbacks=[ProgressLines()],
        identity=identity,
        keep=recipe.save_total_limit,
    )
    for chatty in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(chatty)
    trainer.train(resume_from_checkpoint=str(run.resume) if run.resume else None)
    return run.output / f"checkpoint-{trainer.state.global_step}"


# Recipe values that the Trainer is given in another form.
_RESOLVED = ("max_steps", "eval_strategy", "save_total_limit", "output_dir", "deepspeed")


def _arguments(run: Run) -> Any:
    import torch
    from transformers import TrainingArguments

    recipe = run.recipe
    passed = {
        name for name in TrainingArguments.__dataclass_fields__ if name in Recipe.model_fields and name not in _RESOLVED
    }
    if not recipe.gradient_checkpointing:  # off is the default, and newer releases warn of the name
        passed.remove("gradient_checkpointing")
    try:
        arguments = TrainingArguments(
            **recipe.model_dump(include=passed),
            output_dir=str(run.output),
            deepspeed=str(run.root / recipe.deepspeed) if recipe.deepspeed else None,
            max_steps=recipe.max_steps or -1,
            eval_strategy=recipe.eval_strategy or ("steps" if recipe.val_file else "no"),
            save_strategy="steps",
            save_total_limit=None,  # CheckpointingTrainer removes old checkpoints, once the new one is whole
            remove_unused_columns=False,
            disable_tqdm=True,
            dataloader_pin_memory=torch.cuda.is_available(),
            use_cpu=not torch.cuda.is_available(),  # without it, processes on CPUs would each train alone
        )
    except (ValueError, ImportError, RuntimeError, FileNotFoundError) as error:
        raise LeapError(f"the Trainer refuses this recipe here: {str(error).splitlines()[0]}") from error
    if arguments.n_gpu > 1:
        raise LeapError(
            f"{arguments.n_gpu} GPUs are visible to one process: start one process a GPU "
            f"(NUM_GPUS={arguments.n_gpu} bash scripts/training/run-training.sh), or set CUDA_VISIBLE_DEVICES=0"
        )
    return arguments
