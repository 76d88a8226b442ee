"""Samples that may go into a training file, whatever they were made from, and what had to be left out."""

import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from leap.records.training import TextPart, TrainingSample


class Candidate(NamedTuple):
    """A finished sample, as small as may be: 168,000 of them are held in memory."""

    source: str
    task: str
    name: str  # of the episode: samples with one name never part into training and test
    line: bytes  # of the JSONL file
    image: str  # the file of its first image
    skills: tuple[str, ...]
    question: int  # characters of the texts
    answer: int


LeftOut = defaultdict[str, list[str]]  # why episodes did not become samples, and which


def make_candidate(source: str, task: str, sample: TrainingSample, image: Path, skills: Sequence[str]) -> Candidate:
    """The sample's id is the episode's name."""
    assert sample.id
    texts = (part.text for message in sample.messages for part in message.parts() if isinstance(part, TextPart))
    line = sample.model_dump_json(exclude_none=True).encode() + b"\n"
    return Candidate(
        source, task, sample.id, line, str(image), tuple(skills), sum(map(len, texts)), len(sample.target.steps)
    )


def sample_path(image: Path, roots: Sequence[Path]) -> str:
    """How a sample names an image: from the first root that it lies under, else its whole path."""
    for root in roots:
        if image.is_relative_to(root):
            return image.relative_to(root).as_posix()
    return os.path.abspath(image)
