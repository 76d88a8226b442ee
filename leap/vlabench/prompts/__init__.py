"""What a model is asked: LEAP's own instructions, and the order of texts and images in one request.

The order and the short captions are the benchmark's (OpenMOSS/VLABench at 47b04bf, evaluation/model/vlm/base.py; held
to the golden vectors); the wording of the instructions is ours.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from leap.errors import LeapError
from leap.records.training import ImagePart, TextPart

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = ("en", "zh")


@dataclass(frozen=True)
class Instructions:
    """The text that opens every request, and where it comes from."""

    text: str
    source: str  # "leap": ours; "vlabench": the submodule's
    language: Language = "en"

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True)
class FewShotExample:
    """A solved example that is shown before the question; `output` is its answer as text."""

    image: Path
    numbered: Path
    instruction: str
    output: str


@dataclass(frozen=True)
class _Captions:
    """The benchmark's captions in one language; `few_shot_example` takes the index of one and what it shows."""

    image: str
    numbered: str
    instruction: str
    answer: str
    step_by_step: str
    few_shot_example: str
    few_shot_parts: tuple[str, str, str, str]  # image, numbered image, instruction, output


_CAPTIONS: dict[str, _Captions] = {
    "en": _Captions(
        image="Input picture",
        numbered="Input picture with numbered tags",
        instruction="Language instruction:",
        answer="Please give the output skill sequence",
        step_by_step="Please analyze the problem step by step and give the answer",
        few_shot_example="Example {index} {part}",
        few_shot_parts=(
            "input picture:",
            "input picture with numbered tags",
            "language instruction:",
            "output skill sequence",
        ),
    ),
    "zh": _Captions(
        image="输入图片",
        numbered="输入带编号标签的图片",
        instruction="语言指令:",
        answer="请你给出输出的技能序列",
        step_by_step="请一步一步分析问题最后给出答案",
        few_shot_example="示范{index}{part}",
        few_shot_parts=("输入图片:", "输入带编号标签的图片", "语言指令:", "输出技能序列"),
    ),
}


def leap_instructions(language: Language = "en") -> Instructions:
    """LEAP's own prompt."""
    file = resources.files(__name__).joinpath(f"plan_{language}.txt")
    return Instructions(file.read_text(encoding="utf-8"), "leap", language)


def request_parts(
    instructions: str,
    images: tuple[Path, Path] | None,
    instruction: str,
    few_shot_examples: Sequence[FewShotExample] = (),
    language: str = "en",
    with_cot: bool = False,
) -> list[TextPart | ImagePart]:
    """One request's parts in the benchmark's order: instructions, solved examples, images, instruction, question.

    `images` are the plain and the numbered one. With None the request shows none, nor those of its solved examples, and
    has no captions for them: a model that is shown captions of an image it cannot see is asked another question.
    """
    if language not in _CAPTIONS:
        raise LeapError(f"prompts are in {' and '.join(LANGUAGES)}, not in {language!r}")
    captions = _CAPTIONS[language]
    parts: list[TextPart | ImagePart] = [_text(instructions)]
    for index, few_shot_example in enumerate(few_shot_examples):
        shown: tuple[TextPart | ImagePart, ...] = (
            _image(few_shot_example.image),
            _image(few_shot_example.numbered),
            _text(few_shot_example.instruction),
            _text(few_shot_example.output),
        )
        for title, content in zip(captions.few_shot_parts, shown, strict=True):
            if images or not isinstance(content, ImagePart):
                parts += [_text(captions.few_shot_example.format(index=index, part=title)), content]
    if images:
        parts += [_text(captions.image), _image(images[0]), _text(captions.numbered), _image(images[1])]
    parts += [_text(captions.instruction), _text(instruction), _text(captions.answer)]
    return [*parts, _text(captions.step_by_step)] if with_cot else parts


def _text(text: str) -> TextPart:
    return TextPart(type="text", text=text)


def _image(path: Path) -> ImagePart:
    return ImagePart(type="image", image=str(path))


def fenced_plan(skill_sequence: list[Any]) -> str:
    """A plan as an answer that the parser accepts."""
    return f"```json\n{json.dumps(skill_sequence)}\n```"
