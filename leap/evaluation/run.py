"""One model on one dimension: predict, score, and a manifest from which the numbers can be made again."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from leap import provenance
from leap.errors import LeapError
from leap.evaluation.predict import predict, read_predictions
from leap.evaluation.score import Counts, score_predictions
from leap.evaluation.settings import EvaluatedModel, EvaluationSettings
from leap.inference.protocol import Engine
from leap.models.checkpoints import MARKER
from leap.records.benchmark import BenchmarkExample
from leap.records.files import read_object, write_json
from leap.vlabench.dataset import find_examples, fingerprint
from leap.vlabench.dimensions import DIMENSIONS, Dimension

PREDICTIONS, SCORES, MANIFEST = "predictions.jsonl", "final_score.json", "manifest.json"


@dataclass(frozen=True)
class DimensionResult:
    """Where a dimension's results lie, and what became of its examples."""

    dimension: str
    folder: Path
    counts: Counts


def evaluate_models(
    models: Iterable[EvaluatedModel],
    dimensions: Sequence[Dimension],
    settings: EvaluationSettings,
    load: Callable[[Path], Engine],
    results: Path,
    repository: Path,
) -> list[DimensionResult]:
    """Every model on every dimension. A model is loaded once, and not at all where nothing is left to ask it."""
    finished = []
    for model in models:
        with ExitStack() as engines:
            load_once = cache(partial(_open, engines, load, model.folder))
            for dimension in dimensions:
                finished.append(evaluate_dimension(model, dimension, settings, load_once, results, repository))
    return finished


def _open(engines: ExitStack, load: Callable[[Path], Engine], folder: Path) -> Engine:
    return engines.enter_context(closing(load(folder)))


def evaluate_dimension(
    model: EvaluatedModel,
    dimension: Dimension,
    settings: EvaluationSettings,
    load: Callable[[], Engine],
    results: Path,
    repository: Path,
) -> DimensionResult:
    """Fill `results`/<dimension>/<model>/. Finished examples are kept; answers under other settings are refused."""
    folder = results / dimension.name / model.name
    pool = find_examples(settings.data, dimension)
    examples = _asked(settings, dimension, pool, folder)
    fixed = {"model": {"name": model.name, "weights": model.weights}, "settings": settings.to_dict()}
    _refuse_other_settings(results, model.name, fixed)
    manifest = _manifest(model, dimension, settings, fixed, repository, examples)
    before = read_object(folder / MANIFEST) if (folder / MANIFEST).is_file() else {}
    manifest["start"] = before.get("start", manifest["start"])
    # Before the first answer: its settings must be known, and what an interruption leaves must not look complete.
    write_json(folder / MANIFEST, {**before, **manifest})
    sessions = list(before.get("inference") or [])

    def load_and_note() -> Engine:
        engine = load()
        # Kept with the answers: a later run may only score them, with other code on another machine.
        origin = {name: manifest[name] for name in ("code", "command", "versions")}
        sessions.append({**engine.describe(), "time": provenance.now(), **origin})
        return engine

    predictions = predict(
        examples, pool, settings, load_and_note, folder / PREDICTIONS, f"{dimension.name}: {model.name}"
    )
    scores, counts = score_predictions(examples, predictions, settings.scorer)
    write_json(folder / SCORES, scores)
    manifest |= {"inference": sessions, "counts": counts.to_dict(), "end": provenance.now(), "status": _status(counts)}
    write_json(folder / MANIFEST, manifest)
    return DimensionResult(dimension.name, folder, counts)


def _asked(
    settings: EvaluationSettings, dimension: Dimension, pool: list[BenchmarkExample], folder: Path
) -> list[BenchmarkExample]:
    """The part that is asked for, and whatever was answered before: a smaller run must not shrink a result."""
    part = find_examples(settings.data, dimension, settings.max_tasks, settings.num_episodes)
    keys = {example.key for example in part} | read_predictions(folder / PREDICTIONS).keys()
    return [example for example in pool if example.key in keys]


def _manifest(
    model: EvaluatedModel,
    dimension: Dimension,
    settings: EvaluationSettings,
    fixed: dict[str, Any],
    repository: Path,
    examples: list[BenchmarkExample],
) -> dict[str, Any]:
    return {
        "dimension": dimension.name,
        **fixed,
        "model_path": str(model.folder),
        "recipe": _recipe_of(model.folder),
        "scorer": settings.scorer.to_dict(),
        "data": {"path": str(settings.data), "examples": len(examples), "fingerprint": fingerprint(examples)},
        "code": provenance.git_state(repository),
        "command": provenance.command(),
        "versions": provenance.versions(),
        "start": provenance.now(),
        "status": "running",
    }


def _status(counts: Counts) -> str:
    return "complete" if counts.complete else "incomplete"


def _recipe_of(model: Path) -> Any:
    """The recipe that a checkpoint was trained with; None for a model that LEAP did not train."""
    marker = model / MARKER
    return read_object(marker).get("recipe") if marker.is_file() else None


def _refuse_other_settings(results: Path, name: str, fixed: dict[str, Any]) -> None:
    """One name means one model asked in one way, over all dimensions."""
    for dimension in DIMENSIONS:
        folder = results / dimension.name / name
        if not (folder / MANIFEST).is_file():
            if (folder / PREDICTIONS).is_file():
                raise LeapError(f"{folder}: answers without a {MANIFEST}: nobody can say how they were made, move them")
            continue
        found = read_object(folder / MANIFEST)
        different = [
            f"{key} ({found.get(part, {}).get(key)} there, {value} now)"
            for part in fixed
            for key, value in fixed[part].items()
            if found.get(part, {}).get(key) != value
        ]
        if different:
            raise LeapError(
                f"{folder}: its answers were made otherwise: {'; '.join(different)}. Give this evaluation a name "
                "(--model_name) or a folder (--output_dir) of its own, or move the old results to backup_eva_results/"
            )
