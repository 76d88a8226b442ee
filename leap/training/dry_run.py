"""The plan of a run, printed before it starts: what is trained on what, and memory, disk and hours that it takes."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from leap.environment import world_size
from leap.hardware import available_memory, gpu_states
from leap.models.checkpoints import read_config
from leap.models.families import family
from leap.training import memory
from leap.training.batches import why_padded
from leap.training.flops import Trained, sample_flops
from leap.training.recipe import Recipe
from leap.training.sharding import shards
from leap.training.trainable_model import Trainable

if TYPE_CHECKING:
    from leap.training.fine_tune import Run


def describe(run: "Run") -> str:
    """The plan of a run, for `--dry_run` and for the start of a real one."""
    recipe, samples = run.recipe, run.train
    size = run.global_batch_size
    images = enumerate(np.bincount(samples.images).tolist())
    lines = [
        f"model       {run.model}",
        f"samples     {len(samples)} ({len(samples.too_long)} longer than {recipe.model_max_length} tokens left out; "
        f"{samples.duplicates} repeat an earlier sample)",
        f"images      {', '.join(f'{count} samples with {number}' for number, count in images if count)}",
        f"tokens      {samples.tokens.min()} to {samples.tokens.max()} a sample, median "
        f"{np.median(samples.tokens):.0f}; {samples.label_tokens.mean():.0f} label tokens a sample",
        *_read_as(run),
        *_validation(run),
        f"steps       {run.steps} of {min(size, len(samples))} samples, learning rate {recipe.learning_rate}",
        *(f"trainable   {line}" for line in run.trainable.lines),
        *_packing(run),
        f"checkpoints {run.output}/checkpoint-N every {recipe.save_steps} steps",
        *_costs(run),
        *_ranks(run),
        f"start       {'continues ' + str(run.resume) if run.resume else 'from the base model'}",
    ]
    if samples.report and (samples.too_long or samples.duplicates):
        lines.append(f"report      {samples.report}")
    return "\n".join(lines)


def _read_as(run: "Run") -> list[str]:
    """The form of each file, with its first sample as text: a form that was taken for another shows."""
    files = [*run.train.files, *(run.validation.files if run.validation else [])]
    return [
        f"read as     {file.path.name}: {file.format.title}; sample 1 of {len(file)}: {file.first()}" for file in files
    ]


def _packing(run: "Run") -> list[str]:
    reason = why_padded(run.recipe, str(read_config(run.model).get("model_type")))
    return [f"packing     none ({reason}): samples are padded, which is slower"] if reason else []


def _ranks(run: "Run") -> list[str]:
    begun, now = run.identity["recipe"]["processes"], world_size()
    return [f"ranks       {now}, of {begun} that it began with: its steps keep their samples"] if begun != now else []


def _validation(run: "Run") -> list[str]:
    if run.eval_steps is None:
        return []
    lines = []
    if run.benchmark:
        lines = [f"benchmark   {len(run.benchmark)} examples, every {run.eval_steps} steps and after the last"]
    if run.validation is None:
        return lines
    line = f"validation  {len(run.validation)} samples, every {run.eval_steps} steps and after the last"
    if run.shared:
        line += f"; {run.shared} of them are training samples too, so that the loss is too low"
    return [line, *lines]


@dataclass(frozen=True)
class Costs:
    """What a run takes, as far as it is known before the first step."""

    trained: int  # weights
    frozen: int
    shares: int  # ranks that these are divided among
    held: int  # bytes a GPU: weights, gradients, optimiser states
    size: memory.CheckpointSize
    written: int  # checkpoints
    kept: int  # of them
    flops: float  # of the whole run; 0 for models whose operations are not counted


def costs(run: "Run") -> Costs:
    recipe = run.recipe
    trained, frozen = run.trainable.trained, run.trainable.frozen
    shares = shards(recipe)
    written = math.ceil(run.steps / recipe.save_steps)
    return Costs(
        trained,
        frozen,
        shares,
        memory.state_bytes(trained, frozen, recipe.optim, recipe.bf16, _frozen_bytes(recipe)) // shares,
        memory.checkpoint_size(trained, frozen, recipe.optim, adapter=recipe.finetuning == "lora"),
        written,
        min(written, recipe.save_total_limit or written),
        _sample_flops(run) * run.steps * run.global_batch_size / world_size(),
    )


def _costs(run: "Run") -> list[str]:
    """Memory, disk and hours."""
    found = costs(run)
    size, flops = found.size, found.flops
    lines = [
        f"memory      {memory.gigabytes(found.held)} a GPU for weights, gradients and {run.recipe.optim}"
        f"{f', divided among {found.shares}' if found.shares > 1 else ''}; micro-batches fill the rest",
        f"disk        {memory.gigabytes(size.of_run(found.kept))} for {found.kept} checkpoints: the newest two of "
        f"{memory.gigabytes(size.whole)}, older ones without optimiser {memory.gigabytes(size.stripped)}",
    ]
    available = available_memory()
    beside = _written_beside(run.recipe) and memory.has_room_for_copy(size.whole, available)
    copy = f"a copy of {memory.gigabytes(size.whole)} in host memory"
    free = f" ({memory.gigabytes(available)} are free)" if available is not None else ""
    lines.append(
        f"saving      while training goes on, from {copy}{free}"
        if beside
        else f"saving      stops training: {copy} is too much{free}"
        if _written_beside(run.recipe)
        else "saving      stops training (DeepSpeed's and quantised models are written as they are)"
    )
    gpus = gpu_states()
    if gpus and flops and (rate := memory.assumed_rate(gpus[0].name)):
        hours = flops / rate / 3600
        share = f"{memory.ASSUMED_UTILISATION:.0%} of the peak of {gpus[0].name}"
        saving = memory.saving_seconds(size, found.written, hours * 3600 / found.written, beside) / 3600
        lines.append(
            f"hours       {hours + saving:.1f}: {hours:.1f} of steps at {share}, {saving:.2f} of waiting for "
            f"checkpoints on a disk of {memory.gigabytes(memory.ASSUMED_DISK)}/s (both assumed); "
            f"{flops / 1e18:.2f} EFLOP a GPU"
        )
    return lines


def _written_beside(recipe: Recipe) -> bool:
    """Whether checkpoints are written while training goes on, where host memory holds a copy."""
    return not (recipe.deepspeed or recipe.quantization)


def _frozen_bytes(recipe: Recipe) -> float:
    """Of a weight that stays as it is."""
    if recipe.quantization:
        return {"4bit": 0.6, "8bit": 1.1}[recipe.quantization]
    return 2 if recipe.finetuning == "lora" and recipe.bf16 else 4


def _sample_flops(run: "Run", sample: int = 200) -> float:
    """Of a sample, the mean of some; 0 for models whose operations are not counted."""
    config = read_config(run.model)
    if not family(str(config.get("model_type"))).counts_flops:
        return 0.0
    samples, trained = run.train, _trained(run.recipe, run.trainable)
    counted = []
    for index in range(0, len(samples), max(1, len(samples) // sample)):
        # As floats: these products do not fit the arrays' int32.
        images, tokens, labels = (
            int(samples.images[index]),
            float(samples.tokens[index]),
            float(samples.label_tokens[index]),
        )
        patches = [int(samples.patches[index]) // max(1, images)] * images
        flops = sample_flops(config, tokens, labels, patches, trained)
        counted.append(flops.total)
    return sum(counted) / len(counted)


def _trained(recipe: Recipe, trainable: Trainable) -> Trained:
    if recipe.finetuning == "lora":
        layers = dict(trainable.adapted)
        return Trained(False, False, False, recipe.lora_r, layers.pop("llm", ()), layers)
    return Trained(not recipe.freeze_vision, not recipe.freeze_projector, not recipe.freeze_llm)
