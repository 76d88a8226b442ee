"""The base model `leap-tabletop`: a small Qwen3-VL that learns from random weights to see the tabletop scenes.

LEAP's loop trains it on LEAP's packed forward. What differs from fine-tuning is where samples come from: scenes are
rendered once, numbers are drawn on the device, and questions are made as they are needed. Beside the responses, a
linear head on the merged vision tokens learns what each of them shows; it is no part of the model that is saved.
"""

import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from leap import provenance
from leap.data.image import ImageEncoder
from leap.environment import world_size
from leap.models.checkpoints import small_files, weights_hash
from leap.models.image_size import record_size
from leap.models.loading import load_model, load_processor
from leap.progress import is_main_process, quiet_libraries
from leap.records.files import share_weights
from leap.records.json_files import read_object, write_json
from leap.tabletop.base_card import FACTS, write_results
from leap.tabletop.base_exam import examine
from leap.tabletop.numbering import NumberedImages
from leap.tabletop.perception_batches import Collator, PerceptionBatches, PerceptionPlan, Writer
from leap.tabletop.scene_bank import SceneBank, make_bank, read_bank
from leap.tabletop.sight import HEAD_FILE, Sight, load_head, save_head
from leap.tabletop.tiny_model import BASE, IMAGE_SIZE, save_new_model
from leap.tabletop.vocabulary import vocabulary_texts
from leap.training.accelerator import make_accelerator
from leap.training.checkpointing import load_state
from leap.training.loop import TrainingJob, train_loop
from leap.training.ranks import Ranks, join
from leap.training.recipe import Recipe
from leap.training.resume import find_resume

_SHARE_OF_STEP = 0.75  # forward and backward, of all that a step takes (on two GPUs; measured)


@dataclass(frozen=True)
class Pretraining:
    """How much of what: see the flags of scripts/utils/pretrain_tabletop.py."""

    work: Path  # rendered scenes and checkpoints
    output: Path  # the finished model
    scenes: int
    steps: int  # 0 without `end_seconds`: only render
    samples_per_step: int = 512
    validation_scenes: int = 400
    end_seconds: float | None = None  # in place of `steps`: as many as fit until then, counted from the start
    learning_rate: float = 1.5e-3
    warmup_steps: int = 300
    seed: int = 0
    start: Path | None = None  # a model to go on from instead of random weights
    workers: int = 2
    render_seconds: float = float("inf")  # after which training has to do with the scenes that are there; 0: at once


class _Report(TrainerCallback):
    """Prints both losses, and keeps the head beside each checkpoint: as it is when that is complete, some steps on."""

    def __init__(self, sight: Sight) -> None:
        self._sight = sight

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self._since = time.monotonic()
        if args.resume:
            load_head(model, args.resume)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if "loss" in logs and self._sight.steps:
            responses, shown = (self._sight.sums / self._sight.steps).tolist()
            seconds, self._since = time.monotonic() - self._since, time.monotonic()
            rate = self._sight.steps * args.train.plan.samples / seconds
            state.log_history[-1].update(responses_loss=responses, scene_loss=shown, samples_per_second=rate)
            if is_main_process():
                line = f"step {state.global_step}  responses {responses:.4f}  scenes {shown:.4f}  {rate:.0f} samples/s"
                print(line, file=sys.stderr, flush=True)
            self._sight.sums.zero_()
            self._sight.steps = 0

    def on_save(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if is_main_process():
            save_head(model, args.output / f"checkpoint-{state.global_step}")


def pretrain(how: Pretraining, repository: Path) -> None:
    """Render, train, save, measure, write the card. Every part goes on where it was interrupted.

    Where the model is there already, it is only measured and its card written anew.
    """
    quiet_libraries()
    join()
    started = time.monotonic()
    validation, train = render(how)
    if not (how.steps or how.end_seconds):
        return
    if not (how.output / FACTS).is_file():
        _train(how, train, started, repository)
    if is_main_process():
        write_results(how.output, examine(how.output, validation, how.seed), validation.count)


def _train(how: Pretraining, bank: SceneBank, started: float, repository: Path) -> None:
    rendered = time.monotonic()
    first = how.start or _first_model(how)
    processor = load_processor(first)
    accelerator = make_accelerator(_recipe(how, first), how.work, how.work / "logs", find_unused=False)
    model = load_model(first, "float32", attention=None).to(accelerator.device)
    images = NumberedImages(bank, accelerator.device)
    sight = Sight(model, ImageEncoder(processor, IMAGE_SIZE), images, accelerator.device.type == "cuda")
    sight.install()
    if how.start and (how.start / HEAD_FILE).is_file():
        load_head(model, how.start)
    rank, count = accelerator.process_index, accelerator.num_processes
    collate = Collator(model.config, Writer(processor.tokenizer))
    train = PerceptionBatches(PerceptionPlan(how.steps, how.samples_per_step), bank, collate, how.seed, rank, count)
    ranks = Ranks()
    if how.end_seconds:
        steps = ranks.gather(_steps_within(started + how.end_seconds, model, train))
        train = replace(train, plan=replace(train.plan, steps=min(steps)))
    recipe = _recipe(replace(how, steps=train.plan.steps), first)
    identity = {
        "recipe": {**recipe.identity(), "processes": world_size()},
        "base_model": weights_hash(first),
        "base_files": small_files(first),
        "data": f"{bank.seed}: {bank.count} scenes",
    }
    output = how.work / "checkpoints"
    resume = find_resume(output, identity)
    state = train_loop(
        TrainingJob(
            recipe=recipe,
            accelerator=accelerator,
            model=model,
            processor=processor,
            train=train,  # type: ignore[arg-type]  # as MicroBatches, of which the loop asks no more than it has
            validation=None,
            output=output,
            resume=resume,
            state=load_state(resume, train.plan.steps, identity),
            identity=identity,
            callbacks=[_Report(sight)],
            ranks=ranks,
        )
    )
    if not is_main_process():
        return
    seconds = {"render": round(rendered - started), "train": round(time.monotonic() - rendered)}
    save_base(model, processor, how.output)
    facts = {
        **provenance.origin(repository),
        "device": f"{count} x {provenance.device_name(str(accelerator.device))}",
        "scenes": bank.count,
        "steps": state.global_step,
        "planned_steps": train.plan.steps,
        "samples_per_step": how.samples_per_step,
        "learning_rate": how.learning_rate,
        "seed": how.seed,
        "seconds": seconds,
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "log": [entry for entry in state.log_history if "loss" in entry],
    }
    if how.start and (how.start / FACTS).is_file():
        facts["started_from"] = read_object(how.start / FACTS)
    write_json(how.output / FACTS, facts)


def save_base(model: Any, processor: Any, folder: Path) -> None:
    """The model without its head, in bfloat16, with its processor."""
    del model.scene_head
    for config in (model.config.text_config, model.config.vision_config):
        config.dtype = torch.bfloat16
    model.to(torch.bfloat16).save_pretrained(folder)
    record_size(processor, IMAGE_SIZE)
    processor.save_pretrained(folder)
    share_weights(folder)


def render(how: Pretraining) -> tuple[SceneBank, SceneBank]:
    """The validation scenes and those to train on. The first rank renders while the others wait."""
    banks = []
    for name, count in (("validation", how.validation_scenes), ("train", how.scenes)):
        folder, done, started = how.work / name, 0, time.monotonic()
        if is_main_process() and how.render_seconds > 0:
            for rendered in make_bank(folder, count, f"{how.seed}/{name}", how.workers):
                done, seconds = done + rendered, time.monotonic() - started
                if done % 4096 < rendered:
                    print(f"rendering {name}: {done} in {seconds:.0f} s", file=sys.stderr, flush=True)
                if seconds > how.render_seconds:
                    break
        Ranks().wait()
        banks.append(read_bank(folder))
        if is_main_process():
            print(f"rendered {name}: {banks[-1].count}", file=sys.stderr, flush=True)
    return banks[0], banks[1]


def _steps_within(end: float, model: Any, train: PerceptionBatches) -> int:
    """How many steps can be trained until `end` (of time.monotonic): forward and backward are timed, once compiled."""
    device = model.device
    made = [train[step] for step in range(4)]
    taken = 0.0
    for round_ in range(8):
        if round_ == 4:  # shapes and kernels are known now
            _wait_for(device)
            taken = time.monotonic()
        for batch in made:
            values = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}
            del values["sample_indices"], values["step_label_tokens"]
            with _mixed(device):
                loss = model(**values)
            (loss / len(values["targets"])).backward()
            model.zero_grad()
    _wait_for(device)
    seconds = (time.monotonic() - taken) / (4 * len(made))
    steps = int((end - time.monotonic()) / seconds * _SHARE_OF_STEP)
    print(f"a step takes {seconds * 1e3:.0f} ms: {steps} of them", file=sys.stderr, flush=True)
    return max(steps, 2)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _mixed(device: torch.device) -> Any:
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()


def _first_model(how: Pretraining) -> Path:
    """Random weights and a vocabulary, made once."""
    folder = how.work / "random"
    if is_main_process() and not (folder / "model.safetensors").is_file():
        save_new_model(folder, vocabulary_texts(how.seed), how.seed, BASE)
    Ranks().gather(0)
    return folder


def _recipe(how: Pretraining, model: Path) -> Recipe:
    on_gpu = torch.cuda.is_available()
    return Recipe.model_validate(
        {
            "model_name_or_path": str(model),
            "train_file": "made as it is needed",
            "max_steps": how.steps,
            "per_device_train_batch_size": how.samples_per_step,
            "learning_rate": how.learning_rate,
            "lr_scheduler_type": "cosine",
            "warmup_steps": how.warmup_steps,
            "weight_decay": 0.01,
            "bf16": on_gpu,
            "optim": "adamw_torch_fused" if on_gpu else "adamw_torch",
            "logging_steps": max(1, min(50, how.steps // 4)),
            "save_steps": max(1, how.steps // 4),
            "save_total_limit": 1,
            "seed": how.seed,
            "dataloader_num_workers": how.workers // world_size() if how.workers > 2 else 0,
            "report_to": "none",
        }
    )
