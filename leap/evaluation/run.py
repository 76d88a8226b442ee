"""One model on one dimension: predict, score, and a manifest from which the numbers can be made again."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from leap import provenance
from leap.errors import LeapError
from leap.evaluation.predict import predict
from leap.evaluation.score import Counts, score_predictions
from leap.evaluation.settings import EvaluatedModel, EvaluationSettings
from leap.inference.protocol import Engine
from leap.models.checkpoints import MARKER
from leap.records.files import read_json, write_json
from leap.vlabench.dataset import find_examples, fingerprint
from leap.vlabench.dimensions import Dimension

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
        load_once = cache(partial(load, model.folder))
        for dimension in dimensions:
            finished.append(evaluate_dimension(model, dimension, settings, load_once, results, repository))
    return finished


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
    examples = find_examples(settings.data, dimension, settings.max_tasks, settings.num_episodes)
    fixed = {"model": {"name": model.name, "weights": model.weights}, "settings": settings.to_dict()}
    _refuse_other_settings(folder, fixed)
    manifest = {
        "dimension": dimension.name,
        **fixed,
        "model_path": str(model.folder),
        "recipe": _recipe_of(model.folder),
        "scorer": settings.scorer.to_dict(),
        "data": {"path": str(settings.data), "fingerprint": fingerprint(examples)},
        "part": {"max_tasks": settings.max_tasks, "num_episodes": settings.num_episodes},
        "code": provenance.git_state(repository),
        "command": provenance.command(),
        "versions": provenance.versions(),
        "start": provenance.now(),
        "status": "running",
    }
    if not (folder / MANIFEST).is_file():  # the settings must be known before the first answer is stored
        write_json(folder / MANIFEST, manifest)
    engines: list[dict[str, Any]] = []

    def load_and_note() -> Engine:
        engine = load()
        engines.append(engine.describe())
        return engine

    label = f"{dimension.name}: {model.name}"
    pool = find_examples(settings.data, dimension) if settings.few_shot.number else examples
    predictions = predict(examples, pool, settings, load_and_note, folder / PREDICTIONS, label)
    scores, counts = score_predictions(examples, predictions, settings.scorer)
    write_json(folder / SCORES, scores)
    manifest["inference"] = engines[0] if engines else read_json(folder / MANIFEST).get("inference")
    manifest |= {"counts": counts.to_dict(), "end": provenance.now(), "status": _status(counts)}
    write_json(folder / MANIFEST, manifest)
    return DimensionResult(dimension.name, folder, counts)


def _status(counts: Counts) -> str:
    return "complete" if counts.complete else "incomplete"


def _recipe_of(model: Path) -> Any:
    """The recipe that a checkpoint was trained with; None for a model that LEAP did not train."""
    marker = model / MARKER
    return read_json(marker).get("recipe") if marker.is_file() else None


def _refuse_other_settings(folder: Path, fixed: dict[str, Any]) -> None:
    if not (folder / MANIFEST).is_file():
        if (folder / PREDICTIONS).is_file():
            raise LeapError(
                f"{folder}: answers without a {MANIFEST}; nobody can say how they were made, move them away"
            )
        return
    found = read_json(folder / MANIFEST)
    different = [
        f"{name} ({found.get(part, {}).get(name)} there, {value} now)"
        for part in fixed
        for name, value in fixed[part].items()
        if found.get(part, {}).get(name) != value
    ]
    if different:
        raise LeapError(
            f"{folder}: its answers were made otherwise: {'; '.join(different)}. "
            "Give this evaluation a name (--model_name) or a folder (--output_dir) of its own, or move the old results "
            "to backup_eva_results/"
        )
