"""YAML as recipes and command lines need it: plain values, lists and mappings, and numbers as they are meant.

PyYAML follows YAML 1.1, where 1e-5 is text, 010 is eight, 12:30:00 is a number and the last of two equal keys wins, and
it makes whatever a tag asks for. Here 1e-5 is a number; tags, repeated keys, keys that are no names, and aliases of
anything but a single value (a few lines of those unfold to gigabytes) are refused.
"""

import re
from collections.abc import Hashable
from typing import Any

import yaml
from yaml.events import (
    AliasEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from leap.errors import LeapError
from leap.terminal import in_one_line, shown

LARGEST = 50_000  # characters; the recipes that come with LEAP have 2,000
_DEEPEST = 20
_CORE = "tag:yaml.org,2002:"
_WHOLE = r"[-+]?(?:0|[1-9][0-9]{0,17}|[1-9][0-9]{0,2}(?:_[0-9]{3})+)"
_REAL = r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"


def load_yaml(text: str, place: str) -> Any:
    """The value of a YAML text. LeapError names `place` (a file, say), the line, and the problem."""
    if len(text) > LARGEST:
        raise LeapError(f"{place}: {len(text):,} characters, at most {LARGEST:,} are read")
    try:
        _check(text)
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark and "\n" in text else ""
        problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise LeapError(f"{place}{line}: not valid YAML ({in_one_line(problem)})") from error


class _Loader(yaml.SafeLoader):
    """Only what the texts of values mean by themselves; `_check` has refused tags."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        found: dict[Hashable, Any] = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise _refused(f"a key that is no name: {key!r}", key_node.start_mark)
            if key in found:
                raise _refused(f"{key} stands there twice", key_node.start_mark)
            found[key] = self.construct_object(value_node, deep=True)
        return found


_Loader.yaml_implicit_resolvers = {}  # none of PyYAML's
for _kind, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF", list("yYnNtTfFoO")),
    ("int", _WHOLE, list("-+0123456789")),
    ("float", _REAL, list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(f"{_CORE}{_kind}", re.compile(f"^(?:{_pattern})$"), _first)


def _check(text: str) -> None:
    """Refuse what could not be made of a text, before anything is: this pass needs little memory and no recursion."""
    depth = 0
    single: set[str] = set()
    for event in yaml.parse(text, _Loader):
        if isinstance(event, MappingStartEvent | SequenceStartEvent):
            depth += 1
        elif isinstance(event, MappingEndEvent | SequenceEndEvent):
            depth -= 1
        if depth > _DEEPEST:
            raise _refused(f"nested more than {_DEEPEST} deep", event.start_mark)
        if (tag := getattr(event, "tag", None)) not in (None, "!"):
            raise _refused(f"the tag {tag}; write a plain value", event.start_mark)
        if isinstance(event, ScalarEvent):
            _check_scalar(event, single)
        elif isinstance(event, AliasEvent) and event.anchor not in single:
            raise _refused(f"*{event.anchor} stands for no single value; write it out", event.start_mark)


def _check_scalar(event: Any, single: set[str]) -> None:
    if event.anchor:
        single.add(event.anchor)
    if shown(event.value) != event.value:
        raise _refused("a control character in a value", event.start_mark)


def _refused(problem: str, mark: Any) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, problem, mark)
