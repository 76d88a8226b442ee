"""LoRA presets: each is a recipe lora-NAME.yaml, whose adapters can also be put on another recipe's training."""

from pathlib import Path
from typing import Any

from leap.errors import UsageError
from leap.training.recipe import ADAPTER_KEYS, Layer, Recipe, compose, read_recipe, recipe_layers

# What a preset brings to another recipe: which weights learn, and the folder that is named after it.
_OWN = ("finetuning", *ADAPTER_KEYS, "quantization", "output_dir")


def known_presets(recipes: Path) -> list[str]:
    """The presets by name, those of the smallest rank first."""
    found: list[Recipe] = [read_recipe(path) for path in recipes.glob("lora-*.yaml")]
    names = [path.stem.removeprefix("lora-") for path in recipes.glob("lora-*.yaml")]
    return [name for _, name in sorted(zip((recipe.lora_r for recipe in found), names, strict=True))]


def read_preset(recipes: Path, preset: str, overrides: dict[str, Any], shared: Path | None = None) -> Recipe:
    """The recipe of a preset, `overrides` on top; with `shared`, that recipe with the preset's adapters.

    Epochs that are asked for count in place of the preset's steps. Raises UsageError for a preset that is not there.
    """
    known = known_presets(recipes)
    if preset not in known:
        raise UsageError(f"preset {preset!r}: there is none of that name in {recipes}; there are: {', '.join(known)}")
    values = with_epochs(overrides)
    own = recipes / f"lora-{preset}.yaml"
    if shared is None:
        return read_recipe(own, values)
    adapters = Layer(own, read_recipe(own).model_dump(include=set(_OWN)))
    return compose([*recipe_layers(shared), adapters, Layer(None, values)])


def with_epochs(overrides: dict[str, Any]) -> dict[str, Any]:
    """Overrides in which epochs without steps also take back the recipe's steps, which would go before them."""
    if overrides.get("num_train_epochs") is not None and "max_steps" not in overrides:
        return {**overrides, "max_steps": None}
    return overrides
