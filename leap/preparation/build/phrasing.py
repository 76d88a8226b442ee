"""Questions and answers in plain language: templates with several surface forms, and the samples made of them.

A template is plain English with two marks: `[a|b|]` stands for one of its alternatives (they nest), `{slot}` for a text
that is filled in.
"""

import random
import re
from collections.abc import Sequence

from leap.records.training import (
    REQUEST,
    ContentPart,
    ImagePart,
    Message,
    Target,
    TextPart,
    TrainingSample,
    numbered,
)

_ALTERNATIVES = re.compile(r"\[([^\[\]]*)\]")
_STRAY_COMMA = re.compile(r",([.,:;?!])")
_SENTENCE_START = re.compile(r"(^|[.!?] )([a-z])")
_REQUESTS = (
    REQUEST,
    'Somebody tells the robot: "{instruction}" What steps should it take? Answer with numbered steps.',
    'The robot in the picture is told: "{instruction}" Write its plan as numbered steps.',
    '"{instruction}" [Which|What] steps does the robot need for this? Number them.',
    'Plan this task for the robot arm: "{instruction}" [Answer with|Give] numbered steps.',
    'Look at the table. A person says: "{instruction}" List the steps for the robot, numbered.',
    '[How should|How would] the robot go about this: "{instruction}" Answer [in|with] numbered steps.',
    '[Break the task down into|Turn the request into] numbered steps for the robot: "{instruction}"',
)
_ANYWHERE = tuple(request for request in _REQUESTS if "table" not in request)


def expand(template: str, rng: random.Random, **slots: str) -> str:
    """Fill the slots, whose texts may hold marks of their own, then settle the alternatives."""
    text = template
    while "{" in text:
        text = text.format_map(slots)
    return _settle(text, rng)


def _settle(text: str, rng: random.Random) -> str:
    """One of the alternatives for each, innermost first."""
    while match := _ALTERNATIVES.search(text):
        text = text[: match.start()] + rng.choice(match[1].split("|")) + text[match.end() :]
    return text


def sentence(text: str) -> str:
    """One space between words, no comma before a full stop, a capital at the start of every sentence."""
    text = _STRAY_COMMA.sub(r"\1", " ".join(text.split()))
    return _SENTENCE_START.sub(lambda match: match[1] + match[2].upper(), text)


def plain_request(instruction: str, rng: random.Random, on_a_table: bool = True) -> str:
    """A question for the plan in plain language that quotes the instruction, whatever marks that may hold."""
    template = _settle(rng.choice(_REQUESTS if on_a_table else _ANYWHERE), rng)
    return sentence(template.replace("{instruction}", instruction))


def plain_sample(name: str, image: str, question: str, steps: Sequence[str]) -> TrainingSample:
    """A question about one image; the answer is numbered steps."""
    parts: list[ContentPart] = [ImagePart(type="image", image=image), TextPart(type="text", text=question)]
    message = Message(role="user", content=parts)
    return TrainingSample(id=name, messages=[message], target=Target(steps=numbered(steps)))
