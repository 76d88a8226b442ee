"""Plain-language training questions and answers about the demo's episodes."""

import random
from collections.abc import Sequence

from leap.demo.tasks.episode import Episode
from leap.demo.tasks.wording import expand, sentence

_REQUESTS = (
    'What steps should the robot take to carry out this request: "{instruction}" Answer with numbered steps.',
    'Somebody tells the robot: "{instruction}" What steps should it take? Answer with numbered steps.',
    'The robot in the picture is told: "{instruction}" Write its plan as numbered steps.',
    '"{instruction}" [Which|What] steps does the robot need for this? Number them.',
    'Plan this task for the robot arm: "{instruction}" [Answer with|Give] numbered steps.',
    'Look at the table. A person says: "{instruction}" List the steps for the robot, numbered.',
    '[How should|How would] the robot go about this: "{instruction}" Answer [in|with] numbered steps.',
    '[Break the task down into|Turn the request into] numbered steps for the robot: "{instruction}"',
)


def plain_request(episode: Episode, rng: random.Random) -> str:
    """A question for the plan in plain language that quotes the episode's instruction."""
    return sentence(expand(rng.choice(_REQUESTS), rng, instruction=episode.instruction))


def numbered(steps: Sequence[str]) -> str:
    """ "1) Pick up the apple. 2) Place it in the basket."."""
    return " ".join(f"{number}) {step}" for number, step in enumerate(steps, start=1))
