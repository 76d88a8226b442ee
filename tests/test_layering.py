"""The library's rooms: each imports from those before it only, and a module's name says which one it is."""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from conftest import REPOSITORY

LIBRARY = REPOSITORY / "leap"
# From the bottom to the top; modules that lie directly in leap/ are below all rooms.
ROOMS = (
    "leap", "records", "vlabench", "statistics", "data", "hub", "models", "inference", "preparation", "training",
    "jobs", "evaluation", "serving", "judge", "report", "tabletop", "reinforcement", "ablation",
)  # fmt: skip


def modules() -> list[Path]:
    return sorted(LIBRARY.rglob("*.py"))


def room(parts: tuple[str, ...]) -> str:
    """Of a module's path below leap/."""
    return parts[0] if len(parts) > 1 or (LIBRARY / parts[0]).is_dir() else "leap"


def imported(module: Path) -> Iterator[str]:
    """Names of leap's modules that a module imports anywhere, in functions and for types included."""
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("leap."))
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "leap":
            for alias in node.names:
                yield f"{node.module}.{alias.name}" if node.module == "leap" else node.module


def test_rooms_import_downwards_only() -> None:
    upwards = []
    for module in modules():
        here = room(module.relative_to(LIBRARY).parts)
        for name in imported(module):
            there = room(tuple(name.split(".")[1:]))
            if ROOMS.index(there) > ROOMS.index(here):
                upwards.append(f"{module.relative_to(REPOSITORY)} imports {name}")
    assert upwards == []


def test_every_room_stands_in_the_list() -> None:
    assert {path.name for path in LIBRARY.iterdir() if (path / "__init__.py").is_file()} == set(ROOMS[1:])


def test_a_modules_name_is_its_own() -> None:
    names = Counter(module.stem for module in modules() if module.stem != "__init__")
    assert [name for name, count in names.items() if count > 1] == []
