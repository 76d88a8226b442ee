"""Benchmark examples as requests to a model, with the right pictures or, for the control, the wrong ones."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from leap.data.image import BlankPicture
from leap.errors import LeapError
from leap.evaluation.few_shot import draw_shots
from leap.evaluation.settings import EvaluationSettings, PictureControl
from leap.inference.protocol import Request
from leap.records.benchmark import BenchmarkExample
from leap.records.training import Message
from leap.vlabench.prompts import Shot, request_parts


def build_requests(
    examples: Sequence[BenchmarkExample], pool: Sequence[BenchmarkExample], settings: EvaluationSettings
) -> list[Request]:
    """One request an example, in order.

    `pool` is the whole dimension: few-shot examples and other scenes' pictures are taken from it, so that a request
    does not depend on what else is evaluated.
    """
    shown = _pictures(pool, settings.picture_control)
    return [
        build_request(
            (example.dimension, *example.key),
            example.instruction,
            shown[example.key],
            settings,
            draw_shots(example, pool, settings.few_shot),
        )
        for example in examples
    ]


def build_request(
    key: tuple[str, ...],
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
    pool: Sequence[BenchmarkExample], control: PictureControl
) -> dict[tuple[str, str], tuple[Path | BlankPicture, Path | BlankPicture]]:
    """By example: its own pictures, grey ones, or those of another scene."""
    if control == "swapped":
        return {example.key: (other.picture, other.numbered_picture) for example, other in _other_scenes(pool)}
    own = {example.key: (example.picture, example.numbered_picture) for example in pool}
    if control == "blank":
        return {key: (BlankPicture(plain), BlankPicture(numbered)) for key, (plain, numbered) in own.items()}
    return dict(own)


def _other_scenes(pool: Sequence[BenchmarkExample]) -> Iterator[tuple[BenchmarkExample, BenchmarkExample]]:
    """Each example with the next of its task, cyclically; that of a task of one with the next in the dimension."""
    if len(pool) < 2:
        raise LeapError("--picture-control swapped needs at least two examples a dimension")
    for index, example in enumerate(pool):
        task = [other for other in pool if other.task == example.task]
        if len(task) > 1:
            yield example, task[(task.index(example) + 1) % len(task)]
        else:
            yield example, pool[(index + 1) % len(pool)]
