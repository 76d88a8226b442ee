"""The data card of a training file: what is in it, where it comes from, and what is doubtful about it."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from leap.preparation.build.candidates import Candidate, LeftOut, sample_path
from leap.preparation.build.copies import Copy
from leap.preparation.check.image_facts import Facts
from leap.records.table_cells import markdown_lines
from leap.terminal import in_one_line

if TYPE_CHECKING:
    from leap.preparation.build.dataset_file import BuildSettings, Built

_SHOWN = 30  # tasks and skills in the Markdown card; the JSON card has all


def make_card(
    built: "Built",
    left_out: LeftOut,
    facts: dict[str, Facts],
    files: dict[str, str],
    settings: "BuildSettings",
    evaluation_images: int | None,
    origin: dict[str, Any],
) -> dict[str, Any]:
    """The card as a JSON object. `files`: sha256 by name."""
    samples = built.samples
    sides = {"train": built.train, "test": built.test}
    return {
        **origin,
        "seed": settings.seed,
        "files": {name: {"sha256": digest} for name, digest in files.items()},
        "rows": {side: _count(sample.source for sample in part) for side, part in sides.items()},
        "tasks": {side: _count(f"{sample.source}/{sample.task}" for sample in part) for side, part in sides.items()},
        "skills": _count(skill for sample in samples for skill in sample.skills),
        "lengths": {
            "question, characters": _spread([sample.question for sample in samples]),
            "answer, characters": _spread([sample.answer for sample in samples]),
            "steps": _spread([len(sample.skills) for sample in samples]),
        },
        "image_sizes": _count(f"{facts[sample.image].width}x{facts[sample.image].height}" for sample in samples),
        "near_bits": settings.near_bits,
        "excluded": sorted(settings.exclude),
        "duplicates": _copies(built.within, samples, settings.roots),
        "test_rows_with_a_training_image": _copies(built.across, built.test, settings.roots),
        "evaluation_images": evaluation_images,
        "overlap_with_the_evaluation": None
        if built.overlap is None
        else _copies(built.overlap, samples, settings.roots),
        "left_out": {reason: len(names) for reason, names in left_out.items()},
        "left_out_names": dict(left_out),
    }


def _count(values: Iterable[str]) -> dict[str, int]:
    """How often each is there, the most frequent first."""
    return dict(sorted(Counter(values).items(), key=lambda item: (-item[1], item[0])))


def _spread(values: Sequence[int]) -> dict[str, float]:
    return {
        "smallest": min(values),
        "median": float(np.median(values)),
        "mean": round(float(np.mean(values)), 1),
        "largest": max(values),
    }


def _copies(copies: Sequence[Copy], samples: Sequence[Candidate], roots: Sequence[Path]) -> dict[str, Any]:
    return {
        "same": sum(copy.same for copy in copies),
        "near": sum(not copy.same for copy in copies),
        "rows": {
            samples[copy.sample].name: {
                "other": sample_path(Path(copy.other), roots),
                "bits": copy.bits,
                "same": copy.same,
            }
            for copy in copies
        },
    }


def as_markdown(card: dict[str, Any]) -> str:
    """The card for people; lists that are long are cut, and said to be."""
    near = card["near_bits"]
    parts = [
        f"# Data card\n\nMade by `{in_one_line(card['command'])}` (commit {card['commit'] or 'unknown'}"
        f"{', with changes' if card['dirty'] else ''}), seed {card['seed']}. An image: data_card.png; "
        "every name: data_card.json.\n",
        _table("Files", ("file", "sha256"), [(name, found["sha256"]) for name, found in card["files"].items()]),
        _table("Sources", ("source", "what"), [(name, str(what)) for name, what in card["sources"].items()]),
        _sides("Samples", "source", card["rows"]),
        _sides("Tasks", "task", card["tasks"]),
        _table("Skills", ("skill", "steps"), list(card["skills"].items())),
        _table(
            "Lengths",
            ("of", "smallest", "median", "mean", "largest"),
            [(of, *spread.values()) for of, spread in card["lengths"].items()],
        ),
        _table("Image sizes", ("pixels", "samples"), list(card["image_sizes"].items())),
        f"\n## Copies of images\n\nThe first image of each sample is compared: the very same pixels, or perceptual "
        f"hashes of 64 bits that differ in no more than {near}. A hash sees the whole image, so scenes before one "
        "background may pass for near although their objects differ: look at data_card.png before excluding them.\n",
        _table(
            "",
            ("", "same", "near"),
            [
                (what, found["same"], found["near"]) if found else (what, "not compared: they are not there", "")
                for what, found in copies_found(card).items()
            ],
        ),
        f"\nImages of the evaluation: {card['evaluation_images'] or 0:,}.\n",
        _table("Left out", ("why", "episodes"), list(card["left_out"].items()) or [("nothing", 0)]),
    ]
    return "".join(parts)


def copies_found(card: dict[str, Any]) -> dict[str, dict[str, Any] | None]:
    """What was compared, and what was found; None where the evaluation's images are not there."""
    return {
        "samples with the image of another sample": card["duplicates"],
        "test samples with the image of a training sample": card["test_rows_with_a_training_image"],
        "samples with an image of the evaluation": card["overlap_with_the_evaluation"],
    }


def _sides(title: str, what: str, sides: dict[str, dict[str, int]]) -> str:
    names = dict.fromkeys(name for side in sides.values() for name in side)
    samples = [(name, sides["train"].get(name, 0), sides["test"].get(name, 0)) for name in names]
    return _table(title, (what, "train", "test"), samples)


def _table(title: str, header: Sequence[str], samples: Sequence[Sequence[Any]]) -> str:
    right = [isinstance(value, int | float) for value in samples[0]] if samples else [False] * len(header)
    heading = f"\n## {title}\n\n" if title else "\n"
    cells = [[_cell(value) for value in sample] for sample in samples[:_SHOWN]]
    more = f"\nand {len(samples) - _SHOWN} more in data_card.json\n" if len(samples) > _SHOWN else ""
    return heading + markdown_lines(header, right, cells) + more


def _cell(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int | float) else str(value)
