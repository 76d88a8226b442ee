"""The skills that a VLABench plan is made of, and the subtasks that they form."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

ENTITY = "target_entity_name"
CONTAINER = "target_container_name"

SKILL_PARAMETER: Mapping[str, str | None] = MappingProxyType(
    {
        "pick": ENTITY,
        "press": ENTITY,
        "place": CONTAINER,
        "insert": CONTAINER,
        "pour": CONTAINER,
        "push": CONTAINER,
        "open_door": None,
        "pull": None,
        "lift": None,
    }
)
"""Each skill's parameter, or None for a skill that takes none (OpenMOSS/VLABench 47b04bf, the benchmark's prompt)."""

SUBTASK_PATTERNS: tuple[tuple[str, ...], ...] = (
    ("pick", "place"),
    ("pick", "insert"),
    ("pick", "pour", "place"),
    ("pick", "pour"),
    ("pick", "pull"),
    ("pick", "lift"),
    ("pick", "push", "pull"),
    ("pick", "push", "place"),
    ("pick", "push"),
    ("pick", "open_door"),
    ("press",),
)
"""The subtasks that the exact match recognises, in the order in which they are tried
(OpenMOSS/VLABench 47b04bf, evaluation/utils.py)."""


def find_subtasks(skill_sequence: Sequence[Mapping[str, Any]]) -> list[Sequence[Mapping[str, Any]]]:
    """The subtasks of a plan from left to right: at every skill the first pattern that fits, else the skill is skipped.

    Each subtask is a slice of the plan, of two or three skills, or one `press`. A skill without a name is a KeyError.
    Source of the rule: OpenMOSS/VLABench 47b04bf, evaluation/utils.py.
    """
    names = tuple(skill["name"] for skill in skill_sequence)
    return [skill_sequence[piece] for piece in pieces(names) if names[piece] in SUBTASK_PATTERNS]


def pieces(names: tuple[Any, ...]) -> list[slice]:
    """A plan, by the names of its skills, in its subtasks and the single skills between them."""
    found = []
    start = 0
    while start < len(names):
        length = next((len(p) for p in SUBTASK_PATTERNS if names[start : start + len(p)] == p), 1)
        found.append(slice(start, start + length))
        start += length
    return found
