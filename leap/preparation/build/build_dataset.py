"""A training file from its sources: LOVE-Agibot episodes, and examples in the benchmark's format."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leap.errors import LeapError, UsageError
from leap.preparation.agibot.annotations import SOURCE as AGIBOT
from leap.preparation.agibot.annotations import episode_samples, read_annotations
from leap.preparation.build.benchmark_samples import SOURCE as VLABENCH
from leap.preparation.build.benchmark_samples import evaluation_images, example_samples
from leap.preparation.build.candidates import Candidate, LeftOut
from leap.preparation.build.data_card import copies_found
from leap.preparation.build.dataset_file import CARD, BuildSettings, build_training_file
from leap.preparation.check.image_facts import FactStore
from leap.vlabench.sources import Source, choose_instructions


@dataclass(frozen=True)
class Sources:
    """Where samples come from, and what they must not show."""

    annotations: Path | None
    images: Path
    examples: Path | None
    evaluation: Path
    checkout: Path  # of VLABench, for its prompt
    prompt: Source = "auto"
    skip_invalid: bool = False


def build(sources: Sources, settings: BuildSettings, cache: Path, origin: dict[str, Any]) -> None:
    """Read the sources, write the files, say what was made. Raises UsageError where there is no source."""
    if sources.annotations is None and sources.examples is None:
        raise UsageError("nothing to make samples of: give --annotations, --vlabench, or both")
    samples: list[Candidate] = []
    descriptions: dict[str, str] = {}
    left_out = LeftOut(list)
    if sources.annotations:
        samples += _agibot(sources.annotations, sources, settings, left_out, descriptions)
    if sources.examples:
        samples += _vlabench(sources.examples, sources, settings, descriptions)
    if not samples:
        reasons = [f"{reason}: {len(names)}" for reason, names in left_out.items()]
        why = ", ".join(reasons) or "the sources are empty"
        raise LeapError(f"no sample can be made ({why}); images are expected in {sources.images}")
    evaluation = evaluation_images(sources.evaluation)
    card = build_training_file(
        samples, left_out, evaluation, FactStore(cache), settings, {**origin, "sources": descriptions}
    )
    _log(card, settings.output)


def _agibot(
    place: Path, sources: Sources, settings: BuildSettings, left_out: LeftOut, descriptions: dict[str, str]
) -> list[Candidate]:
    found = read_annotations(place)
    if found.problems and not sources.skip_invalid:
        raise LeapError(
            f"{found.problems[0]} (faulty entries in all: {len(found.problems)}); mend it, or leave such entries out "
            "with --skip_invalid"
        )
    for file in found.others:
        left_out["a file not named as annotations are"].append(str(file))
    for problem in found.problems:
        left_out["faulty annotation"].append(problem)
    digest = hashlib.sha256()
    for file in found.files:
        digest.update(file.read_bytes())
    descriptions[AGIBOT] = (
        f"{len(found.episodes):,} episodes of {len(found.files):,} annotation files, sha256 {digest.hexdigest()}"
    )
    return list(episode_samples(found.episodes, sources.images, settings.roots, settings.seed, left_out))


def _vlabench(place: Path, sources: Sources, settings: BuildSettings, descriptions: dict[str, str]) -> list[Candidate]:
    ours, theirs = place.resolve(), sources.evaluation.resolve()
    if ours.is_relative_to(theirs) or theirs.is_relative_to(ours):
        raise UsageError(f"--vlabench {place}: these are the evaluation's own examples; training must not see them")
    instructions = choose_instructions(sources.prompt, sources.checkout)
    samples = list(example_samples(place, instructions, settings.roots))
    digest = hashlib.sha256(b"".join(sample.line for sample in samples)).hexdigest()
    descriptions[VLABENCH] = (
        f"{len(samples):,} examples, sha256 of their samples {digest}; prompt {instructions.source}, sha256 "
        f"{instructions.sha256}"
    )
    return samples


def _log(card: dict[str, Any], output: Path) -> None:
    for name in card["files"]:
        print(f"wrote {output / name}")
    for what, found in copies_found(card).items():
        print(f"{what}: {found['same']:,} the same, {found['near']:,} near" if found else f"{what}: not compared")
    for reason, number in card["left_out"].items():
        print(f"left out, {reason}: {number:,}")
    print(f"look at {output / CARD}.md and {output / CARD}.png")
