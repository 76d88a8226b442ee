"""Walking the benchmark's folders: <folder>/<task>/exampleN/{input,output}/..."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

from leap.errors import LeapError
from leap.records.benchmark import BenchmarkExample, OperationSequence
from leap.records.files import file_digest, is_file, read_text
from leap.records.json_files import read_object
from leap.records.litter import listed
from leap.records.remote import fetch_data, folders_in, is_cached, present
from leap.terminal import shown
from leap.vlabench.dimensions import DIMENSIONS, Dimension, find_dimension

Value = TypeVar("Value")
DOWNLOAD = "python scripts/download/download_vlabench_with_retry.py"
DOWNLOAD_AGAIN = f"download the benchmark again ({DOWNLOAD})"  # it brings only what is missing or broken
_EXAMPLE = re.compile(r"example(\d+)")


def dimension_folders(root: Path, dimension: Dimension, names: str = "*") -> list[Path]:
    """The folders under `root` that have one of the dimension's spellings; a whole benchmark has one.

    Where `root` is at an address, their files of such `names` are fetched.
    """
    if is_cached(root):
        return _fetch_dimension(root, dimension, names)
    if not root.is_dir():
        raise LeapError(
            f"{root}: the benchmark is not there; download it ({DOWNLOAD}), "
            "or make the demo (scripts/utils/make_demo_workspace.py)"
        )
    return [folder for folder in listed(root) if folder.is_dir() and _is(folder.name, dimension)]


@cache
def _fetch_dimension(root: Path, dimension: Dimension, names: str) -> list[Path]:
    """Once in a process: an evaluation reads all of it several times."""
    folders = [root / name for name in sorted(folders_in(root)) if _is(name, dimension)]
    for folder in folders:
        fetch_data(folder, names)
    return folders


def dimension_folder(root: Path, dimension: Dimension) -> Path:
    """The dimension's folder under `root`, whatever spelling it has on disk."""
    found = dimension_folders(root, dimension)
    if len(found) != 1:
        listed = ", ".join(str(folder) for folder in found) or "none"
        raise LeapError(f"{root}: one folder of dimension {dimension.name} is needed, found {listed}")
    return found[0]


def _is(folder_name: str, dimension: Dimension) -> bool:
    try:
        return find_dimension(folder_name) == dimension
    except LeapError:  # some other folder: no dimension of ours
        return False


def dimension_of(path: str) -> str | None:
    """The name of the dimension in whose folder a file of the data set lies, by its path; None for others."""
    folder, _, rest = path.partition("/")
    return next((dimension.name for dimension in DIMENSIONS if rest and _is(folder, dimension)), None)


def find_examples(
    root: Path, dimension: Dimension, max_tasks: int | None = None, num_episodes: int | None = None
) -> list[BenchmarkExample]:
    """A dimension's examples, tasks by name and examples by number; gaps and stray files are passed over.

    `max_tasks` keeps the first tasks, `num_episodes` the first examples of each. Raises LeapError for a broken example,
    and for two folders of one number: results are kept by it, so one of the two would be lost.
    """
    folder = dimension_folder(root, dimension)
    tasks = [task for task in listed(folder) if task.is_dir() and example_folders(task)]
    for task in tasks[:max_tasks]:
        if shown(task.name) != task.name:  # results could not hold it
            raise LeapError(f"{task}: no name of a task (it is not UTF-8, or has control characters); {DOWNLOAD_AGAIN}")
    examples = [
        _read_example(dimension, task.name, number, example)
        for task in tasks[:max_tasks]
        for number, example in _numbered_once(task)[:num_episodes]
    ]
    if not examples:
        raise LeapError(f"{folder}: no <task>/exampleN folder there; {DOWNLOAD_AGAIN}")
    return examples


def example_folders(task: Path) -> list[tuple[int, Path]]:
    """(number, folder) of a task's examples, by number; whatever else lies there is passed over."""
    numbered = ((example_number(entry.name), entry) for entry in listed(task) if entry.is_dir())
    return sorted((number, entry) for number, entry in numbered if number is not None)


def example_number(name: str) -> int | None:
    """The number in an example folder's name; None for any other name."""
    match = _EXAMPLE.fullmatch(name)
    return int(match[1]) if match else None


def _numbered_once(task: Path) -> list[tuple[int, Path]]:
    found = example_folders(task)
    for (number, one), (next_number, other) in pairwise(found):
        if number == next_number:
            raise LeapError(f"{one} and {other.name} are both example {number}; rename or remove one of them")
    return found


def by_example(found: Mapping[str, Value], place: str) -> dict[str, Value]:
    """What stored results hold by examples' names, under the names that `BenchmarkExample.key` has: "02" is "2".

    Raises LeapError, saying `place`, where two names mean one example.
    """
    named: dict[str, Value] = {}
    for name, value in found.items():
        key = str(int(name)) if re.fullmatch(r"[0-9]{1,18}", name) else name
        if key in named:
            raise LeapError(f"{place}: two entries are both example {key} (one of them {name}); remove one of them")
        named[key] = value
    return named


def _read_example(dimension: Dimension, task: str, number: int, folder: Path) -> BenchmarkExample:
    instruction = folder / "input" / "instruction.txt"
    reference = folder / "output" / "operation_sequence.json"
    needed = (instruction, reference, folder / "input" / "input.png", folder / "input" / "input_mask.png")
    for path in needed:
        if not is_file(present(path)):
            raise LeapError(f"{path}: missing; this example is incomplete, {DOWNLOAD_AGAIN}")
    plan = read_object(reference, OperationSequence, DOWNLOAD_AGAIN)
    text = read_text(instruction).strip()
    if not text:
        raise LeapError(f"{instruction}: empty; {DOWNLOAD_AGAIN}")
    return BenchmarkExample(dimension.name, task, number, folder, text, plan)


def fingerprint(examples: Iterable[BenchmarkExample]) -> str:
    """sha256 over every example's name, files and contents: two equal ones were evaluated on the same data."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(f"{example.dimension}/{example.task}/{example.number}\0".encode())
        for path in (example.image, example.numbered_image, example.folder / "output" / "operation_sequence.json"):
            digest.update(file_digest(present(path)))
        digest.update(example.instruction.encode() + b"\0")
    return digest.hexdigest()
