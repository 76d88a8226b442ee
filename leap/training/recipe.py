"""A run's recipe: one YAML file, every value checked, every value overridable on the command line."""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    model_validator,
)

from leap.errors import LeapError
from leap.records.files import first_problem, read_text

# These change nothing in what the model learns, so a run may be resumed under other values.
_FREE = {"output_dir", "logging_steps", "save_steps", "save_total_limit", "dataloader_num_workers", "report_to",
         "image_root", "val_file", "eval_strategy", "eval_steps", "per_device_eval_batch_size", "max_eval_samples",
         "gradient_checkpointing"}  # fmt: skip


class Recipe(BaseModel):
    """What a training run does. Names are the Hugging Face Trainer's where it has one.

    Relative paths start at the workspace root. `null` means "not set".
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    model_name_or_path: Annotated[str, Field(description="base model: a folder")]
    train_file: Annotated[str, Field(description="training rows, JSONL")]
    val_file: Annotated[str | None, Field(description="held-out rows for the evaluation loss")] = None
    image_root: Annotated[str | None, Field(description="where relative picture paths start")] = None
    output_dir: Annotated[str, Field(description="where checkpoint-N folders go")] = "output"

    num_train_epochs: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    max_steps: Annotated[PositiveInt | None, Field(description="optimiser steps; overrides the epochs")] = None
    per_device_train_batch_size: PositiveInt = 1
    per_device_eval_batch_size: PositiveInt = 8
    gradient_accumulation_steps: PositiveInt = 1
    max_train_samples: Annotated[PositiveInt | None, Field(description="use the first N rows only")] = None
    max_eval_samples: Annotated[PositiveInt | None, Field(description="use the first N held-out rows only")] = None

    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 1.5e-5
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear"
    warmup_steps: NonNegativeInt = 0
    weight_decay: NonNegativeFloat = 0.0
    max_grad_norm: NonNegativeFloat = 1.0
    optim: Literal["adamw_torch", "adamw_torch_fused", "adamw_bf16_stochastic"] = "adamw_torch"

    model_max_length: Annotated[PositiveInt, Field(description="longer rows are left out and counted, never cut")] = (
        4096
    )
    image_tokens_min: Annotated[PositiveInt, Field(description="of 32x32 pixels")] = 256
    image_tokens_max: Annotated[PositiveInt, Field(description="of 32x32 pixels")] = 768

    bf16: Annotated[bool, Field(description="bf16 arithmetic over fp32 weights")] = False
    fp16: bool = False
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    gradient_checkpointing: bool = False
    deepspeed: Annotated[str | None, Field(description="a DeepSpeed configuration file")] = None

    logging_steps: PositiveInt = 10
    save_steps: PositiveInt = 200
    save_total_limit: Annotated[PositiveInt | None, Field(description="keep the newest N checkpoints")] = None
    eval_strategy: Literal["no", "steps", "epoch"] | None = None  # null: "steps" where there is a val_file
    eval_steps: PositiveInt = 50
    report_to: Annotated[str, Field(description="tensorboard, none, or another of the Trainer's")] = "tensorboard"
    seed: NonNegativeInt = 42
    dataloader_num_workers: NonNegativeInt = 0

    @model_validator(mode="after")
    def consistent(self) -> "Recipe":
        if self.bf16 and self.fp16:
            raise ValueError("bf16 and fp16 exclude each other; set one of them to false")
        if self.optim == "adamw_bf16_stochastic" and not self.bf16:
            raise ValueError("optim=adamw_bf16_stochastic keeps weights in bfloat16; set bf16 to true")
        if self.image_tokens_min > self.image_tokens_max:
            raise ValueError(
                f"image_tokens_min={self.image_tokens_min} is over image_tokens_max={self.image_tokens_max}"
            )
        if self.eval_strategy in ("steps", "epoch") and self.val_file is None:
            raise ValueError(f"eval_strategy={self.eval_strategy} needs a val_file")
        return self

    def identity(self) -> dict[str, Any]:
        """The values that decide what is learned: a checkpoint is resumed only under equal ones."""
        return {name: value for name, value in self.model_dump().items() if name not in _FREE}


def read_recipe(path: Path, overrides: dict[str, Any] | None = None) -> Recipe:
    """A recipe file with `overrides` on top. LeapError names the file and the key that is wrong."""
    if not path.is_file():
        known = ", ".join(sorted(recipe.stem for recipe in path.parent.glob("*.yaml"))) or "none"
        raise LeapError(f"{path}: there is no such recipe; there are: {known}")
    try:
        values = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        place = getattr(error, "problem_mark", None)
        line = f":{place.line + 1}" if place else ""
        raise LeapError(f"{path}{line}: not valid YAML ({getattr(error, 'problem', error)})") from error
    if not isinstance(values, dict):
        raise LeapError(f"{path}: a recipe is a list of `key: value` lines, found {type(values).__name__}")
    try:
        return Recipe.model_validate({**values, **(overrides or {})})
    except ValidationError as error:
        raise LeapError(f"{path}: {_explain(error)}") from error


def _explain(error: ValidationError) -> str:
    problem = error.errors(include_url=False)[0]
    name = str(problem["loc"][0]) if problem["loc"] else ""
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(name, Recipe.model_fields, n=1)
        return f"{name}: unknown key" + (f"; did you mean {near[0]}?" if near else "")
    hint = (
        "; YAML reads 1e-5 as text, write 1.0e-5"
        if isinstance(problem["input"], str) and "e" in str(problem["input"])
        else ""
    )
    return first_problem(error) + (hint if problem["type"].startswith("float") else "")
