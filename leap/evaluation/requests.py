"""Benchmark examples as requests to a model, with the right images or, for the control, the wrong ones or none."""

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from leap.data.image import BlankImage, ImageSource, SentImage
from leap.errors import LeapError
from leap.evaluation.settings import EvaluationSettings, FewShot, ImageControl
from leap.inference.protocol import Request
from leap.records.benchmark import BenchmarkExample
from leap.records.training import Message
from leap.vlabench.prompts import FewShotExample, fenced_plan, request_parts

Images = tuple[Path | BlankImage, Path | BlankImage]  # the plain one and the numbered one


def build_requests(
    examples: Sequence[BenchmarkExample], pool: Sequence[BenchmarkExample], settings: EvaluationSettings
) -> list[Request]:
    """One request an example, in order.

    `pool` is the whole dimension: few-shot examples and other scenes' images are taken from it, so that a request
    does not depend on what else is evaluated.
    """
    shown = shown_images(pool, settings.image_control)
    return [
        build_request(
            (example.dimension, *example.key),
            example.instruction,
            shown[example.key],
            settings,
            draw_few_shot_examples(example, pool, settings.few_shot),
        )
        for example in examples
    ]


def build_request(
    key: tuple[str, ...],
    instruction: str,
    images: tuple[ImageSource, ImageSource] | None,
    settings: EvaluationSettings,
    few_shot_examples: Sequence[FewShotExample] = (),
) -> Request:
    """A request for one plan. `images` are the plain and the numbered one of the scene in question; with None it has no
    image at all, also none of its solved examples."""
    instructions = settings.instructions
    places = images and (_place(images[0]), _place(images[1]))
    parts = request_parts(
        instructions.text, places, instruction, few_shot_examples, instructions.language, settings.with_cot
    )
    shown = [image for solved in few_shot_examples for image in (solved.image, solved.numbered)] if images else []
    return Request(key, (Message(role="user", content=list(parts)),), (*shown, *(images or ())))


def _place(source: ImageSource) -> Path:
    if isinstance(source, SentImage):
        return Path("sent")
    return source.like if isinstance(source, BlankImage) else source


def shown_images(pool: Sequence[BenchmarkExample], control: ImageControl) -> dict[tuple[str, str], Images | None]:
    """By example: its own images, grey ones, those of another scene, or none."""
    if control == "absent":
        return {example.key: None for example in pool}
    if control == "swapped":
        return {example.key: (other.image, other.numbered_image) for example, other in _other_scenes(pool)}
    own = {example.key: (example.image, example.numbered_image) for example in pool}
    if control == "blank":
        return {key: (BlankImage(plain), BlankImage(numbered)) for key, (plain, numbered) in own.items()}
    return dict(own)


def _other_scenes(pool: Sequence[BenchmarkExample]) -> Iterator[tuple[BenchmarkExample, BenchmarkExample]]:
    """Each example with the next of its task, cyclically; that of a task of one with the next in the dimension."""
    if len(pool) < 2:
        raise LeapError("--image_control swapped needs at least two examples a dimension")
    for index, example in enumerate(pool):
        task = [other for other in pool if other.task == example.task]
        if len(task) > 1:
            yield example, task[(task.index(example) + 1) % len(task)]
        else:
            yield example, pool[(index + 1) % len(pool)]


def draw_few_shot_examples(
    example: BenchmarkExample, pool: Sequence[BenchmarkExample], few_shot: FewShot
) -> tuple[FewShotExample, ...]:
    """The few-shot examples of one request. They depend on seed, example and pool, not on what else is evaluated.

    `pool` is the whole dimension. Raises LeapError where it has too few other examples.
    """
    others = [other for other in pool if other.key != example.key]
    if len(others) < few_shot.number:
        raise LeapError(
            f"--few_shot_num {few_shot.number}: {example.dimension} has only {len(others)} other examples to show"
        )
    rng = random.Random(f"{few_shot.seed}/{example.dimension}/{example.task}/{example.number}")
    return tuple(_shot(other, few_shot.format) for other in rng.sample(others, few_shot.number))


def _shot(example: BenchmarkExample, form: str) -> FewShotExample:
    output = json.dumps(example.reference) if form == "upstream" else fenced_plan(example.skill_sequence)
    return FewShotExample(example.image, example.numbered_image, example.instruction, output)
