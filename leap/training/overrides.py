"""Every recipe value as a command-line flag, made from the recipe's own fields."""

import argparse
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from leap.errors import UsageError
from leap.records.paths import find_path
from leap.records.remote import is_remote
from leap.records.yaml_text import load_yaml
from leap.terminal import shorten
from leap.training.aliases import ALIASES, ANSWERS, RESUME, answers, translated
from leap.training.recipe import DATA, PATHS, Recipe


def add_recipe_flags(
    parser: argparse.ArgumentParser,
    short: Mapping[str, str] | None = None,
    refused: Collection[str] = (),
    kind: type[Recipe] = Recipe,
) -> None:
    """One flag a recipe key, under the key's name. A boolean may stand alone: `--bf16` means `--bf16 true`.

    `short` are other flags for some keys: flag -> key. Keys that the script refuses with a reason, `refused`, can be
    given but are not shown.
    """
    others: dict[str, list[str]] = {}
    for flag, name in (short or {}).items():
        others.setdefault(name, []).append(flag)
    group = parser.add_argument_group(
        "recipe values (each overrides the recipe's; a default is for recipes without it)"
    )
    for name, field in kind.model_fields.items():
        options: dict[str, Any] = {"default": argparse.SUPPRESS, "metavar": _metavar(field), "help": _help(field)}
        if field.annotation in (bool, bool | None):
            options |= {"nargs": "?", "const": True}
        if not _is_text(field):
            options["type"] = _yaml_value
        if name in refused:
            options["help"] = argparse.SUPPRESS
        group.add_argument(f"--{name}", *others.get(name, []), **options)
    _add_others_names(parser, group)


def _add_others_names(parser: argparse.ArgumentParser, group: Any) -> None:
    """Flags that other trainers have, not shown: they are taken, or answered."""
    hidden: dict[str, Any] = {"default": argparse.SUPPRESS, "help": argparse.SUPPRESS}
    taken = set(parser._option_string_actions)
    group.add_argument(f"--{RESUME}", nargs="?", const=True, type=_yaml_value, **hidden)
    for name, alias in ALIASES.items():
        plain = not alias.meaning and _is_text(Recipe.model_fields[alias.key])
        if f"--{name}" not in taken:
            group.add_argument(f"--{name}", nargs="?", const=True, type=None if plain else _yaml_value, **hidden)
    for name in ANSWERS:
        if f"--{name}" not in taken and name != RESUME:
            group.add_argument(f"--{name}", nargs="*", action=_Answer, **hidden)


class _Answer(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        parser.error(f"--{next(answers({self.dest: None}))}")


def _is_text(field: FieldInfo) -> bool:
    """Whether a flag's words are the value. A list of files stands in a recipe only."""
    kind = field.annotation
    return kind in (str, str | None) or (get_origin(kind) is not dict and str in get_args(kind))


def _metavar(field: FieldInfo) -> str:
    """What may stand behind a flag."""
    if field.annotation in (bool, bool | None):
        return "true|false"
    choices = _choices(field.annotation)
    listed = f"{{{','.join(choices)}}}" if choices else "VALUE"
    return f"{listed},…" if get_origin(field.annotation) is list else listed


def _choices(annotation: Any) -> list[str]:
    """The values of a Literal, also of one that stands in a list or beside None."""
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return [choice for part in get_args(annotation) for choice in _choices(part)]


def _help(field: FieldInfo) -> str:
    text = f"{field.description or ''} (default: {'the recipe has it' if field.is_required() else field.default})"
    return text.strip().replace("%", "%%")


def recipe_overrides(
    arguments: argparse.Namespace, root: Path | None = None, kind: type[Recipe] = Recipe
) -> dict[str, Any]:
    """The recipe values that stood on the command line. With `root`, the workspace's, paths are looked for.

    A path that is only there from the current folder becomes a whole one; any other stays as it was typed, since a run
    is known by its values.
    """
    given = vars(arguments)
    names = [name for name in (*kind.model_fields, *ALIASES, RESUME) if name in given]
    try:
        found = translated({name: _none_or(given[name]) for name in names})
    except ValueError as error:
        raise UsageError(f"--{error}") from error
    if root is not None:
        found |= {name: _path(name, found[name], root) for name in PATHS if found.get(name) is not None}
    return found


def _path(name: str, text: str, root: Path) -> str:
    if name in DATA and is_remote(text):
        return text
    try:
        place = find_path(text, root)
    except UsageError as error:
        raise UsageError(f"--{name}: {error}") from error
    return text if place == root / text else str(place)


def _yaml_value(text: str) -> Any:
    return load_yaml(text, repr(shorten(text)))


def _none_or(value: Any) -> Any:
    return None if value in ("null", "None") else value
