"""What the base model's tokenizer is trained on: questions about scenes, and the texts of plans, which come later."""

import random
from collections.abc import Iterator

from leap.preparation.build import phrasing
from leap.records.training import numbered
from leap.tabletop.perception import SORTS, ask, perception_scene
from leap.tabletop.tasks import TASKS, make_episode
from leap.vlabench.prompts import fenced_plan, leap_instructions

_EPISODES_PER_TASK, _SCENES = 60, 600


def vocabulary_texts(seed: int) -> Iterator[str]:
    """Instructions only in the wording of training: what evaluation keeps back is not in the vocabulary either."""
    yield from ("user", "assistant", "system", leap_instructions().text)
    for dimension, makers in TASKS.items():
        for maker in makers:
            for index in range(_EPISODES_PER_TASK):
                rng = random.Random(f"{seed}/vocabulary/{maker.name}/{index}")
                episode = make_episode(dimension, maker.name, rng)
                yield episode.instruction
                yield phrasing.plain_request(episode.instruction, rng)
                yield fenced_plan(episode.skill_sequence)
                yield numbered(episode.steps)
    for index in range(_SCENES):
        rng = random.Random(f"{seed}/vocabulary/{index}")
        scene = perception_scene(rng)
        for sort in SORTS:
            if question := ask(sort, scene, rng):
                yield from (question.text, question.answer)
