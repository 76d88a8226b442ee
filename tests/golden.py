"""Reads the golden vectors in tests/data/golden; see the README there."""

import json
from pathlib import Path
from typing import Any

GOLDEN = Path(__file__).parent / "data" / "golden"


def load_jsonl(name: str) -> list[dict[str, Any]]:
    """The cases of one file, one dict a line. Split at "\\n" only: a string may hold other line separators."""
    return [json.loads(line) for line in (GOLDEN / name).read_text(encoding="utf-8").split("\n") if line]


def decode_dependency(value: Any) -> Any:
    """A scoring case's third argument: {"pairs": [[source, targets], ...]} stands for a dict with any type of key."""
    if isinstance(value, dict) and value.keys() == {"pairs"}:
        return dict(value["pairs"])
    return value
