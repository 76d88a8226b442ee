"""A run's recipe: one YAML file, every value checked, every value overridable on the command line."""

import difflib
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
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
from leap.records.litter import listed

# These change nothing in what the model learns, so a run may be resumed under other values.
_FREE = {"output_dir", "logging_steps", "save_steps", "save_total_limit", "dataloader_num_workers", "report_to",
         "image_root", "val_file", "eval_strategy", "eval_steps", "per_device_eval_batch_size", "max_eval_samples",
         "gradient_checkpointing", "packing", "tokens_per_pack", "compile", "early_stopping_patience",
         "fsdp"}  # fmt: skip
Part = Literal["vision", "projector", "llm"]
PARTS: tuple[Part, ...] = ("vision", "projector", "llm")  # `leap.training.parts` says what belongs to each
Rate = Annotated[float, Field(gt=0, lt=1)]


def _split(value: Any) -> Any:
    """A list as a command line gives it: a,b,c."""
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _word_no(value: Any) -> Any:
    """YAML reads `no` as false."""
    return "no" if value is False else value


def _numbers(value: Any) -> Any:
    """{min_lr: 1e-6} as it is meant: YAML 1.1 reads such a number as text."""
    return {key: _number(text) for key, text in value.items()} if isinstance(value, dict) else value


def _number(value: Any) -> Any:
    if isinstance(value, str):
        with suppress(ValueError):
            return float(value)
    return value


def _part_rate(part: str) -> Any:
    return Field(default=None, description=f"of the {part}'s weights; null: learning_rate")


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

    # What learns: every weight, all but frozen parts, or adapters (LoRA) beside weights that stay.
    finetuning: Literal["full", "lora"] = "full"
    freeze_vision: Annotated[bool, Field(description="the vision tower without its mergers stays as it is")] = False
    freeze_projector: Annotated[bool, Field(description="the mergers, deepstack's too, stay as they are")] = False
    freeze_llm: Annotated[bool, Field(description="embeddings, layers and head stay as they are")] = False
    vision_learning_rate: Rate | None = _part_rate("vision tower")
    projector_learning_rate: Rate | None = _part_rate("projector")
    llm_learning_rate: Rate | None = _part_rate("LLM")
    lora_r: Annotated[PositiveInt, Field(description="rank of the adapters")] = 16
    lora_alpha: Annotated[PositiveInt, Field(description="adapters are scaled by alpha / r (rsLoRA: / sqrt r)")] = 32
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    lora_target_modules: Annotated[
        list[str], BeforeValidator(_split), Field(min_length=1, description="ends of names of linear layers, a,b,c")
    ] = ["q_proj", "k_proj", "v_proj", "o_proj"]
    lora_parts: Annotated[list[Part], BeforeValidator(_split), Field(min_length=1, description="where to look")] = [
        "llm"
    ]
    use_rslora: bool = False
    use_dora: bool = False
    resume_from_lora: Annotated[
        str | None, Field(description="start from this adapter's weights, which go on learning; null: fresh ones")
    ] = None
    quantization: Annotated[
        Literal["4bit", "8bit"] | None, Field(description="of the weights beside the adapters (QLoRA)")
    ] = None

    learning_rate: Rate = 1.5e-5
    lr_scheduler_type: Literal[
        "linear", "cosine", "cosine_with_min_lr", "constant", "constant_with_warmup", "inverse_sqrt", "polynomial",
        "warmup_stable_decay"
    ] = "linear"  # fmt: skip
    lr_scheduler_kwargs: Annotated[
        dict[str, Any] | None,
        BeforeValidator(_numbers),
        Field(description="the schedule's own values, such as {min_lr_rate: 0.1}"),
    ] = None
    warmup_steps: NonNegativeInt = 0
    warmup_ratio: Annotated[
        float | None, Field(ge=0, lt=1, description="share of all steps, in place of warmup_steps")
    ] = None
    weight_decay: NonNegativeFloat = 0.0
    max_grad_norm: NonNegativeFloat = 1.0
    optim: Annotated[
        Literal["auto", "adamw_torch", "adamw_torch_fused", "adamw_bf16_stochastic"],
        Field(description="auto: fp32 weights where the GPU holds them, else bf16 ones rounded stochastically"),
    ] = "auto"

    model_max_length: Annotated[PositiveInt, Field(description="longer rows are left out and counted, never cut")] = (
        4096
    )
    image_tokens_min: Annotated[PositiveInt, Field(description="of 32x32 pixels")] = 256
    image_tokens_max: Annotated[PositiveInt, Field(description="of 32x32 pixels")] = 768

    bf16: Annotated[bool, Field(description="bf16 arithmetic over fp32 weights")] = False
    fp16: bool = False
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    gradient_checkpointing: Annotated[
        bool | None, Field(description="compute activations twice; null: of as much as memory needs")
    ] = None
    packing: Annotated[
        bool, Field(description="rows without padding, compiled on a GPU (Qwen3-VL; others are padded)")
    ] = True
    tokens_per_pack: Annotated[
        PositiveInt | None, Field(description="about so many tokens go through the model at once; null: what fits")
    ] = None
    compile: Annotated[bool | None, Field(description="null: where flash attention runs")] = None
    fsdp: Annotated[
        bool, Field(description="divide weights, gradients and optimiser state over the processes (FSDP2)")
    ] = False
    deepspeed: Annotated[str | None, Field(description="a DeepSpeed configuration file")] = None

    logging_steps: PositiveInt = 10
    save_steps: PositiveInt = 200
    save_total_limit: Annotated[PositiveInt | None, Field(description="keep the newest N checkpoints")] = None
    # null: "steps" where there is a val_file
    eval_strategy: Annotated[Literal["no", "steps", "epoch"] | None, BeforeValidator(_word_no)] = None
    eval_steps: PositiveInt = 50
    early_stopping_patience: Annotated[
        PositiveInt | None, Field(description="stop after so many evaluations without a lower loss; null: never")
    ] = None
    report_to: Annotated[str, Field(description="tensorboard, none, all, or other trackers of accelerate, a,b")] = "tensorboard"
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42  # as NumPy's generators take it
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
        if self.early_stopping_patience and (self.val_file is None or self.eval_strategy == "no"):
            raise ValueError("early_stopping_patience needs a val_file, and an eval_strategy other than no")
        return self

    @model_validator(mode="after")
    def divisible(self) -> "Recipe":
        if not self.fsdp:
            return self
        if self.finetuning == "lora":
            raise ValueError("fsdp divides weights that learn; adapters are small: leave fsdp out of a LoRA run")
        if self.optim == "adamw_bf16_stochastic":
            raise ValueError("fsdp divides the float32 states of optim=auto, adamw_torch or adamw_torch_fused only")
        if self.deepspeed or self.fp16:
            raise ValueError(f"fsdp and {'deepspeed' if self.deepspeed else 'fp16'} exclude each other")
        return self

    @model_validator(mode="after")
    def something_learns(self) -> "Recipe":
        if self.finetuning == "lora":
            if self.frozen:
                raise ValueError(f"freeze_{self.frozen[0]}: LoRA freezes every part; lora_parts says where adapters go")
        elif self.quantization:
            raise ValueError("quantization needs finetuning: lora, since quantized weights cannot be trained")
        elif lone := [key for key in ("use_dora", "use_rslora", "resume_from_lora") if getattr(self, key)]:
            raise ValueError(f"{lone[0]} needs finetuning: lora")
        if not self.learning:
            raise ValueError("freeze_vision, freeze_projector and freeze_llm together leave nothing to train")
        if idle := [part for part in self.part_rates if part not in self.learning]:
            raise ValueError(f"{idle[0]}_learning_rate is set, but nothing of the {idle[0]} is trained")
        return self

    @model_validator(mode="after")
    def one_warmup(self) -> "Recipe":
        if self.warmup_ratio is not None and self.warmup_steps:
            raise ValueError(
                f"warmup_ratio and warmup_steps={self.warmup_steps} exclude each other; set one of them to 0"
            )
        if self.lr_scheduler_type == "constant" and (self.warmup_steps or self.warmup_ratio):
            raise ValueError("lr_scheduler_type=constant has no warm-up; take constant_with_warmup, or warmup_steps: 0")
        if self.lr_scheduler_type.startswith("constant") and self.lr_scheduler_kwargs:
            raise ValueError(f"lr_scheduler_type={self.lr_scheduler_type} takes no lr_scheduler_kwargs")
        return self

    @property
    def frozen(self) -> list[Part]:
        """The parts that freeze_ keys name."""
        return [part for part in PARTS if getattr(self, f"freeze_{part}")]

    @property
    def learning(self) -> list[Part]:
        """The parts in which something is trained."""
        return self.lora_parts if self.finetuning == "lora" else [part for part in PARTS if part not in self.frozen]

    @property
    def part_rates(self) -> dict[Part, float]:
        """The learning rates of parts that have one of their own."""
        rates = {part: getattr(self, f"{part}_learning_rate") for part in PARTS}
        return {part: rate for part, rate in rates.items() if rate is not None}

    @property
    def number(self) -> str:
        """PyTorch's name of the format that matrix products are computed in."""
        return "bfloat16" if self.bf16 else "float16" if self.fp16 else "float32"

    def rows_per_step(self, processes: int) -> int:
        """Rows of an optimiser step, over all processes."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps * processes

    def identity(self) -> dict[str, Any]:
        """The values that decide what is learned: a checkpoint is resumed only under equal ones."""
        return self.keys_of_identity(self.model_dump())

    @staticmethod
    def keys_of_identity(values: dict[str, Any]) -> dict[str, Any]:
        """Those of the values that decide what is learned."""
        return {name: value for name, value in values.items() if name not in _FREE}


def read_recipe(path: Path, overrides: dict[str, Any] | None = None) -> Recipe:
    """A recipe file with `overrides` on top. LeapError names the file and the key that is wrong.

    `base: NAME` in it means the values of NAME.yaml beside it, under its own; that one may have no base in turn.
    """
    own = _read_values(path)
    base, shared = own.pop("base", None), {}
    if base is not None:
        parent = path.with_name(f"{base}.yaml")
        shared = _read_values(parent, f"{path}: base: ")
        if "base" in shared:
            raise LeapError(f"{path}: base: {base} has a base itself; name a recipe without one")
    try:
        return Recipe.model_validate({**shared, **own, **(overrides or {})})
    except ValidationError as error:
        raise LeapError(f"{path}: {_explain(error)}") from error


class _OnceLoader(yaml.SafeLoader):
    """Of a key that stands there twice, YAML would silently take the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[Any] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} stands there twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _read_values(path: Path, named_by: str = "") -> dict[str, Any]:
    if not path.is_file():
        known = ", ".join(recipe.stem for recipe in listed(path.parent, "*.yaml")) or "none"
        raise LeapError(f"{named_by}{path}: there is no such recipe; there are: {known}")
    try:
        values = yaml.load(read_text(path), _OnceLoader)
    except yaml.YAMLError as error:
        place = getattr(error, "problem_mark", None)
        line = f":{place.line + 1}" if place else ""
        raise LeapError(f"{path}{line}: not valid YAML ({getattr(error, 'problem', error)})") from error
    if not isinstance(values, dict):
        raise LeapError(f"{path}: a recipe is a list of `key: value` lines, found {type(values).__name__}")
    return values


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
