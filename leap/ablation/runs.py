"""The runs of an ablation: presets and full fine-tuning, over seeds, alike in all but what is trained and how fast."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leap.cli import with_underscores
from leap.errors import LeapError, UsageError
from leap.training.presets import read_preset, with_epochs
from leap.training.recipe import ADAPTER_KEYS, Recipe, read_recipe

FULL = "full_finetuning"
# What a method brings itself, and what an experiment gives each run: no value for all runs.
OWN = ("finetuning", *ADAPTER_KEYS, "quantization", "resume_from_lora", "output_dir", "learning_rate",
       "vision_learning_rate", "projector_learning_rate", "llm_learning_rate",
       "freeze_vision", "freeze_projector", "freeze_llm")  # fmt: skip
# These may differ between methods too: only the product of the first two is part of what is learned.
_FREE = ("per_device_train_batch_size", "gradient_accumulation_steps", "optim")


# Of an evaluation: these would give a model's results another name, or another place, than the report looks in.
_REFUSED = ("--model_name", "--output_dir", "--few_shot_num", "--few_shot_format", "--with_cot", "--language",
            "--image_control", "--quantization", "--fresh")  # fmt: skip


@dataclass(frozen=True)
class Scripts:
    """The scripts that train and evaluate, and the recipes that presets share; None: each has its own."""

    folder: Path
    recipes: Path
    full_recipe: Path
    lora_recipe: Path | None = None

    @property
    def lora(self) -> Path:
        return self.folder / "ablation" / "run-lora-finetuning.py"

    @property
    def full(self) -> Path:
        return self.folder / "training" / "run-finetuning.py"

    @property
    def evaluate(self) -> Path:
        return self.folder / "evaluation" / "run_vlm_evaluation.py"


@dataclass(frozen=True)
class AblationRun:
    """A method with a seed, and the command that trains it."""

    method: str  # lora_<preset>, or FULL
    seed: int
    recipe: Recipe
    command: list[str]

    @property
    def name(self) -> str:
        """Of its folder, and the beginning of its results' names."""
        return Path(self.recipe.output_dir).name


def refuse_options(options: Sequence[str]) -> None:
    """Raises UsageError for an evaluation's option that would set the models apart from what the report reads."""
    for option in options:
        if with_underscores(option).partition("=")[0] in _REFUSED:
            raise UsageError(f"{option} behind --: an ablation compares models that are asked in the plain way")


def label(method: str) -> str:
    """A method as a person reads it."""
    return "full fine-tuning" if method == FULL else method.replace("_", " ").replace("lora", "LoRA", 1)


def make_runs(
    scripts: Scripts, presets: Sequence[str], full: bool, seeds: int, values: dict[str, Any], name: str | None = None
) -> list[AblationRun]:
    """The presets in the order given, then full fine-tuning, each with `seeds` seeds from the recipe's on.

    `values` are recipe values for all runs; full fine-tuning stops where the presets stop. Folders are
    output/<name>_<method>, with _seedN behind it for all but the first seed. Raises UsageError for values that are a
    method's own, and LeapError where the runs would differ in more than their method.
    """
    _refuse(presets, seeds, values)
    values = with_epochs(values)
    recipes = {
        f"lora_{preset}": read_preset(scripts.recipes, preset, values, scripts.lora_recipe) for preset in presets
    }
    if full:
        steps = {"max_steps": next(iter(recipes.values())).max_steps} if recipes else {}
        recipes[FULL] = read_recipe(scripts.full_recipe, {**steps, **values})
    _refuse_early_ends(recipes)
    refuse_unlike(recipes)
    return [
        _run(scripts, method, recipe, number, values, name)
        for method, recipe in recipes.items()
        for number in range(seeds)
    ]


def _refuse(presets: Sequence[str], seeds: int, values: dict[str, Any]) -> None:
    if "output_dir" in values:
        raise UsageError("--output_dir: each run has its own folder; --name NAME gives all of them other ones")
    if own := [name for name in OWN if name in values]:
        raise UsageError(f"--{own[0]}: each method has its own; write a preset configs/recipes/lora-NAME.yaml for it")
    if len(set(presets)) < len(presets):
        raise UsageError(f"--presets {','.join(presets)}: give each preset once")
    if seeds < 1:
        raise UsageError(f"--seeds {seeds}: how many seeds, 1 or more")


def _refuse_early_ends(recipes: dict[str, Recipe]) -> None:
    for method, recipe in recipes.items():
        if patience := recipe.early_stopping_patience:
            raise UsageError(
                f"{label(method)}: early_stopping_patience={patience} may end a run early, but an ablation trains "
                "every run for as many steps; take it out of the recipe, or give --early_stopping_patience null"
            )


def refuse_unlike(recipes: dict[str, Recipe]) -> None:
    """Raise LeapError where two methods see other data, in another order, or train otherwise than by their method."""
    (first, one), *others = recipes.items()
    for name, other in others:
        for key, value in _shared(one).items():
            if _shared(other)[key] != value:
                raise LeapError(
                    f"{first} and {name} are not comparable: {key} is {value} there and {_shared(other)[key]} here; "
                    f"give one value for all runs (--{key}), or make the recipes alike"
                )


def _shared(recipe: Recipe) -> dict[str, Any]:
    kept = {key: value for key, value in recipe.identity().items() if key not in (*OWN, *_FREE)}
    return {**kept, "gradient_accumulation_steps": recipe.global_batch_size(1)}


def _run(
    scripts: Scripts, method: str, recipe: Recipe, number: int, values: dict[str, Any], name: str | None
) -> AblationRun:
    seed = recipe.seed + number
    parts = [*([name] if name else []), method, *([f"seed{seed}"] if number else [])]
    own = {"seed": seed, "output_dir": f"output/{'_'.join(parts)}"}
    if method == FULL:
        script = [str(scripts.full), "--recipe", str(scripts.full_recipe)]
    else:
        script = [str(scripts.lora), "--lora_preset", method.removeprefix("lora_")]
        script += ["--recipe", str(scripts.lora_recipe)] if scripts.lora_recipe else []
    flags = _flags({**values, "max_steps": recipe.max_steps, **own})
    return AblationRun(method, seed, recipe.model_copy(update=own), [sys.executable, *script, *flags])


def _flags(values: dict[str, Any]) -> list[str]:
    return [word for name, value in values.items() for word in (f"--{name}", _word(value))]


def _word(value: Any) -> str:
    """A value as `leap.training.overrides` reads it."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
