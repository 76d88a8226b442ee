"""Benchmark examples as requests to a model, with the right pictures or, for the control, the wrong ones."""

from collections.abc import Sequence
from pathlib import Path

from leap.data.pictures import BlankPicture
from leap.errors import LeapError
from leap.evaluation.settings import EvaluationSettings, PictureControl
from leap.evaluation.shots import draw_shots
from leap.inference.protocol import Request
from leap.records.benchmark import BenchmarkExample
from leap.records.training import Message
from leap.vlabench.prompts import Shot, request_parts


def build_requests(
    examples: Sequence[BenchmarkExample], pool: Sequence[BenchmarkExample], settings: EvaluationSettings
) -> list[Request]:
    """One request an example, in order. `pool` is the whole dimension, which few-shot examples are drawn from."""
    return [
        build_request(
            example.key, example.instruction, pictures, settings, draw_shots(example, pool, settings.few_shot)
        )
        for example, pictures in zip(examples, _pictures(examples, settings.picture_control), strict=True)
    ]


def build_request(
    key: tuple[str, str],
    instruction: str,
    pictures: tuple[Path | BlankPicture, Path | BlankPicture],
    settings: EvaluationSettings,
    shots: Sequence[Shot] = (),
) -> Request:
    """A request for one plan. `pictures` are the plain and the numbered one of the scene in question."""
    plain, numbered = (source.like if isinstance(source, BlankPicture) else source for source in pictures)
    instructions = settings.instructions
    parts = request_parts(
        instructions.text, plain, numbered, instruction, shots, instructions.language, settings.with_cot
    )
    shown = [picture for shot in shots for picture in (shot.picture, shot.numbered)]
    return Request(key, (Message(role="user", content=list(parts)),), (*shown, *pictures))


def _pictures(
    examples: Sequence[BenchmarkExample], control: PictureControl
) -> list[tuple[Path | BlankPicture, Path | BlankPicture]]:
    own: list[tuple[Path, Path]] = [(example.picture, example.numbered_picture) for example in examples]
    if control == "blank":
        return [(BlankPicture(plain), BlankPicture(numbered)) for plain, numbered in own]
    if control == "swapped":
        if len(own) < 2:
            raise LeapError("--picture-control swapped needs at least two examples a dimension")
        return [*own[1:], own[0]]  # the next example's: mostly the same task, always another scene
    return list(own)
