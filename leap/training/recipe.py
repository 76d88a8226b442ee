"""A run's recipe: one YAML file, every value checked, every value overridable on the command line."""

import difflib
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from leap.cli import LARGEST_COUNT, MOST_IMAGE_TOKENS, MOST_WORKERS
from leap.data.formats.sample_format import FormatName, LearnedTurns
from leap.environment import DDP_TIMEOUT
from leap.errors import LeapError, UsageError
from leap.models.families import COMPONENTS, Component
from leap.records.files import is_file, read_text
from leap.records.json_files import first_problem
from leap.records.litter import listed
from leap.records.paths import at_home
from leap.records.remote import is_remote
from leap.records.yaml_text import LARGEST, load_yaml
from leap.terminal import in_one_line, shorten
from leap.training.aliases import answers, translated
from leap.training.optimizers import OPTIMIZERS, weights_dtype
from leap.training.stopping import Metric

# These change nothing in what the model learns, so a run may be resumed under other values.
_FREE = {"output_dir", "logging_steps", "save_steps", "save_total_limit", "dataloader_num_workers", "report_to",
         "image_root", "val_file", "eval_strategy", "eval_steps", "per_device_eval_batch_size", "max_eval_samples",
         "gradient_checkpointing", "packing", "tokens_per_micro_batch", "compile", "early_stopping_patience",
         "fsdp", "hybrid_shard", "ddp_timeout", "eval_benchmark", "metric_for_best_model", "upload"}  # fmt: skip
PATHS = ("model_name_or_path", "train_file", "val_file", "image_root", "output_dir", "resume_from_lora", "deepspeed")
DATA = ("train_file", "val_file", "image_root")  # of these, those that may be at an address
ADAPTER_KEYS = ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "lora_parts", "use_rslora", "use_dora")


def _no_switch(value: Any) -> Any:
    """True and false are no numbers, though Python counts with them."""
    if isinstance(value, bool):
        raise ValueError("a number is expected, found true or false")
    return value


Finite = Annotated[float, BeforeValidator(_no_switch), Field(allow_inf_nan=False)]
Rate = Annotated[Finite, Field(gt=0, lt=1)]
Share = Annotated[Finite, Field(ge=0, lt=1)]
NotNegative = Annotated[Finite, Field(ge=0)]
_Integer = Annotated[int, BeforeValidator(_no_switch)]
Whole = Annotated[_Integer, Field(ge=0, le=LARGEST_COUNT)]
Count = Annotated[_Integer, Field(ge=1, le=LARGEST_COUNT)]
Seconds = Annotated[_Integer, Field(ge=1, le=86_400)]
Steps = Annotated[_Integer, Field(ge=1, le=10_000_000)]
ImageTokens = Annotated[_Integer, Field(ge=1, le=MOST_IMAGE_TOKENS)]
Workers = Annotated[_Integer, Field(ge=0, le=MOST_WORKERS)]
if TYPE_CHECKING:
    OptimizerName = str
else:  # a type checker wants names that it can read
    OptimizerName = Literal[("auto", *OPTIMIZERS)]
SHIPPED = Path(__file__).resolve().parents[2] / "configs" / "recipes"
SUFFIXES = (".yaml", ".yml")


def _split(value: Any) -> Any:
    """A list as a command line gives it: a,b,c."""
    return [component.strip() for component in value.split(",")] if isinstance(value, str) else value


def _word_no(value: Any) -> Any:
    """YAML reads `no` as false."""
    return "no" if value is False else value


def _without_prefix(value: Any) -> Any:
    """The Trainer takes eval_loss for loss."""
    return value.removeprefix("eval_") if isinstance(value, str) else value


def _plain(values: dict[str, Any] | None) -> dict[str, Any] | None:
    """Words, switches and finite numbers; these may stand in quotes, as they may in a recipe's own keys."""
    return {name: _plain_value(name, value) for name, value in values.items()} if values else values


def _plain_value(name: str, value: Any) -> Any:
    if isinstance(value, str):
        with suppress(ValueError):
            value = float(value)
    finite = not isinstance(value, float) or math.isfinite(value)
    if not finite or not isinstance(value, bool | int | float | str | None):
        raise ValueError(f"{name}: a word or a finite number is expected")
    return value


def _component_rate(component: str) -> Any:
    return Field(default=None, description=f"of the {component}'s weights; null: learning_rate")


class MixedFile(BaseModel):
    """One of several training files."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: Annotated[str, Field(min_length=1)]
    weight: Annotated[Finite, Field(gt=0, le=1000)] = 1.0  # how often each sample is used in an epoch
    data_format: FormatName | None = None

    @model_validator(mode="before")
    @classmethod
    def name_alone(cls, value: Any) -> Any:
        return {"file": value} if isinstance(value, str) else value

    def __str__(self) -> str:
        return self.file if self.weight == 1 else f"{self.file} x {self.weight:g}"


class Recipe(BaseModel):
    """What a training run does. Names are the Hugging Face Trainer's where it has one.

    Relative paths start at the workspace root. `null` means "not set".
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    model_name_or_path: Annotated[str, Field(description="base model: a folder, or OWNER/NAME[@REVISION] on the hub")]
    train_file: Annotated[
        str | Annotated[list[MixedFile], Field(min_length=1)],
        Field(description="training samples: a JSONL, JSON or Parquet file, a folder, or org/name"),
    ]
    val_file: Annotated[str | None, Field(description="validation samples for the evaluation loss")] = None
    image_root: Annotated[str | None, Field(description="where relative image paths start")] = None
    data_format: Annotated[
        FormatName | None, Field(description="form of the samples; null: found out, and told in the plan")
    ] = None
    train_on: Annotated[
        LearnedTurns, Field(description="which of the assistant's turns are learned (LEAP's own form says it itself)")
    ] = "all"
    output_dir: Annotated[str, Field(description="where checkpoint-N folders go")] = "output"

    num_train_epochs: Annotated[Finite, Field(gt=0, le=100_000)] = 1.0
    max_steps: Annotated[Steps | None, Field(description="optimiser steps; overrides the epochs")] = None
    per_device_train_batch_size: Count = 1
    per_device_eval_batch_size: Count = 8
    gradient_accumulation_steps: Count = 1
    max_train_samples: Annotated[Count | None, Field(description="use the first N samples only")] = None
    max_eval_samples: Annotated[Count | None, Field(description="use the first N validation samples only")] = None

    # What is trained: every weight, all but frozen components, or adapters (LoRA) beside weights that stay.
    finetuning: Literal["full", "lora"] = "full"
    freeze_vision: Annotated[bool, Field(description="the vision tower without its mergers stays as it is")] = False
    freeze_projector: Annotated[bool, Field(description="the mergers, deepstack's too, stay as they are")] = False
    freeze_llm: Annotated[bool, Field(description="embeddings, layers and head stay as they are")] = False
    vision_learning_rate: Rate | None = _component_rate("vision tower")
    projector_learning_rate: Rate | None = _component_rate("projector")
    llm_learning_rate: Rate | None = _component_rate("LLM")
    lora_r: Annotated[Count, Field(description="rank of the adapters")] = 16
    lora_alpha: Annotated[Count, Field(description="adapters are scaled by alpha / r (rsLoRA: / sqrt r)")] = 32
    lora_dropout: Share = 0.05
    lora_target_modules: Annotated[
        list[str], BeforeValidator(_split), Field(min_length=1, description="ends of names of linear layers, a,b,c")
    ] = ["q_proj", "k_proj", "v_proj", "o_proj"]
    lora_parts: Annotated[
        list[Component], BeforeValidator(_split), Field(min_length=1, description="where to look")
    ] = ["llm"]
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
        AfterValidator(_plain),
        Field(description="the schedule's own values, such as {min_lr_rate: 0.1}"),
    ] = None
    warmup_steps: Whole = 0
    warmup_ratio: Annotated[Share | None, Field(description="share of all steps, in place of warmup_steps")] = None
    weight_decay: NotNegative = 0.0
    adam_beta1: Share = 0.9
    adam_beta2: Share = 0.999
    adam_epsilon: NotNegative = 1e-8
    max_grad_norm: NotNegative = 1.0
    optim: Annotated[
        OptimizerName,
        Field(description="auto: fp32 weights where the GPU holds them, else bf16 ones rounded stochastically"),
    ] = "auto"

    model_max_length: Annotated[Count, Field(description="longer samples are left out and counted, never cut")] = 4096
    image_tokens_min: Annotated[ImageTokens, Field(description="of 32x32 pixels")] = 256
    image_tokens_max: Annotated[ImageTokens, Field(description="of 32x32 pixels")] = 768

    bf16: Annotated[bool, Field(description="bf16 arithmetic over fp32 weights")] = False
    fp16: bool = False
    attn_implementation: Annotated[
        Literal["sdpa", "eager", "flash_attention_2", "flash_attention_4"],
        Field(
            description="of padded samples; packed ones have PyTorch's flash attention, or with flash_attention_4 that "
            "of the package flash-attn-4. eager pads, which is slower"
        ),
    ] = "sdpa"
    gradient_checkpointing: Annotated[
        bool | None, Field(description="compute activations twice; null: of as much as memory needs")
    ] = None
    packing: Annotated[
        bool, Field(description="samples without padding, compiled on a GPU (Qwen3-VL; others are padded)")
    ] = True
    tokens_per_micro_batch: Annotated[
        Count | None, Field(description="about so many tokens go through the model at once; null: what fits")
    ] = None
    compile: Annotated[bool | None, Field(description="null: where flash attention runs")] = None
    fsdp: Annotated[bool, Field(description="divide weights, gradients and optimiser state over the ranks (FSDP2)")] = (
        False
    )
    hybrid_shard: Annotated[
        bool, Field(description="fsdp within each node, whose ranks have all weights; nodes share gradients (HSDP)")
    ] = False
    deepspeed: Annotated[str | None, Field(description="a DeepSpeed configuration file")] = None
    ddp_timeout: Annotated[
        Seconds, Field(description="seconds until a rank that does not answer is lost, which ends the run")
    ] = DDP_TIMEOUT

    logging_steps: Count = 10
    save_steps: Count = 200
    save_total_limit: Annotated[Count | None, Field(description="keep the newest N checkpoints")] = None
    upload: Annotated[
        str | None, Field(description="send each checkpoint to s3://…, gs://…, hf://… or a shared folder as well")
    ] = None
    # null: "steps" where there is a val_file or an eval_benchmark
    eval_strategy: Annotated[Literal["no", "steps", "epoch"] | None, BeforeValidator(_word_no)] = None
    eval_steps: Annotated[
        Count | None, Field(description="null: 50, with eval_benchmark a fifth of the run, which takes far longer")
    ] = None
    eval_benchmark: Annotated[
        Count | None, Field(description="answer so many examples of the benchmark at each evaluation; null: none")
    ] = None
    metric_for_best_model: Annotated[
        Metric, BeforeValidator(_without_prefix), Field(description="of the validation samples, or of eval_benchmark")
    ] = "loss"
    early_stopping_patience: Annotated[
        Count | None, Field(description="stop after so many evaluations that are no better; null: never")
    ] = None
    report_to: Annotated[str, Field(description="tensorboard, none, all, or other trackers of accelerate, a,b")] = (
        "tensorboard"
    )
    seed: Annotated[_Integer, Field(ge=0, lt=2**32)] = 42  # as NumPy's generators take it
    dataloader_num_workers: Annotated[
        Workers | None, Field(description="null: up to eight a GPU, and none beside a model on the CPU")
    ] = None

    @field_validator("*", mode="before")
    @classmethod
    def text(cls, value: Any) -> Any:
        """Something can be named after it, and it can be stored."""
        if isinstance(value, str) and not value.strip():
            raise ValueError("it is empty; null means that it is not set")
        if isinstance(value, str) and in_one_line(value) != value.strip():
            raise ValueError("it holds a control character, or bytes that are not UTF-8")
        return value

    @field_validator(*PATHS, "upload", mode="before")
    @classmethod
    def place(cls, value: Any, info: ValidationInfo) -> Any:
        """~ is a home folder in a file too, where no shell has put it in place. Only data may be at an address."""
        if isinstance(value, str) and is_remote(value) and info.field_name not in (*DATA, "upload"):
            raise ValueError(f"{value}: a path of this machine is needed; checkpoints go elsewhere with `upload`")
        if not isinstance(value, str) or not value.startswith("~"):
            return value
        try:
            return str(at_home(value))
        except UsageError as error:
            raise ValueError(str(error)) from error

    @model_validator(mode="before")
    @classmethod
    def best_by_what_is_measured(cls, values: Any) -> Any:
        """Without a val_file there is no validation loss by which a checkpoint could be the best."""
        if isinstance(values, dict) and values.get("eval_benchmark") and values.get("val_file") is None:
            return {"metric_for_best_model": "grounded", **values}
        return values

    @model_validator(mode="after")
    def consistent(self) -> "Recipe":
        if self.bf16 and self.fp16:
            raise ValueError("bf16 and fp16 exclude each other; set one of them to false")
        if weights_dtype(self.optim) == "bfloat16" and not self.bf16:
            raise ValueError(f"optim={self.optim} keeps weights in bfloat16; set bf16 to true")
        if self.image_tokens_min > self.image_tokens_max:
            raise ValueError(
                f"image_tokens_min={self.image_tokens_min} is over image_tokens_max={self.image_tokens_max}"
            )
        if self.eval_strategy in ("steps", "epoch") and self.val_file is None and not self.eval_benchmark:
            raise ValueError(f"eval_strategy={self.eval_strategy} needs a val_file, or eval_benchmark")
        if self.max_eval_samples and self.val_file is None:
            raise ValueError("max_eval_samples needs a val_file")
        if self.metric_for_best_model != "loss" and not self.eval_benchmark:
            raise ValueError(f"metric_for_best_model={self.metric_for_best_model} needs eval_benchmark")
        by_loss = self.metric_for_best_model == "loss"
        if self.early_stopping_patience and ((by_loss and self.val_file is None) or self.eval_strategy == "no"):
            needed = "a val_file, and an eval_strategy other than no" if by_loss else "an eval_strategy other than no"
            raise ValueError(f"early_stopping_patience needs {needed}")
        if self.eval_benchmark and self.eval_strategy == "no":
            raise ValueError("eval_benchmark needs an eval_strategy other than no")
        if self.eval_benchmark and (self.fsdp or self.deepspeed):
            divided = "fsdp" if self.fsdp else "deepspeed"
            raise ValueError(f"eval_benchmark needs whole weights on every rank; take it or {divided}, not both")
        return self

    @model_validator(mode="after")
    def divisible(self) -> "Recipe":
        if not self.fsdp:
            if self.hybrid_shard:
                raise ValueError("hybrid_shard says how fsdp divides; set fsdp to true, or leave it out")
            return self
        if self.finetuning == "lora":
            raise ValueError("fsdp divides trainable weights; adapters are small: leave fsdp out of a LoRA run")
        if weights_dtype(self.optim) != "float32":
            divided = " or ".join(name for name in ("auto", *OPTIMIZERS) if weights_dtype(name) == "float32")
            raise ValueError(f"fsdp divides float32 states, those of optim={divided} only")
        if self.deepspeed or self.fp16:
            raise ValueError(f"fsdp and {'deepspeed' if self.deepspeed else 'fp16'} exclude each other")
        return self

    @model_validator(mode="after")
    def something_is_trained(self) -> "Recipe":
        if self.finetuning == "lora":
            if self.frozen:
                raise ValueError(
                    f"freeze_{self.frozen[0]}: LoRA freezes every component; lora_parts says where adapters go"
                )
        elif self.quantization:
            raise ValueError("quantization needs finetuning: lora, since quantized weights cannot be trained")
        elif lone := [
            key
            for key in (*ADAPTER_KEYS, "resume_from_lora")
            if getattr(self, key) != type(self).model_fields[key].default
        ]:
            raise ValueError(f"{lone[0]} needs finetuning: lora")
        if not self.trained:
            raise ValueError("freeze_vision, freeze_projector and freeze_llm together leave nothing to train")
        if idle := [component for component in self.component_rates if component not in self.trained]:
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
    def train_files(self) -> list[MixedFile]:
        """The training file, or all of a mixture's."""
        return [MixedFile(file=self.train_file)] if isinstance(self.train_file, str) else self.train_file

    @property
    def train_names(self) -> str:
        """The same for people."""
        return ", ".join(map(str, self.train_files))

    @property
    def frozen(self) -> list[Component]:
        """The components that freeze_ keys name."""
        return [component for component in COMPONENTS if getattr(self, f"freeze_{component}")]

    @property
    def trained(self) -> list[Component]:
        """The components in which something is trained."""
        return (
            self.lora_parts
            if self.finetuning == "lora"
            else [component for component in COMPONENTS if component not in self.frozen]
        )

    @property
    def component_rates(self) -> dict[Component, float]:
        """The learning rates of components that have one of their own."""
        rates = {component: getattr(self, f"{component}_learning_rate") for component in COMPONENTS}
        return {component: rate for component, rate in rates.items() if rate is not None}

    @property
    def dtype(self) -> str:
        """PyTorch's name of the format that matrix products are computed in."""
        return "bfloat16" if self.bf16 else "float16" if self.fp16 else "float32"

    @property
    def any_ranks(self) -> bool:
        """Whether a run of it can go on with another number of ranks; DeepSpeed's states are divided among them."""
        return self.deepspeed is None

    def global_batch_size(self, world_size: int) -> int:
        """Samples of an optimiser step, over all ranks."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps * world_size

    def identity(self) -> dict[str, Any]:
        """The values that decide what is learned: a checkpoint is resumed only under equal ones."""
        return self.keys_of_identity(self.model_dump())

    @staticmethod
    def keys_of_identity(values: dict[str, Any]) -> dict[str, Any]:
        """Those of the values that decide what is learned."""
        return {name: value for name, value in values.items() if name not in _FREE}


Kind = TypeVar("Kind", bound=Recipe)


@dataclass(frozen=True)
class Layer:
    """Recipe values, and where they stand: a file, or None for a command line. Later layers win."""

    file: Path | None
    values: dict[str, Any]


def read_recipe(
    path: Path,
    overrides: dict[str, Any] | None = None,
    kind: type[Kind] = Recipe,  # type: ignore[assignment]
) -> Kind:
    """A recipe file with `overrides`, a command line's values, on top. See `recipe_layers` and `compose`."""
    return compose([*recipe_layers(path, kind), Layer(None, overrides or {})], kind)


def recipe_layers(path: Path, kind: type[Recipe] = Recipe) -> list[Layer]:
    """The values of a recipe file, under them those of its base. LeapError names file, line and key that are wrong.

    `base: NAME` in it means NAME.yaml beside it, or else among LEAP's own recipes; `base: FILE.yaml` a file, from the
    recipe's folder, where it is not one of LEAP's own. A base has none itself.
    """
    own = _read_values(path, kind)
    base = own.pop("base", None)
    if base is None:
        return [Layer(path, own)]
    if not isinstance(base, str):
        raise LeapError(f"{path}: base: the name of a recipe is expected, found {type(base).__name__}")
    parent = _base_file(path, base)
    shared = _read_values(parent, kind, f"{path}: base: ")
    if "base" in shared:
        raise LeapError(f"{path}: base: {base} has a base itself; name a recipe without one")
    return [Layer(parent, shared), Layer(path, own)]


def _base_file(path: Path, base: str) -> Path:
    name = base if Path(base).suffix in SUFFIXES else f"{base}.yaml"
    beside, shipped = path.parent / at_home(name, f"{path}: base: "), SHIPPED / name
    return shipped if shipped.is_file() and not beside.is_file() else beside


def compose(layers: Sequence[Layer], kind: type[Kind] = Recipe) -> Kind:  # type: ignore[assignment]
    """The recipe of all layers together. The error names the layer that is to blame: a file, or the command line."""
    try:
        return kind.model_validate(_merged(layers))
    except ValidationError as error:
        layer, key = _blamed(layers, error, kind), _key(error)
        said = _explain(error, kind)
        if layer.file is not None:
            raise LeapError(f"{layer.file}: {said}") from error
        given = f"--{key} {shorten(str(layer.values[key]))}: " if key else "the recipe with these flags: "
        raise UsageError(given + said.removeprefix(f"{key}: ")) from error


def _merged(layers: Sequence[Layer]) -> dict[str, Any]:
    return {name: value for layer in layers for name, value in layer.values.items()}


def _blamed(layers: Sequence[Layer], error: ValidationError, kind: type[Recipe]) -> Layer:
    """The last layer with the wrong key; where values do not fit together, the first with which they do not."""
    if key := _key(error):
        return next((layer for layer in reversed(layers) if key in layer.values), _last_file(layers))
    message = first_problem(error)
    for end in range(1, len(layers)):
        try:
            kind.model_validate(_merged(layers[:end]))
        except ValidationError as earlier:
            if first_problem(earlier) == message:
                return layers[end - 1]
    return layers[-1]


def _last_file(layers: Sequence[Layer]) -> Layer:
    return [layer for layer in layers if layer.file][-1]


def _key(error: ValidationError) -> str:
    place = error.errors(include_url=False)[0]["loc"]
    return str(place[0]) if place else ""


def _read_values(path: Path, kind: type[Recipe], named_by: str = "") -> dict[str, Any]:
    if not is_file(path):
        known = [
            name for folder in (path.parent, SHIPPED) for name in sorted(file.stem for file in listed(folder, "*.yaml"))
        ]
        error = LeapError if named_by else UsageError
        raise error(f"{named_by}{path}: there is no such recipe; there are: {', '.join(dict.fromkeys(known))}")
    if path.stat().st_size > 4 * LARGEST:
        raise LeapError(f"{path}: {path.stat().st_size:,} bytes are no recipe; name the right file")
    values = load_yaml(read_text(path), str(path))
    if not isinstance(values, dict):
        raise LeapError(f"{path}: a recipe is a list of `key: value` lines, found {type(values).__name__}")
    others = {name: value for name, value in values.items() if name not in kind.model_fields}
    if unknown := "; ".join(answers(others)):  # all at once: a recipe of another trainer has several
        raise LeapError(f"{path}: {unknown}")
    try:
        return translated(values)
    except ValueError as error:
        raise LeapError(f"{path}: {error}") from error


def _explain(error: ValidationError, kind: type[Recipe]) -> str:
    problem = error.errors(include_url=False)[0]
    if problem["type"] == "extra_forbidden":
        name = _key(error)
        near = difflib.get_close_matches(name, kind.model_fields, n=1)
        return f"{shorten(name)}: unknown key" + (f"; did you mean {near[0]}?" if near else "")
    return first_problem(error).removeprefix("the whole record: ")
