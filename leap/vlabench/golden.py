"""Reads golden vectors: what the benchmark's own code answered (tests/data/golden; see the README there)."""

import json
from pathlib import Path
from typing import Any


def load_golden(path: Path) -> list[dict[str, Any]]:
    """The cases of one file, one dict a line. Split at "\\n" only: a string may hold other line separators."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def decode_dependency(value: Any) -> Any:
    """A scoring case's third argument: {"pairs": [[source, targets], ...]} stands for a dict with any type of key."""
    if isinstance(value, dict) and value.keys() == {"pairs"}:
        return dict(value["pairs"])
    return value
