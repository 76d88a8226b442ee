"""Prompts of a run with rewards: a file of samples whose answer is a plan, and the order in which they are asked."""

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

from leap.data.image import load_image, resolve_image
from leap.errors import LeapError
from leap.preparation.build.benchmark_samples import example_samples
from leap.preparation.check.checked_dataset import CheckedFile
from leap.records.files import write_atomic
from leap.records.remote import fetch_listed
from leap.records.training import ImagePart, TrainingSample
from leap.reinforcement.policy_recipe import TABLETOP, PolicyRecipe
from leap.vlabench.dimensions import DIMENSIONS
from leap.vlabench.examples import dimension_folders
from leap.vlabench.grounding import plan_steps
from leap.vlabench.parsing import parse_plan
from leap.vlabench.rewards import Shown
from leap.vlabench.sources import choose_instructions

_WINDOW = 8  # samplings among whose prompts those of about one length are found
_KEPT = 64  # prompts whose images stay decoded: a group's responses have one prompt


@dataclass(frozen=True)
class Places:
    """Where a run finds and leaves things: see WorkspaceConfig. `checkout` is where VLABench's submodule is, if
    anywhere."""

    root: Path
    cache: Path
    repository: Path
    logs: Path
    evaluation: Path
    checkout: Path


@dataclass(frozen=True)
class Prompt:
    """A conversation to respond to, the files of its images in reading order, and its right plan."""

    sample: TrainingSample
    images: tuple[Path, ...]
    reference: list[Any]


@dataclass(frozen=True)
class Asked:
    """One group of responses: to which prompt, and with whose images."""

    prompt: int
    images_of: int  # another prompt's number where another scene is shown
    shown: Shown


def prompt_file(recipe: PolicyRecipe, places: Places, cache: Path, dry_run: bool) -> str | None:
    """What `train_file` means as a file of samples: fresh scenes are made, examples of a benchmark's folder written as
    samples. None where a dry run would have to make scenes. Raises LeapError for the evaluation's own examples."""
    if recipe.train_file == TABLETOP:
        from leap.environment import world_size
        from leap.tabletop.demo_workspace import fresh_file, make_fresh_samples

        count = recipe.num_prompts or recipe.prompts_needed(world_size())
        if dry_run and not fresh_file(places.root, count, recipe.seed).is_file():
            return None
        return str(make_fresh_samples(places.root, count, recipe.seed).relative_to(places.root))
    folder = places.root / recipe.train_file
    if not folder.is_dir() or not any(dimension_folders(folder, dimension) for dimension in DIMENSIONS):
        return recipe.train_file
    if folder.resolve() == places.evaluation.resolve():
        raise LeapError(f"train_file: {folder} is what models are evaluated on; give other examples of that form")
    instructions = choose_instructions("auto", places.checkout)
    samples = example_samples(folder, instructions, [places.root, places.root / "data"])
    content = b"".join(candidate.line.rstrip() + b"\n" for candidate in samples)
    path = cache / "training" / "prompts" / f"{folder.name}-{hashlib.sha256(content).hexdigest()[:16]}.jsonl"
    write_atomic(path, content)
    return str(path)


def read_prompts(checked: CheckedFile) -> list[Prompt]:
    """The samples whose answer holds a plan, in the file's order. Raises LeapError where none does."""
    found = []
    for place in checked.places:
        sample = TrainingSample.model_validate_json(checked.table[int(place)]["sample"])
        plan = parse_plan(sample.target.steps).plan
        if plan_steps(plan):
            images = tuple(resolve_image(image, checked.image_roots) for image in sample.images())
            found.append(Prompt(sample, images, plan or []))
    if not found:
        raise LeapError(
            f"{checked.path}: no sample's answer holds a plan in a fence, so that no response can be scored"
        )
    fetch_listed(image for prompt in found for image in prompt.images)
    return found


def order_of(prompts: Sequence[Prompt], groups: int, image_share: float, seed: int, together: int = 1) -> list[Asked]:
    """So many groups: all prompts in a shuffled order, as often as it takes, and those of the `together` that are
    sampled at once with plans of about one length. `image_share` of the prompts are asked twice in a row, the second
    time with the images of another one that has another plan."""
    others = _Others(prompts) if image_share else None
    asked: list[Asked] = []
    turn = 0
    while len(asked) < groups:
        rng = random.Random(f"{seed}/{turn}")
        for prompt in _alike_together(prompts, rng.sample(range(len(prompts)), len(prompts)), together, rng):
            other = others.one(prompt, rng) if others and rng.random() < image_share else None
            asked.append(Asked(prompt, prompt, "own" if other is None else "paired"))
            if other is not None:
                asked.append(Asked(prompt, other, "other"))
        turn += 1
    return asked[:groups]


def _alike_together(prompts: Sequence[Prompt], order: list[int], together: int, rng: random.Random) -> list[int]:
    """Responses are sampled until the longest of them ends: one long plan among short ones makes all of them wait."""
    found = list[int]()
    for start in range(0, len(order), _WINDOW * together):
        near = sorted(order[start : start + _WINDOW * together], key=lambda one: len(prompts[one].reference))
        sampled = [near[first : first + together] for first in range(0, len(near), together)]
        found += chain.from_iterable(rng.sample(sampled, len(sampled)))
    return found


class _Others:
    """For each prompt those with as many images and another plan. Prompts of one plan lie side by side."""

    def __init__(self, prompts: Sequence[Prompt]) -> None:
        plans: dict[int, dict[tuple[Any, ...], list[int]]] = {}
        for number, prompt in enumerate(prompts):
            steps = tuple(plan_steps(prompt.reference) or ())
            plans.setdefault(len(prompt.images), {}).setdefault(steps, []).append(number)
        # Of each prompt: the numbers among which it stands, and where those of its own plan begin and end.
        self._of: dict[int, tuple[list[int], int, int]] = {}
        for alike in plans.values():
            numbers = list[int]()
            for own in alike.values():
                place = numbers, len(numbers), len(numbers) + len(own)
                numbers.extend(own)
                self._of.update(dict.fromkeys(own, place))

    def one(self, prompt: int, rng: random.Random) -> int | None:
        """Any of them; None where there is none."""
        numbers, start, end = self._of[prompt]
        if end - start == len(numbers):
            return None
        found = rng.randrange(len(numbers) - (end - start))
        return numbers[found if found < start else found + end - start]


@dataclass
class Conversations:
    """Rows of TRL's data set by their number, made when they are asked for: images stay files until then."""

    prompts: Sequence[Prompt]
    asked: Sequence[Asked]
    _row: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._row = lru_cache(_KEPT)(self._make)

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """{"number": [...]} to the columns `prompt`, `reference` (as JSON: its ids may be numbers and words) and
        `shown`."""
        rows = [self._row(number) for number in batch["number"]]
        return {name: [row[name] for row in rows] for name in ("prompt", "reference", "shown")}

    def _make(self, number: int) -> dict[str, Any]:
        asked = self.asked[number]
        prompt, shown = self.prompts[asked.prompt], self.prompts[asked.images_of]
        images = iter([load_image(image) for image in shown.images])
        conversation = [
            {
                "role": message.role,
                "content": [
                    {"type": "image", "image": next(images)}
                    if isinstance(part, ImagePart)
                    else {"type": "text", "text": part.text}
                    for part in message.parts()
                ],
            }
            for message in prompt.sample.messages
        ]
        return {"prompt": conversation, "reference": json.dumps(prompt.reference), "shown": asked.shown}
