"""What a model is asked: LEAP's own instructions, and the order of texts and pictures in one request.

The order is the benchmark's (OpenMOSS/VLABench at 47b04bf, evaluation/model/vlm/base.py); the wording of the
instructions is ours.
"""

import hashlib
import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from leap.records.training import ImagePart, TextPart


@dataclass(frozen=True)
class Instructions:
    """The text that opens every request, and where it comes from."""

    text: str
    source: str  # "leap": ours; "vlabench": the submodule's
    language: str = "en"

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


def leap_instructions() -> Instructions:
    """LEAP's own prompt, in English."""
    return Instructions(resources.files(__name__).joinpath("plan_en.txt").read_text(encoding="utf-8"), "leap")


def request_parts(instructions: str, picture: Path, numbered: Path, instruction: str) -> list[TextPart | ImagePart]:
    """One request's parts in the benchmark's order: instructions, both pictures and their captions, the instruction."""
    return [
        _text(instructions),
        _text("Input picture"),
        ImagePart(type="image", image=str(picture)),
        _text("Input picture with numbered tags"),
        ImagePart(type="image", image=str(numbered)),
        _text("Language instruction:"),
        _text(instruction),
        _text("Please give the output skill sequence"),
    ]


def _text(text: str) -> TextPart:
    return TextPart(type="text", text=text)


def fenced_plan(skill_sequence: list[Any]) -> str:
    """A plan as an answer that the parser accepts."""
    return f"```json\n{json.dumps(skill_sequence)}\n```"
