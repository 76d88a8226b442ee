"""A training and a test file from finished samples: copies found, episodes split, a data card and an image written."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from leap.errors import LeapError, UsageError
from leap.preparation.build.candidates import Candidate, LeftOut
from leap.preparation.build.contact_sheet import write_contact_sheet
from leap.preparation.build.copies import Copy, Exclusion, Images, check_distance, copies_of, copies_within
from leap.preparation.build.data_card import as_markdown, make_card
from leap.preparation.check.image_facts import Facts, FactStore
from leap.records.files import is_file, write_atomic
from leap.records.json_files import object_if_there, write_json

CARD = "data_card"
TEST_SHARE = 16_812 / 168_042
"""The published files' share of test samples."""


@dataclass(frozen=True)
class BuildSettings:
    """How the files are made. `near_bits`: images whose hashes differ in no more bits look alike."""

    output: Path
    roots: tuple[Path, ...]  # where a relative path of an image may start; the first that holds it counts
    seed: int = 42
    train_samples: int | None = None
    test_samples: int | None = None
    near_bits: int = 4
    exclude: Collection[Exclusion] = ()
    overwrite: bool = False

    def __post_init__(self) -> None:
        check_distance(self.near_bits)


@dataclass(frozen=True)
class Built:
    """The samples of each side, and the copies that remain in them."""

    train: list[Candidate]
    test: list[Candidate]
    within: list[Copy]  # of samples in train + test
    across: list[Copy]  # test samples with a training image
    overlap: (
        list[Copy] | None
    )  # samples in train + test with an evaluation image; None where there is no evaluation set

    @cached_property
    def samples(self) -> list[Candidate]:
        return [*self.train, *self.test]


def build_training_file(
    samples: Sequence[Candidate],
    left_out: LeftOut,
    evaluation: Sequence[str] | None,
    store: FactStore,
    settings: BuildSettings,
    origin: dict[str, Any],
) -> dict[str, Any]:
    """Write train_<samples>.jsonl, test_<samples>.jsonl, data_card.json, .md and .png; the card.

    `evaluation` are the images that training must not have seen; `origin` goes into the card as it is. Samples with a
    image that cannot be decoded are left out. Raises LeapError where no sample remains, and where another file of the
    same name is there.
    """
    facts = store.look([*(sample.image for sample in samples), *(evaluation or ())]).facts
    usable = [sample for sample in samples if sample.image in facts]
    for sample in samples:
        if sample.image not in facts:
            left_out["the image cannot be decoded"].append(sample.name)
    shown = None if evaluation is None else Images.of([path for path in evaluation if path in facts], facts)
    built = _split(_exclude(usable, shown, facts, settings, left_out), shown, facts, settings)
    files = {
        f"{side}_{len(part)}.jsonl": b"".join(sample.line for sample in part)
        for side, part in (("train", built.train), ("test", built.test))
        if part
    }
    _refuse_others(settings, files)
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    card = make_card(built, left_out, facts, digests, settings, None if shown is None else len(shown.files), origin)
    sheet = settings.output / f"{CARD}.png"
    write_contact_sheet(sheet, built.samples, built.within, built.overlap or [], settings.seed)
    for name, content in files.items():
        write_atomic(settings.output / name, content)
    write_atomic(settings.output / f"{CARD}.md", as_markdown(card))
    write_json(settings.output / f"{CARD}.json", card)
    return card


def _exclude(
    samples: list[Candidate],
    evaluation: Images | None,
    facts: dict[str, Facts],
    settings: BuildSettings,
    left_out: LeftOut,
) -> list[Candidate]:
    """The samples that remain. What shows the evaluation's images goes first, so that no copy stands for it."""
    wanted = set(settings.exclude)
    if evaluation and wanted & {"overlap", "near-overlap"}:
        copies = copies_of(_images(samples, facts), evaluation, settings.near_bits)
        samples = _without(samples, copies, ("overlap", "near-overlap"), wanted, left_out)
    if wanted & {"duplicates", "near-duplicates"}:
        copies = copies_within(_images(samples, facts), settings.near_bits)
        samples = _without(samples, copies, ("duplicates", "near-duplicates"), wanted, left_out)
    return samples


def _images(samples: Sequence[Candidate], facts: dict[str, Facts]) -> Images:
    return Images.of([sample.image for sample in samples], facts)


def _without(
    samples: Sequence[Candidate],
    copies: Sequence[Copy],
    kinds: tuple[Exclusion, Exclusion],
    wanted: Collection[Exclusion],
    left_out: LeftOut,
) -> list[Candidate]:
    """The samples less the copies of a wanted kind; `kinds` are those of the same and of near images."""
    same, near = kinds
    dropped = {copy.sample: kind for copy in copies if (kind := same if copy.same else near) in wanted}
    for place, kind in dropped.items():
        left_out[f"excluded: {kind}"].append(samples[place].name)
    return [sample for place, sample in enumerate(samples) if place not in dropped]


def _split(
    samples: Sequence[Candidate], evaluation: Images | None, facts: dict[str, Facts], settings: BuildSettings
) -> Built:
    if not samples:
        raise LeapError("no sample remains; the data card is not written")
    by_name: dict[str, list[Candidate]] = {}
    for sample in samples:
        by_name.setdefault(sample.name, []).append(sample)
    sizes = {name: len(found) for name, found in by_name.items()}
    names = split_episodes(sizes, settings.seed, settings.test_samples, settings.train_samples)
    train, test = ([sample for name in side for sample in by_name[name]] for side in names)
    everything = _images([*train, *test], facts)
    return Built(
        train,
        test,
        copies_within(everything, settings.near_bits),
        copies_of(_images(test, facts), _images(train, facts), settings.near_bits),
        None if evaluation is None else copies_of(everything, evaluation, settings.near_bits),
    )


def split_episodes(
    samples: Mapping[str, int], seed: int, test_samples: int | None, train_samples: int | None
) -> tuple[list[str], list[str]]:
    """(training, test): every episode on one side, or on neither where fewer samples are asked for than there are.

    samples: how many each episode has. By default `TEST_SHARE` of all samples are for the test and all others for
    training. An episode's place is its hash under the seed, so that one that is added moves few of the others. Raises
    UsageError where the asked numbers cannot be met exactly.
    """
    total = sum(samples.values())
    asked = test_samples if test_samples is not None else round(total * TEST_SHARE)
    order = sorted(samples, key=lambda name: hashlib.sha256(f"{seed}\0{name}".encode()).digest())
    test = _fill(order, samples, asked)
    chosen = set(test)
    rest = [name for name in order if name not in chosen]
    train = rest if train_samples is None else _fill(rest, samples, train_samples)
    for flag, side, number in (("--test_samples", test, test_samples), ("--train_samples", train, train_samples)):
        if number is not None and (made := sum(samples[name] for name in side)) != number:
            raise UsageError(f"{flag} {number}: the episodes at hand make {made} of them ({total} samples in all)")
    return train, test


def _fill(order: Sequence[str], samples: Mapping[str, int], wanted: int) -> list[str]:
    taken, left = [], wanted
    for name in order:
        if samples[name] <= left:
            taken.append(name)
            left -= samples[name]
    return taken


def _refuse_others(settings: BuildSettings, files: dict[str, bytes]) -> None:
    """Never replace what somebody else made: a downloaded train_151230.jsonl, say."""
    for name, content in files.items():
        path = settings.output / name
        if path.is_file() and path.read_bytes() != content and not settings.overwrite:
            raise LeapError(f"{path}: another file of this name is there; give --output_dir, or --overwrite")
    card = settings.output / f"{CARD}.json"
    if settings.overwrite or not (is_file(card) or is_file(card.with_suffix(".md"))):
        return
    described = object_if_there(card).get("files")
    if not isinstance(described, dict):
        raise LeapError(f"{card.with_suffix('.*')}: no data card of LEAP's; give --output_dir, or --overwrite")
    if others := [name for name in described if name not in files and (settings.output / name).is_file()]:
        raise LeapError(
            f"{card}: it describes {', '.join(others)}, which would be left without a data card; give --output_dir, or "
            "--overwrite"
        )
