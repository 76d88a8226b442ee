"""One training run: check everything, resume what can be resumed, train, leave checkpoints that load anywhere."""

import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from leap import provenance
from leap.data.chat import ChatFormat
from leap.data.pictures import PictureEncoder, PictureSize, picture_dimensions
from leap.data.training_set import CheckedFile, TrainingSet, check_training_file
from leap.errors import LeapError
from leap.hardware import gpu_states
from leap.models.checkpoints import MARKER, checkpoint_step, find_checkpoints, weights_hash
from leap.models.loading import load_model, load_processor
from leap.progress import is_main_process, track
from leap.records.files import read_object, write_json
from leap.training import memory
from leap.training.flops import sample_flops
from leap.training.recipe import Recipe


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


def find_resume(output: Path, identity: dict[str, Any]) -> Path | None:
    """The newest complete checkpoint of this very run. Raises LeapError where the folder holds another's."""
    found = find_checkpoints(output)
    started = output / MARKER  # written before the first step, so that a run is known before its first checkpoint
    complete = [folder for folder in found if (folder / MARKER).is_file()]
    if found and not complete and not started.is_file():
        raise LeapError(
            f"{found[-1]}: LEAP did not write it, and training here would overwrite it. "
            "Give this run a folder of its own (--output_dir output/NAME)"
        )
    for marker in [complete[-1] / MARKER] if complete else [started] if started.is_file() else []:
        _refuse_another_run(marker, identity)
    return complete[-1] if complete else None


def _refuse_another_run(marker: Path, identity: dict[str, Any]) -> None:
    found = read_object(marker)
    different = [part for part in ("base_model", "data") if found.get(part) != identity[part]]
    wanted, had = identity["recipe"], found.get("recipe", {})
    different += [
        f"{key} ({had.get(key)} there, {wanted.get(key)} now)"
        for key in sorted(wanted.keys() | had.keys())
        if wanted.get(key) != had.get(key)
    ]
    if different:
        raise LeapError(
            f"{marker.parent}: it belongs to another run: {', '.join(different)} differ. "
            "Give this run a folder of its own (--output_dir output/NAME), or move the old checkpoints away"
        )


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
        *_costs(run),
        f"start       {'continues ' + str(run.resume) if run.resume else 'from the base model'}",
    ]
    if run.train.too_long:
        lines.append(
            f"left out    lines {', '.join(map(str, run.train.too_long[:10]))}{' …' * (len(run.train.too_long) > 10)}"
        )
    return "\n".join(lines)


def _costs(run: Run) -> list[str]:
    """Memory, disk and hours, as far as they are known before the first step."""
    recipe = run.recipe
    trained, frozen = memory.count_weights(run.model)
    held = memory.states(trained, frozen, recipe.optim, recipe.bf16)
    size = memory.checkpoint_size(trained, frozen, recipe.optim, adapter=False)
    written = math.ceil(run.steps / recipe.save_steps)
    kept = min(written, recipe.save_total_limit or written)
    lines = [
        f"memory      {memory.gigabytes(held.total)} a GPU for weights, gradients and optimiser; activations on top",
        f"disk        {memory.gigabytes(size.of_run(kept, whole=kept))} for {kept} checkpoints of "
        f"{memory.gigabytes(size.whole)}",
    ]
    gpus = gpu_states()
    flops = _row_flops(run) * run.steps * recipe.per_device_train_batch_size * recipe.gradient_accumulation_steps
    if gpus and flops and (hours := memory.hours(flops, gpus[0].name)):
        share = f"{memory.ASSUMED_UTILISATION:.0%} of the peak of {gpus[0].name}"
        lines.append(f"hours       {hours:.1f} at {share} (assumed); {flops / 1e18:.2f} EFLOP a GPU")
    return lines


def _row_flops(run: Run, sample: int = 200) -> float:
    """Of a row, the mean of some; 0 for models whose operations are not counted."""
    config = read_object(run.model / "config.json")
    if config.get("model_type") != "qwen3_vl":
        return 0.0
    merge = config["vision_config"]["spatial_merge_size"] ** 2
    rows = run.train.rows[:: max(1, len(run.train.rows) // sample)]
    patches = [[merge * run.encoder.tokens(*picture_dimensions(path)) for path in row.pictures] for row in rows]
    counted = [
        sample_flops(config, row.tokens, row.label_tokens, own).total for row, own in zip(rows, patches, strict=True)
    ]
    return sum(counted) / len(counted)


def train(run: Run, repository: Path, logs: Path, callbacks: Sequence[Any] = ()) -> Path:
    """Train to the last step and return the last checkpoint's folder. Losses go to TensorBoard files under `logs`.

    `callbacks` are the Trainer's, called after LEAP's own.
    """
    from transformers.trainer_callback import PrinterCallback, ProgressCallback

    from leap.data.collate import Collator
    from leap.training.optimizers import STOCHASTIC, class_and_settings
    from leap.training.report import TrainingReport
    from leap.training.trainer import Completion, LeapTrainer, ProgressLines

    recipe = run.recipe
    os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(logs / "tensorboard" / run.output.name))
    model = load_model(
        run.model, "bfloat16" if recipe.optim == STOCHASTIC else "float32", attention=recipe.attn_implementation
    )
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
        optimizer_cls_and_kwargs=class_and_settings(recipe),
        callbacks=[
            Completion(identity, recipe.save_total_limit),
            TrainingReport(_about(run, identity)),
            ProgressLines(),
            *callbacks,
        ],
    )
    for chatty in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(chatty)
    trainer.train(resume_from_checkpoint=str(run.resume) if run.resume else None)
    return run.output / f"checkpoint-{trainer.state.global_step}"


def _about(run: Run, identity: dict[str, Any]) -> dict[str, Any]:
    """What the run's report says of recipe, environment and data."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    kept = ("commit", "dirty", "versions", "base_model")
    return {
        "recipe": run.recipe.model_dump(mode="json"),
        "environment": {
            **{name: identity[name] for name in kept},
            "device": provenance.device_name(device),
            "processes": processes(),
            "command": provenance.command(),
        },
        "data": {
            "train_file": run.recipe.train_file,
            "fingerprint": run.train.fingerprint,
            "rows": len(run.train.rows),
            "too_long": len(run.train.too_long),
        },
    }


# Recipe values that the Trainer is given in another form.
_RESOLVED = ("max_steps", "eval_strategy", "save_total_limit", "output_dir", "deepspeed", "optim")


def _arguments(run: Run) -> Any:
    import torch
    from transformers import TrainingArguments

    from leap.training.optimizers import STOCHASTIC

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
            optim="adamw_torch" if recipe.optim == STOCHASTIC else recipe.optim,  # it is given to the Trainer as it is
            deepspeed=str(run.root / recipe.deepspeed) if recipe.deepspeed else None,
            max_steps=recipe.max_steps or -1,
            eval_strategy=recipe.eval_strategy or ("steps" if recipe.val_file else "no"),
            save_strategy="steps",
            save_total_limit=None,  # `Completion` removes old checkpoints, after the new one is marked complete
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
