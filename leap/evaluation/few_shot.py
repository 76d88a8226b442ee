"""Solved examples for few-shot requests: of the same dimension, never the example under test, none twice, by a seed."""

import json
import random
from collections.abc import Sequence

from leap.errors import LeapError
from leap.evaluation.settings import FewShot
from leap.records.benchmark import BenchmarkExample
from leap.vlabench.prompts import FewShotExample, fenced_plan


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
