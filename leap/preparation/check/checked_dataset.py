"""A training file that has been checked whole: once, by all cores; later starts read the cached outcome.

The cache holds these for each content of a file under each tokenizer and chat template:
    NAME/samples.arrow    every line: the sample, its length, what is wrong with it
    NAME-report.json      for people: what the last check found, by kind and line
What is known of images is in the one store of `image_facts`.
Bounds on images and on length cost nothing to apply, so they are applied anew at each start.
"""

import hashlib
import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from leap.data.arrow_files import is_whole, report_damage
from leap.data.chat_encoding import ChatFormat
from leap.data.formats import SampleReader, detect, example_line, format_named
from leap.data.formats.leap_samples import LeapSample
from leap.data.formats.sample_format import FormatName, LearnedTurns, SampleFormat
from leap.data.formats.stored_images import ImageFolder
from leap.data.image import ImageEncoder
from leap.data.sample_datasets import SampleSource, fetch_samples
from leap.data.sample_files import SampleFile
from leap.errors import LeapError
from leap.hardware import usable_cores
from leap.preparation.check.find_images import FoundImages, find_images
from leap.preparation.check.image_facts import FactStore, Looked
from leap.preparation.check.sample_check import INVALID, check_samples
from leap.preparation.check.sample_table import Measured, Problem, SampleTable
from leap.progress import is_main_process, track
from leap.records.files import replacing
from leap.records.json_files import write_json
from leap.records.locks import FolderLock
from leap.records.remote import announce, drop_changed, is_cached
from leap.records.training import ImagePart, TrainingSample
from leap.terminal import in_one_line, shorten

_FORMAT = 3  # of the cached files; to be raised when a check sees something else
_READING = 1  # of samples in other forms than LEAP's own; to be raised when another sample is made of one
_SHOWN = 200  # characters of a sample in the plan
_FEW = 1_000  # samples that are checked sooner than processes start


@dataclass(frozen=True)
class CheckedFile:
    """The samples of a file that can be trained on, in the file's order. Arrays are int32 [samples]."""

    path: Path
    fingerprint: str  # sha256 of the file
    format: type[SampleFormat]  # in which its samples are written; the table has LEAP's own
    image_roots: tuple[Path, ...]
    table: Any  # datasets.Dataset of every line of the file, mapped into memory
    places: np.ndarray  # where the samples are in `table`
    lines: np.ndarray  # and in the file, from 1
    tokens: np.ndarray
    label_tokens: np.ndarray
    patches: np.ndarray  # of all images of a sample, before the vision tower merges them
    largest_image: np.ndarray  # patches of a sample's largest image, 0 without one
    images: np.ndarray  # how many a sample has
    too_long: list[int]  # line numbers of samples left out
    repeats: np.ndarray  # the line of an earlier sample with the same messages and answer, or 0
    report: Path | None  # None where none was to be written

    @property
    def duplicates(self) -> int:
        """Samples that say what an earlier one says. They are reported and kept."""
        return int(np.count_nonzero(self.repeats))

    @property
    def files(self) -> list["CheckedFile"]:
        """As a Mixture has several."""
        return [self]

    def __len__(self) -> int:
        return len(self.places)

    def first(self) -> str:
        """The first sample that is used, as a line of text for people."""
        sample = TrainingSample.model_validate_json(self.table[int(self.places[0])]["sample"])
        turns = [
            f"{message.role}: "
            + "".join("<image>" if isinstance(part, ImagePart) else part.text for part in message.parts())
            for message in sample.messages
        ]
        return shorten(in_one_line(" ".join([*turns, f"assistant: {sample.target.steps}"])), _SHOWN)


def check_training_file(
    source: Path | SampleSource,
    image_roots: Sequence[Path],
    chat: ChatFormat,
    encoder: ImageEncoder,
    max_length: int,
    cache: Path,
    max_samples: int | None = None,
    name: str = "training samples",
    report: bool = True,
    data_format: FormatName | None = None,
    learned: LearnedTurns = "all",
) -> CheckedFile:
    """Read every sample, decode its images, measure its length; samples over `max_length` tokens are set apart, never
    cut.

    `data_format` is found out where it is None. `learned` are turns of the assistant, where a form has several.
    With `max_samples`, the first usable samples alone, and no images but theirs are looked at. Processes that check the
    same file at the same time wait for one of them. Raises LeapError with file and line of the first sample that is
    broken, the number of such samples, and the report that lists them, where one is to be written.
    """
    file = SampleFile(source) if isinstance(source, Path) else source
    path = file.path
    fetch_samples(file)
    form = format_named(data_format) if data_format else detect(file.samples(), path)
    reader = SampleReader(form, learned, ImageFolder(cache / "training" / "images"))
    fingerprint = file.fingerprint()
    # LEAP's own form has the key that it had when it was the only one.
    read_as = [] if form is LeapSample and file.is_lines else [_READING, form.name, learned]
    key = hashlib.sha256(json.dumps([_FORMAT, fingerprint, chat.identity(), *read_as]).encode()).hexdigest()
    folder = cache / "training" / f"{path.stem}-{key[:16]}"
    if not is_whole(folder / "samples.arrow"):
        with _alone(folder, name):
            _check_samples(file, fingerprint, reader, chat, folder / "samples.arrow", name)
    table = SampleTable(folder / "samples.arrow")
    roots = (*image_roots, *([reader.images.path] if read_as and reader.images else []))
    look = partial(_check_images, roots=roots, store=FactStore(cache), name=name, fetch=report)
    measured, fitting, too_long = _measure(table, look, encoder, max_length, max_samples)
    checked = CheckedFile(
        path=path,
        fingerprint=fingerprint,
        format=form,
        image_roots=roots,
        table=table.samples,
        places=fitting,
        lines=table.lines[fitting],
        tokens=measured.tokens[fitting],
        label_tokens=table.label_tokens[fitting],
        patches=measured.patches[fitting],
        largest_image=measured.largest_image[fitting],
        images=table.images[fitting],
        too_long=table.lines[too_long].tolist(),
        repeats=table.repeats[fitting],
        # outside, since the lock clears up inside
        report=folder.with_name(f"{folder.name}-report.json") if report else None,
    )
    settings = {"model_max_length": max_length, "image_area": encoder.size, "image_roots": [str(r) for r in roots]}
    problems = list(measured.problems.values())
    if checked.report:
        _write_report(checked.report, checked, problems, settings)
    _refuse(checked, problems, max_length)
    return checked


@contextmanager
def _alone(folder: Path, name: str) -> Iterator[None]:
    """One process checks; the others wait, then find what it found."""
    with ExitStack() as stack:
        try:
            stack.enter_context(FolderLock(folder))
        except LeapError as busy:
            if is_main_process():
                print(f"checking {name}: {busy}", file=sys.stderr, flush=True)
            stack.enter_context(FolderLock(folder, timeout=math.inf))
        yield


def _check_samples(
    file: SampleSource, fingerprint: str, reader: SampleReader, chat: ChatFormat, result: Path, name: str
) -> None:
    if is_whole(result):  # another process was here while we waited
        return
    report_damage(result)
    total = file.count()
    processes = usable_cores() if total > _FEW else 1
    with replacing(result) as temporary:
        try:
            checked = check_samples(file, reader, chat, processes, temporary)
            for _ in track(checked, f"checking {name}", total, for_all=True):
                pass
        except LeapError as error:
            raise LeapError(f"{file.path}: {error}") from error
        if file.fingerprint() != fingerprint:
            raise LeapError(f"{file.path}: the file changed while it was checked; start again")


def _measure(
    table: SampleTable,
    look: Callable[[list[str]], tuple[FoundImages, Looked]],
    encoder: ImageEncoder,
    max_length: int,
    max_samples: int | None,
) -> tuple[Measured, np.ndarray, np.ndarray]:
    """As many of the first samples as are needed; the places of those that fit, and of the too long ones among them."""
    samples = len(table) if max_samples is None else min(max_samples, len(table))
    while True:
        found, looked = look(table.image_names(samples))
        measured = table.measure(samples, found, looked, encoder)
        fitting, too_long = measured.split(max_length)
        lacking = (max_samples or 0) - len(fitting)  # where some of the first are too long
        if measured.problems or samples == len(table) or lacking <= 0:
            return measured, fitting, too_long
        samples = min(len(table), samples + lacking)


def _check_images(
    images: list[str], roots: Sequence[Path], store: FactStore, name: str, fetch: bool
) -> tuple[FoundImages, Looked]:
    found = find_images(images, roots)
    if remote := {Path(file): status for file, status in found.status.items() if is_cached(file)}:
        drop_changed(remote)  # another machine may know the facts of the new ones
        unknown = store.unknown({str(file): status for file, status in remote.items()})
        announce({Path(file): status for file, status in unknown.items()}, fetch)
    looked = store.look(found.status, f"checking the images of {name}", lambda folder: _alone(folder, name))
    return found, looked


def _write_report(path: Path, checked: CheckedFile, problems: Sequence[Problem], settings: dict[str, Any]) -> None:
    repeated = np.flatnonzero(checked.repeats)
    found = {
        "file": str(checked.path),
        "sha256": checked.fingerprint,
        "settings": settings,
        "rows": {
            "usable": len(checked),
            "of these, repeating an earlier one": len(repeated),
            "left out as too long": len(checked.too_long),
            **Counter(problem.kind for problem in problems),
        },
        "tokens": _spread(checked.tokens),
        "label_tokens": _spread(checked.label_tokens),
        "problems": [problem._asdict() for problem in problems],
        "too_long": checked.too_long,
        "duplicates": [
            {"line": line, "repeats": earlier}
            for line, earlier in zip(checked.lines[repeated].tolist(), checked.repeats[repeated].tolist(), strict=True)
        ],
    }
    write_json(path, found)


def _spread(values: np.ndarray) -> dict[str, int]:
    if not len(values):
        return {}
    return {"smallest": int(values.min()), "median": int(np.median(values)), "largest": int(values.max())}


def _refuse(checked: CheckedFile, problems: Sequence[Problem], max_length: int) -> None:
    if problems:
        first, kinds = problems[0], Counter(problem.kind for problem in problems)
        counts = ", ".join(f"{kind}: {count}" for kind, count in kinds.items())
        listed = f", listed in {checked.report}" if checked.report else ""
        shown = checked.format is not LeapSample and first.kind == INVALID
        read_as = f"; read as {checked.format.title}; a right one: {example_line(checked.format)}" if shown else ""
        raise LeapError(
            f"{checked.path}:{first.line}: {first.reason}{read_as} "
            f"(unusable samples in all: {len(problems)} ({counts}){listed})"
        )
    if not len(checked):
        raise LeapError(
            f"{checked.path}: all {len(checked.too_long)} samples are longer than "
            f"model_max_length={max_length}; raise it"
        )
