"""Every recipe value as a command-line flag, made from the recipe's own fields."""

import argparse
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any

import yaml

from leap.training.recipe import Recipe


def add_recipe_flags(
    parser: argparse.ArgumentParser, short: Mapping[str, str] | None = None, refused: Collection[str] = ()
) -> None:
    """One flag a recipe key, under the key's name. A boolean may stand alone: `--bf16` means `--bf16 true`.

    `short` are other flags for some keys: flag -> key. Keys that the script refuses with a reason, `refused`, can be
    given but are not shown.
    """
    others: dict[str, list[str]] = {}
    for flag, name in (short or {}).items():
        others.setdefault(name, []).append(flag)
    group = parser.add_argument_group("recipe values (each overrides the recipe's)")
    for name, field in Recipe.model_fields.items():
        options: dict[str, Any] = {"default": argparse.SUPPRESS, "metavar": "VALUE", "help": field.description}
        if field.annotation in (bool, bool | None):
            options |= {"nargs": "?", "const": True, "metavar": "true|false"}
        if field.annotation not in (str, str | None):
            options["type"] = _yaml_value
        if name in refused:
            options["help"] = argparse.SUPPRESS
        group.add_argument(f"--{name}", *others.get(name, []), **options)


def recipe_overrides(arguments: argparse.Namespace) -> dict[str, Any]:
    """The recipe values that stood on the command line."""
    given = vars(arguments)
    return {name: _none_or(given[name]) for name in Recipe.model_fields if name in given}


def _yaml_value(text: str) -> Any:
    if "e" in text.lower():
        with suppress(ValueError):
            return float(text)  # 1e-5 is a number on a command line, though YAML 1.1 reads it as text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text  # the recipe's own check says what is wrong with it


def _none_or(value: Any) -> Any:
    return None if value in ("null", "None") else value
