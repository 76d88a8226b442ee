"""The report: one folder that a browser opens from disk, without a server and without the network.

    index.html              the first part, whole, and the frame of the second
    report.js, report.css   the second part: examples, two models side by side
    data/index.js           of every example its place, instruction, and each model's diagnosis and scores
    data/examples-N.js      reference and responses of a few examples each; loaded when one of them is opened, and as
                            scripts, since browsers refuse fetch on file://
    images/, figures/       each image once

The same results make the same bytes. The folder is replaced at once, when all of it is there.
"""

import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from leap.errors import LeapError
from leap.judge.criteria import DESCRIBED
from leap.progress import track
from leap.records.files import LOCK, check_folder, read_bytes
from leap.records.litter import is_bare
from leap.records.locks import FolderLock
from leap.report.page.example_records import LONGEST_SHOWN, example_record
from leap.report.page.front_page import manifests_of, read_front_page
from leap.report.page.page_images import FOLDER as IMAGES
from leap.report.page.page_images import write_images
from leap.report.page.review_samples import Review, read_review, sample_record
from leap.report.page.stored_results import StoredDimension, controls, read_dimension
from leap.report.style import KIND_COLOURS
from leap.terminal import shown
from leap.vlabench.diagnosis import KINDS
from leap.vlabench.dimensions import NAMES
from leap.vlabench.grounding import GROUNDED, SCORE_KEYS

PAGE, FIGURES = "index.html", "figures"
REVIEW = "Blind review"  # the samples of one stand beside the dimensions
_TEMPLATES = "templates"
_TOGETHER = 20  # examples that a file holds: with ten models some 100 kB
_CALL = b"leapReport("  # what a data file begins with: a folder without one is not replaced


@dataclass(frozen=True)
class Sources:
    """Where everything lies. `figures` are drawn files by title; `baseline` may be None."""

    results: Path
    data: Path  # the benchmark
    review: Path  # tables of blind reviews
    root: Path  # their images are paths from here
    models: Sequence[str]
    baseline: str | None
    figures: Mapping[str, Sequence[Path]]


@dataclass(frozen=True)
class Built:
    """What was written, and what was not found."""

    page: Path
    examples: int
    size: int  # bytes
    notes: Sequence[str]


def build(sources: Sources, output: Path) -> Built:
    """Write the report. Raises LeapError for broken results, and where `output` holds something else than a report."""
    output = output.resolve()  # a link stays one, and what it leads to is replaced
    _refuse_other_folder(output)
    staging, before = (output.with_name(f".{output.name}.{state}") for state in ("new", "old"))
    with FolderLock(staging):  # a second one at the same time would write among these files
        try:
            _clear(staging)  # of what a killed one left
            examples, notes = _write(sources, staging, output)
        except BaseException:
            _clear(staging)
            raise
        size = sum(file.stat().st_size for file in staging.rglob("*") if file.is_file() and file.name != LOCK)
        # A browser finds the report of before or the new one, but for the instant between two renames.
        shutil.rmtree(before, ignore_errors=True)
        if output.exists():
            output.rename(before)
        staging.rename(output)
        (output / LOCK).unlink(missing_ok=True)  # no part of a report; who waits for it makes a staging folder anew
    shutil.rmtree(before, ignore_errors=True)
    return Built(output / PAGE, examples, size, notes)


def _refuse_other_folder(output: Path) -> None:
    check_folder(output)
    ours = output / "data" / "index.js"
    if output.is_dir() and not is_bare(output) and not (ours.is_file() and ours.read_bytes().startswith(_CALL)):
        raise LeapError(f"{output}: it holds other files than a report's; give an empty folder with --output_dir")


def _clear(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry.name != LOCK:
            entry.unlink()


def _write(sources: Sources, folder: Path, earlier: Path) -> tuple[int, list[str]]:
    review = read_review(sources.review, sources.root)
    extra = [model for model in (review.models if review else ()) if model not in sources.models]
    models = [*sources.models, *extra]
    index = _Index(models)
    for name in NAMES:
        stored = read_dimension(sources.results, name, sources.data, models)
        index.notes += [note for note in stored.notes if note not in index.notes]
        images = write_images(stored.images(), folder / IMAGES, earlier / IMAGES, f"images of {name}")
        index.miss(images)
        index.add(name, _example_rows(stored, models, images))
    if review:
        images = write_images(review.images(), folder / IMAGES, earlier / IMAGES, "images of the review")
        index.miss(images)
        index.add(REVIEW, _review_rows(review, models, images))
    (folder / "data").mkdir()
    for number, records in enumerate(track(index.pages(), "examples")):
        _write_script(folder / "data" / f"examples-{number}.js", "examples", number, records)
    manifests = {model: found[0] for model, found in manifests_of(sources.results, sources.models).items()}
    _write_script(
        folder / "data" / "index.js", "index", index.content(controls(manifests), manifests, sources.baseline)
    )
    figures = _copy_figures(sources.figures, folder / FIGURES)
    front = read_front_page(sources.results, sources.models, sources.baseline)
    template = _environment().get_template(PAGE)
    # Whoever is shown the page need not learn where the workspace lies.
    missing = [note.replace(f"{sources.root}/", "") for note in index.notes]
    page = template.render(front=front, figures=figures, kinds=KINDS, missing=missing)
    (folder / PAGE).write_text(page, "utf-8")
    for name in ("report.js", "report.css"):
        text = resources.files(__package__).joinpath(_TEMPLATES, name).read_text("utf-8")
        (folder / name).write_text(text + (_kind_rules() if name.endswith(".css") else ""), "utf-8")
    return len(index.rows), index.notes


class _Index:
    """Every example of the report in order, and the records that are written by page."""

    def __init__(self, models: Sequence[str]) -> None:
        self.models = models
        self.dimensions: list[str] = []
        self.tasks: dict[str, int] = {}
        self.rows: list[list[Any]] = []  # dimension, task, number, instruction
        self.records: list[dict[str, Any]] = []
        self.notes: list[str] = []

    def add(self, dimension: str, found: Iterator[tuple[str, str, str, dict[str, Any]]]) -> None:
        """(task, number, instruction, record) of each example."""
        for task, number, instruction, record in found:
            if dimension not in self.dimensions:
                self.dimensions.append(dimension)
            place = self.tasks.setdefault(shown(task), len(self.tasks))
            row = [self.dimensions.index(dimension), place, shown(number), shown(instruction)]
            self.rows.append(row)
            self.records.append(record)

    def miss(self, images: Mapping[Path, str | None]) -> None:
        if missing := [path for path, name in images.items() if name is None]:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            self.notes.append(f"{missing[0]}{more}: the image is missing or cannot be read")

    def pages(self) -> list[list[dict[str, Any]]]:
        return [self.records[start : start + _TOGETHER] for start in range(0, len(self.records), _TOGETHER)]

    def content(
        self, of: Mapping[str, str], manifests: Mapping[str, Mapping[str, Any]], baseline: str | None
    ) -> dict[str, Any]:
        """What the list and its filters need of all examples: small, since all of it is read at the start."""
        responses = [[record["responses"][place] for record in self.records] for place in range(len(self.models))]
        scored = [[(one or {}).get("scores") for one in of_model] for of_model in responses]
        return {
            "models": [
                {
                    "name": model,
                    "control": manifests.get(model, {}).get("settings", {}).get("image_control", "none"),
                    "of": of.get(model),
                }
                for model in self.models
            ],
            "baseline": baseline,
            "kinds": KINDS,
            "scores": SCORE_KEYS,
            "criteria": [*(criterion.label for criterion in DESCRIBED), "final score"],
            "longest": LONGEST_SHOWN,
            "together": _TOGETHER,
            "dimensions": self.dimensions,
            "review": REVIEW,
            "tasks": list(self.tasks),
            "examples": self.rows,
            # -2: no result; -1: a result without a diagnosis
            "kind": [[-2 if one is None else one.get("kind", -1) for one in of_model] for of_model in responses],
            "grounded": [[one and one[SCORE_KEYS.index(GROUNDED)] for one in of_model] for of_model in scored],
        }


def _example_rows(
    stored: StoredDimension, models: Sequence[str], images: Mapping[Path, str | None]
) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    for key in stored.keys:
        example = stored.examples.get(key)
        instruction = example.instruction if example else ""
        yield *key, instruction, example_record(stored, key, models, images)


def _review_rows(
    review: Review, models: Sequence[str], images: Mapping[Path, str | None]
) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    for sample in review.samples:
        yield "sample", str(sample), review.instruction(sample), sample_record(review, sample, models, images)


def _write_script(path: Path, *arguments: Any) -> None:
    """A call of the page's own function with JSON; in ASCII, so that no character can mean anything to a script."""
    words = ",".join(json.dumps(one, ensure_ascii=True, allow_nan=False, separators=(",", ":")) for one in arguments)
    path.write_bytes(_CALL + words.encode("ascii") + b");\n")


def _copy_figures(figures: Mapping[str, Sequence[Path]], folder: Path) -> dict[str, list[tuple[str, str]]]:
    """Title -> (what it shows, its place in the report) of each figure."""
    copied: dict[str, list[tuple[str, str]]] = {}
    for place, (title, files) in enumerate(figures.items()):
        folder.mkdir(exist_ok=True)
        for number, file in enumerate(files):
            name = f"{place}-{number}{file.suffix}"
            content = read_bytes(file)
            (folder / name).write_bytes(_slim(content) if file.suffix == ".svg" else content)
            copied.setdefault(title, []).append((shown(file.stem.replace("_", " ")), f"{FIGURES}/{name}"))
    return copied


def _slim(svg: bytes) -> bytes:
    """A figure without what is not seen of it: comments, indentation, digits behind a hundredth of a point. (Numbers
    below 1 keep theirs: the letters are scaled by them.)"""
    bare = re.sub(rb"<!--.*?-->", b"", svg, flags=re.DOTALL)
    return re.sub(rb"([1-9]\d*\.\d\d)\d+", rb"\1", re.sub(rb"\s+", b" ", re.sub(rb">\s+<", b"><", bare)))


def _environment() -> Environment:
    loader = PackageLoader("leap.report.page", _TEMPLATES)
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def _kind_rules() -> str:
    """The colours of the figures for the diagnoses."""
    colours = [KIND_COLOURS[kind] for kind in KINDS]
    return "".join(f".kind-{place} {{ --kind: {colour}; }}\n" for place, colour in enumerate(colours))
