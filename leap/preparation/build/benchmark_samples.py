"""Training samples in the benchmark's form: its request, and the reference plan in a fence."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from leap.errors import LeapError
from leap.preparation.build.candidates import Candidate, make_candidate, sample_path
from leap.records.litter import listed
from leap.records.training import Message, Target, TrainingSample
from leap.vlabench.dimensions import DIMENSIONS
from leap.vlabench.examples import dimension_folders, find_examples
from leap.vlabench.prompts import Instructions, fenced_plan, request_parts

SOURCE = "vlabench"


def plan_sample(
    name: str, instructions: str, images: tuple[Path, Path], instruction: str, skill_sequence: list[Any]
) -> TrainingSample:
    """A request as the evaluation asks it, about (image, numbered image); the answer is the fenced plan."""
    message = Message(role="user", content=list(request_parts(instructions, images, instruction)))
    return TrainingSample(id=name, messages=[message], target=Target(steps=fenced_plan(skill_sequence)))


def example_samples(root: Path, instructions: Instructions, roots: Sequence[Path]) -> Iterator[Candidate]:
    """A sample for each example of a folder in the benchmark's format; dimensions may be missing.

    Raises LeapError for a broken example, and where there is none at all.
    """
    dimensions = [dimension for dimension in DIMENSIONS if dimension_folders(root, dimension)]
    if not dimensions:
        raise LeapError(f"{root}: no folder of a dimension there; <dimension>/<task>/exampleN/ is expected")
    for dimension in dimensions:
        for example in find_examples(root, dimension):
            name = f"{SOURCE}/{dimension.name}/{example.task}/{example.number}"
            files = example.image, example.numbered_image
            images = Path(sample_path(files[0], roots)), Path(sample_path(files[1], roots))
            sample = plan_sample(name, instructions.text, images, example.instruction, example.skill_sequence)
            skills = [str(step.get("name")) for step in example.skill_sequence if isinstance(step, dict)]
            yield make_candidate(SOURCE, f"{dimension.name}/{example.task}", sample, example.image, skills)


def evaluation_images(root: Path) -> list[str] | None:
    """The plain image of every example of the benchmark, broken ones included; None where there is no benchmark."""
    if not root.is_dir():
        return None
    folders = [folder for dimension in DIMENSIONS for folder in dimension_folders(root, dimension)]
    return sorted(str(path) for folder in folders for path in listed(folder, "*/example*/input/input.png"))
