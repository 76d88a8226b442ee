"""Rows that may go into a training file, whatever they were made from, and what had to be left out."""

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from leap.records.training import TextPart, TrainingRow


class Candidate(NamedTuple):
    """A finished row, as small as may be: 168,000 of them are held in memory."""

    source: str
    task: str
    name: str  # of the episode: rows with one name never part into training and test
    line: bytes  # of the JSONL file
    picture: str  # the file of its first picture
    skills: tuple[str, ...]
    question: int  # characters of the texts
    answer: int


@dataclass
class LeftOut:
    """Why episodes did not become rows."""

    names: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, reason: str, name: str) -> None:
        self.names[reason].append(name)


def make_candidate(source: str, task: str, row: TrainingRow, picture: Path, skills: Sequence[str]) -> Candidate:
    """The row's id is the episode's name."""
    assert row.id
    texts = (part.text for message in row.messages for part in message.parts() if isinstance(part, TextPart))
    line = row.model_dump_json(exclude_none=True).encode() + b"\n"
    return Candidate(
        source, task, row.id, line, str(picture), tuple(skills), sum(map(len, texts)), len(row.target.steps)
    )


def row_path(picture: Path, roots: Sequence[Path]) -> str:
    """How a row names a picture: from the first root that it lies under, else its whole path."""
    for root in roots:
        if picture.is_relative_to(root):
            return picture.relative_to(root).as_posix()
    return os.path.abspath(picture)
