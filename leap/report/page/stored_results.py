"""What evaluations left on disk of one dimension: every model's responses, scores and diagnoses, and what it was shown.

Results without some of it (an older LEAP's, a part of the benchmark, a benchmark that is not on this machine) are
taken as far as they go; what is missing is said.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from leap.errors import LeapError
from leap.evaluation.diagnoses import DIAGNOSES, read_diagnoses
from leap.evaluation.manifest import MANIFEST, read_manifest
from leap.evaluation.predictions import Key, read_repeats
from leap.evaluation.requests import Images, draw_few_shot_examples, shown_images
from leap.evaluation.rescore import OLD_OUTPUT, read_old_output
from leap.evaluation.result_folder import PREDICTIONS, SCORES
from leap.evaluation.score import Scores
from leap.evaluation.score import read_scores as read_score_file
from leap.evaluation.settings import FewShot
from leap.records.benchmark import BenchmarkExample, Prediction
from leap.records.files import is_file
from leap.records.json_files import first_problem
from leap.report.results import result_folders
from leap.vlabench.blind import reference_fingerprint
from leap.vlabench.diagnosis import Diagnosis
from leap.vlabench.dimensions import find_dimension
from leap.vlabench.examples import find_examples
from leap.vlabench.prompts import FewShotExample


@dataclass(frozen=True)
class StoredResult:
    """One model's result of one dimension. `shown` are the images of each example where they are not its own, or not
    all there: None for one that was asked without. `few_shot` are None where they cannot be known any more. `repeats`
    are the further responses of a model that was asked repeatedly."""

    scores: Scores
    predictions: Mapping[Key, Prediction]
    repeats: Sequence[Mapping[Key, Prediction]]
    diagnoses: Mapping[Key, Diagnosis]
    control: str  # "none", or what other images the model was shown
    shown: Mapping[Key, Images | None]
    few_shot: Mapping[Key, tuple[FewShotExample, ...]] | None

    @property
    def keys(self) -> set[Key]:
        scored = {(task, number) for task, examples in self.scores.items() for number in examples}
        return {*scored, *self.predictions, *self.diagnoses}


@dataclass(frozen=True)
class StoredDimension:
    """The results of one dimension by model, the benchmark's examples by key, and what was not found."""

    name: str
    examples: Mapping[Key, BenchmarkExample]
    results: Mapping[str, StoredResult]
    notes: list[str] = field(default_factory=list)

    @property
    def keys(self) -> list[Key]:
        """All examples that any model has something of, by task and number."""
        found = {key for result in self.results.values() for key in result.keys}
        return sorted(found, key=lambda key: (key[0], not key[1].isdecimal(), key[1].zfill(20)))

    def images(self) -> list[Path]:
        """Every file that the page shows of them, each once."""
        wanted: dict[Path, None] = {}
        for key in self.keys:
            if example := self.examples.get(key):
                wanted |= dict.fromkeys((example.image, example.numbered_image))
            for result in self.results.values():
                images = result.shown.get(key) or ()
                wanted |= dict.fromkeys(image for image in images if isinstance(image, Path))
                for one in (result.few_shot or {}).get(key, ()):
                    wanted |= dict.fromkeys((one.image, one.numbered))
        return list(wanted)


def read_dimension(results: Path, dimension: str, data: Path, models: Iterable[str]) -> StoredDimension:
    """The results of these models. Raises LeapError for a file that is broken."""
    folders = {model: folder for name, model, folder in result_folders(results, models) if name == dimension}
    notes: list[str] = []
    pool = _pool(data, dimension, notes) if folders else []
    fingerprint = reference_fingerprint(pool)
    found = {model: _read_result(folder, pool, fingerprint, notes) for model, folder in folders.items()}
    stored = StoredDimension(dimension, {example.key: example for example in pool}, found, notes)
    if pool and (gone := [key for key in stored.keys if key not in stored.examples]):
        notes.append(f"{dimension}: {len(gone)} examples of the results are not in {data}, such as {'/'.join(gone[0])}")
    return stored


def _pool(data: Path, dimension: str, notes: list[str]) -> list[BenchmarkExample]:
    try:
        return find_examples(data, find_dimension(dimension))
    except LeapError as error:
        notes.append(f"no images, instructions or references are shown: {error}")
        return []


def _read_result(folder: Path, pool: list[BenchmarkExample], fingerprint: str, notes: list[str]) -> StoredResult:
    older = not is_file(folder / PREDICTIONS) and is_file(folder / OLD_OUTPUT)
    predictions, *repeats = [read_old_output(folder / OLD_OUTPUT)] if older else read_repeats(folder / PREDICTIONS)
    manifest = read_manifest(folder)
    settings, evaluated = manifest.get("settings", {}), manifest.get("blind", {}).get("fingerprint")
    # Other scenes and few-shot examples are drawn from the whole dimension: from another one they are others.
    same = evaluated == fingerprint
    found = {
        f"no {PREDICTIONS}, so no responses are shown": not predictions,
        f"no {DIAGNOSES}; scripts/evaluation/score_predictions.py makes it": not is_file(folder / DIAGNOSES),
        "the benchmark had other examples then, so references and images may not be its own": (
            bool(pool and evaluated) and not same
        ),
    }
    notes += [f"{folder.parent.name}/{folder.name}: {what}" for what, holds in found.items() if holds]
    asked = [example for example in pool if example.key in predictions]
    control = settings.get("image_control", "none")
    known = pool and control != "none" and (same or control != "swapped")
    drawn: dict[Key, tuple[FewShotExample, ...]] | None = {}
    if few_shot := settings.get("few_shot"):
        setting = _few_shot(few_shot, folder)
        drawn = {one.key: draw_few_shot_examples(one, pool, setting) for one in asked} if same else None
    return StoredResult(
        read_score_file(folder / SCORES),
        predictions,
        repeats,
        read_diagnoses(folder),
        control,
        shown_images(pool, control) if known else {},
        drawn,
    )


def _few_shot(settings: Any, folder: Path) -> FewShot:
    try:
        return TypeAdapter(FewShot).validate_python(settings)
    except ValidationError as error:
        raise LeapError(f"{folder / MANIFEST}: settings.few_shot.{first_problem(error)}; restore the file") from error


def controls(manifests: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Image control -> the model that it is of: the same weights under the longest name that its own begins with."""
    kinds = {model: one.get("settings", {}).get("image_control", "none") for model, one in manifests.items()}
    weights = {model: one.get("model", {}).get("weights") for model, one in manifests.items()}
    return {
        model: max(of, key=len)
        for model, kind in kinds.items()
        if kind != "none"
        if (
            of := [
                other
                for other, its in kinds.items()
                if its == "none" and model.startswith(f"{other}_") and weights[other] == weights[model]
            ]
        )
    }
