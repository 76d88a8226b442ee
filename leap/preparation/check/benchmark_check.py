"""Is the benchmark on disk whole and usable? Every example is looked at, and all that is wrong is reported at once."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from leap.errors import LeapError
from leap.hub.notes import HubListing, read_listing
from leap.preparation.check.image_facts import FactStore
from leap.records.benchmark import OperationSequence
from leap.records.files import read_text
from leap.records.json_files import read_json, read_object
from leap.records.litter import listed
from leap.records.locks import FolderLock
from leap.records.quarantine import move_to_quarantine
from leap.terminal import first_few
from leap.vlabench.dimensions import DIMENSIONS, Dimension
from leap.vlabench.examples import DOWNLOAD_AGAIN, dimension_folders, dimension_of, example_folders, example_number
from leap.vlabench.scoring import normalise_id
from leap.vlabench.skills import CONTAINER, ENTITY, SKILL_PARAMETER, find_subtasks

_LARGEST_ID = 999  # the numbers are drawn upon the objects of one image
_IMAGES = ("input/input.png", "input/input_mask.png")
_FILES = (*_IMAGES, "input/instruction.txt", "output/operation_sequence.json")
_UNREAD = "env_config/env_config.json"  # part of the published layout, which the evaluation does not read
_MISSING_FILE = "missing file"


class Finding(NamedTuple):
    """Something wrong. A `note` is odd, but the evaluation can live with it."""

    dimension: str
    task: str | None
    example: int | None
    kind: str
    reason: str
    note: bool = False


@dataclass
class Verification:
    """What was found, by dimension and task."""

    root: Path
    examples: dict[tuple[str, str], int] = field(default_factory=dict)  # how many, by (dimension, task)
    findings: list[Finding] = field(default_factory=list)
    folders: dict[tuple[str, str, int], Path] = field(default_factory=dict)  # by (dimension, task, example)
    # Whether all is there that the hub listed at the download; nobody knows where no listing was kept.
    completeness: Literal["complete", "incomplete", "unknown"] = "unknown"

    @property
    def problems(self) -> list[Finding]:
        return [finding for finding in self.findings if not finding.note]

    def broken(self) -> dict[tuple[str, str, int], str]:
        """The examples that cannot be used, each with what is wrong with it."""
        reasons: dict[tuple[str, str, int], list[str]] = defaultdict(list)
        for found in self.problems:
            if found.task is not None and found.example is not None:
                reasons[found.dimension, found.task, found.example].append(f"{found.kind}: {found.reason}")
        return {example: "; ".join(why) for example, why in reasons.items()}

    def counts(self) -> list[dict[str, Any]]:
        """A sample for each task: dimension, task, examples, broken, notes."""
        broken = Counter((dimension, task) for dimension, task, _ in self.broken())
        notes = Counter((found.dimension, found.task) for found in self.findings if found.note)
        return [
            {"dimension": key[0], "task": key[1], "examples": count, "broken": broken[key], "notes": notes[key]}
            for key, count in self.examples.items()
        ]

    def to_dict(self) -> dict[str, Any]:
        return {
            "root": str(self.root),
            "examples": sum(self.examples.values()),
            "broken": len(self.broken()),
            "completeness": self.completeness,
            "tasks": self.counts(),
            "problems": [found._asdict() for found in self.problems],
            "notes": [found._asdict() for found in self.findings if found.note],
        }


def verify_benchmark(root: Path, store: FactStore, partial: bool = False) -> Verification:
    """Look at every example of every dimension, and compare them with the hub's listing where one was kept.

    With `partial`, what it lists may be missing. Raises LeapError where `root` is no folder, or the listing is broken.
    """
    found, listing = Verification(root), read_listing(root)
    for dimension in DIMENSIONS:
        folders = dimension_folders(root, dimension)
        if len(folders) > 1:
            names = ", ".join(folder.name for folder in folders)
            found.findings.append(Finding(dimension.name, None, None, "folders", f"more than one: {names}"))
        if not folders and not partial and listing is None:
            reason = "there is no such folder"
            found.findings.append(Finding(dimension.name, None, None, "missing dimension", reason, note=True))
        for folder in folders:
            _walk(found, dimension, folder)
    for (name, task, number), folder in found.folders.items():
        found.findings += [Finding(name, task, number, *problem) for problem in check_example(folder)]
    _check_images(found, store)
    found.findings += _uneven(found.examples)
    if listing is not None:
        differing = list(_differences(found, listing))
        gone = any(finding.kind == _MISSING_FILE for finding in found.problems)
        found.completeness = "incomplete" if differing or gone else "complete"
        found.findings += [finding for finding in differing if not (partial and finding.example is None)]
    return found


def quarantine(root: Path, store: FactStore, partial: bool = False) -> tuple[Verification, Path | None]:
    """`verify_benchmark`, and the broken examples moved out of the data set; the restore file if there were any.

    Raises LeapError where another process does the same: examples that it moves meanwhile would be called broken.
    """
    quarantine = root.with_name(f"{root.name}_quarantine")
    with FolderLock(quarantine) if root.is_dir() else nullcontext():  # else it is refused below
        found = verify_benchmark(root, store, partial)
        reasons = {found.folders[example]: why for example, why in found.broken().items()}
        return found, move_to_quarantine(reasons, root, quarantine) if reasons else None


def _walk(found: Verification, dimension: Dimension, folder: Path) -> None:
    for task in (entry for entry in listed(folder) if entry.is_dir()):
        examples = example_folders(task)
        found.examples[dimension.name, task.name] = len(examples)
        for number, example in examples:
            first = found.folders.setdefault((dimension.name, task.name, number), example)
            if first != example:
                reason = f"{first} and {example} are both example {number}; remove one"
                found.findings.append(Finding(dimension.name, task.name, None, "folders", reason))


def _differences(found: Verification, listing: HubListing) -> Iterator[Finding]:
    """What the hub listed and is not there, or not as it was listed."""
    missing: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for (dimension, task, number), files in _listed_examples(listing).items():
        folder = found.folders.get((dimension, task, number))
        if folder is None:
            missing[dimension][task].append(number)
        elif wrong := [difference for name, size in files.items() if (difference := _unlike(folder, name, size))]:
            reason = f"{first_few(wrong)} at commit {listing.commit[:12]}; {DOWNLOAD_AGAIN}"
            yield Finding(dimension, task, number, "other than the hub's", reason)
    again = f"{DOWNLOAD_AGAIN}, or say --partial"
    for dimension, tasks in missing.items():
        gone = [task for task in tasks if not found.examples.get((dimension, task))]
        if gone:
            yield Finding(dimension, None, None, "missing tasks", f"{first_few(gone)}; {again}")
        for task in (task for task in tasks if task not in gone):
            numbers = [str(number) for number in sorted(tasks[task])]
            yield Finding(dimension, task, None, "missing examples", f"{first_few(numbers)}; {again}")


def _listed_examples(listing: HubListing) -> dict[tuple[str, str, int], dict[str, int]]:
    """Each example's files (path in its folder -> bytes) among all that the hub listed."""
    examples: dict[tuple[str, str, int], dict[str, int]] = defaultdict(dict)
    for path, size in listing.files.items():
        dimension, (_, task, example, name) = dimension_of(path), (*path.split("/", 3), "", "", "")[:4]
        number = example_number(example)
        if dimension is not None and number is not None and name:
            examples[dimension, task, number][name] = size
    return examples


def _unlike(folder: Path, name: str, size: int) -> str | None:
    file = folder / name
    if not file.is_file():
        return f"{file} is missing" if name not in _FILES else None  # of these `check_example` reports
    there = file.stat().st_size
    return None if there == size else f"{file} has {there} bytes where the hub has {size}"


def check_example(folder: Path) -> Iterator[tuple[str, str, bool]]:
    """(kind, reason, whether it is a mere note) for all that is wrong with an example's files, but its pixels."""
    missing = [name for name in (*_FILES, _UNREAD) if not (folder / name).is_file()]
    for name in missing:
        yield _MISSING_FILE, f"{folder / name}", name == _UNREAD
    try:
        if _FILES[2] not in missing and not read_text(folder / _FILES[2]).strip():
            yield "instruction", f"{folder / _FILES[2]}: empty", False
    except LeapError as error:
        yield "instruction", str(error), False
    if _FILES[3] not in missing:
        yield from _check_plan(folder / _FILES[3])
    if _UNREAD not in missing:
        yield from _check_json(folder / _UNREAD)


def _check_json(path: Path) -> Iterator[tuple[str, str, bool]]:
    try:
        read_json(path)
    except LeapError as error:
        yield "env_config", str(error), True


def _check_plan(path: Path) -> Iterator[tuple[str, str, bool]]:
    try:
        steps = read_object(path, OperationSequence)["skill_sequence"]
    except LeapError as error:
        yield "plan", str(error), False
        return
    shapes = [why for number, step in enumerate(steps) if (why := _misshapen(step, f"skill_sequence.{number}"))]
    for why in shapes:
        yield "plan", f"{path}: {why}", False
    if shapes:  # upstream's scorer gives every answer zero then
        return
    if not find_subtasks(steps):
        names = ", ".join(step["name"] for step in steps)
        yield "plan", f"{path}: no subtask that the benchmark recognises ({names}); every answer would score 0", False
    for number, step in enumerate(steps):
        for kind, why, note in _check_step(step):
            yield kind, f"{path}: skill_sequence.{number}: {why}", note


def _misshapen(step: Any, place: str) -> str | None:
    if not isinstance(step, dict):
        return f"{place}: an object is expected, found {type(step).__name__}"
    if not isinstance(step.get("name"), str):
        return f"{place}.name: the skill's name is missing"
    if not isinstance(step.get("params"), dict):
        return f"{place}.params: an object is expected, found {type(step.get('params')).__name__}"
    return None


def _check_step(step: Mapping[str, Any]) -> Iterator[tuple[str, str, bool]]:
    name, params = step["name"], step["params"]
    if name not in SKILL_PARAMETER:
        yield "skill", f"{name!r} is none of the benchmark's skills", True
    elif (needed := SKILL_PARAMETER[name]) and params.get(needed) is None:
        yield "skill", f"{name} without {needed}", True
    for parameter in (ENTITY, CONTAINER):
        value = params.get(parameter)
        number = normalise_id(value)
        if value is None:
            continue
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= _LARGEST_ID:
            yield "id", f"{parameter} {value!r} is no object's number (0 to {_LARGEST_ID})", False
        elif isinstance(value, str):
            yield "id", f"{parameter} {value!r} is text; the official score does not take {number} for the same", True


def _check_images(found: Verification, store: FactStore) -> None:
    there = {
        example: [str(folder / name) for name in _IMAGES if (folder / name).is_file()]
        for example, folder in found.folders.items()
    }
    looked = store.look([path for paths in there.values() for path in paths])
    for example, paths in there.items():
        for path in paths:
            if path in looked.broken:
                found.findings.append(Finding(*example, "image", looked.broken[path]))
        sizes = {looked.facts[path][:2] for path in paths if path in looked.facts}
        if len(sizes) > 1:
            listed = " and ".join(f"{width}x{height}" for height, width in sorted(sizes))
            found.findings.append(Finding(*example, "image", f"two sizes in one example: {listed}", True))


def _uneven(examples: Mapping[tuple[str, str], int]) -> Sequence[Finding]:
    """Tasks with fewer examples than most have: perhaps a download that broke off."""
    usual = Counter(count for count in examples.values() if count).most_common(1)
    most = usual[0][0] if usual else 0
    return [
        Finding(dimension, task, None, "few examples", f"{count}, while most tasks have {most}", True)
        for (dimension, task), count in examples.items()
        if count < most
    ]
