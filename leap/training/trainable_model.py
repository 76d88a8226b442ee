"""The model that a recipe trains: loaded in the right dtype, its components frozen or adapted."""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from leap.errors import LeapError, first_line
from leap.models.checkpoints import ADAPTER, read_config
from leap.models.components import count_weights, freeze, knows_components, trainable_components
from leap.models.families import Component
from leap.models.loading import emulated, has_bfloat16, load_model, pick_device
from leap.models.lora import add_adapters, check_start, count_targets, describe_adapters, describe_start
from leap.training.batches import why_padded
from leap.training.optimizers import weights_dtype
from leap.training.recipe import Recipe


def load_trainable(recipe: Recipe, folder: Path) -> Any:
    """The base model in `folder`, ready to train: on the CPU, a quantized one on this rank's device."""
    # Packed samples have an attention of their own, which needs no package.
    packed = why_padded(recipe, str(read_config(folder).get("model_type"))) is None
    attention = "sdpa" if packed else recipe.attn_implementation
    if recipe.finetuning == "full":
        dtype = weights_dtype(recipe.optim)
        model = load_model(folder, dtype, attention=attention)
        freeze(model, recipe.frozen)
        return model
    # The weights beside the adapters get no updates that could round away, so bf16 is enough where bf16 is wanted.
    model = load_model(
        folder,
        "bfloat16" if recipe.bf16 else "float32",
        device=_device() if recipe.quantization else "cpu",
        attention=attention,
        quantization=recipe.quantization,
    )
    add_adapters(model, recipe)
    return model


def _device() -> str:
    """Where a quantized model has to be put while it is loaded: this rank's GPU, or the CPU."""
    found = pick_device()
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if found == "cuda" else found


def check_dtype(recipe: Recipe) -> None:
    """Raises LeapError where this rank's GPU would only emulate bfloat16."""
    device = _device()
    if recipe.bf16 and device.startswith("cuda") and not has_bfloat16(device):
        raise LeapError(
            f"bf16: {emulated(device)}; take float16 (--bf16 false --fp16) or float32 (--bf16 false), with optim=auto"
        )


@dataclass(frozen=True)
class Trainable:
    """What of a model is trained."""

    lines: list[str]  # for a person to read
    trained: int  # parameters
    frozen: int
    adapted: dict[Component, Counter[str]]  # how many layers have adapters, by the last word of their names


def plan_training(recipe: Recipe, folder: Path, start: Path | None = None) -> Trainable:
    """What will learn, from the model's configuration alone. Raises LeapError where the recipe does not fit it.

    By the model's names, which are not those of its files in all families. `start` is the adapter to start from; a run
    that goes on from a checkpoint of its own needs it no more.
    """
    if (folder / ADAPTER).is_file():
        raise LeapError(
            f"{folder}: an adapter cannot be the base of a training run; "
            f"merge it first: python scripts/training/export_model.py --checkpoint {folder} --output FOLDER"
        )
    model = _skeleton(folder)
    if recipe.component_rates:
        trainable_components(model)  # an error here, not after the first minutes
    lines, adapted = [], {}
    if recipe.finetuning == "full":
        freeze(model, recipe.frozen)
    else:
        adapted = count_targets(model, recipe)
        lines.append(describe_adapters(adapted, recipe))
        add_adapters(model, recipe)
    if start:
        check_start(model, recipe, folder, start)
    if recipe.resume_from_lora:
        lines.append(describe_start(start or Path(recipe.resume_from_lora)))
    trained, total = count_weights(model.parameters())
    return Trainable([*lines, _counts(model)], trained, total - trained, adapted)


def _skeleton(folder: Path) -> Any:
    """The model without its weights."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        with torch.device("meta"):
            return AutoModelForImageTextToText.from_config(config)
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        raise LeapError(f"{folder}: the model cannot be built ({first_line(error)})") from error


def _counts(model: nn.Module) -> str:
    counts = trainable_components(model) if knows_components(model) else {"model": count_weights(model.parameters())}
    trainable, total = (sum(column) for column in zip(*counts.values(), strict=True))
    components = ", ".join(f"{component} {some:,}" for component, (some, _) in counts.items() if some)
    return f"{trainable:,} of {total:,} parameters are trainable ({trainable / total:.2%}): {components}"
