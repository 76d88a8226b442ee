"""The results of one model on one dimension: what is asked, what was answered, the scores, and the manifest.

One process at a time holds the folder. Every answer is on disk before the next one is waited for; whatever moment a
process is killed at, the same command goes on from there, and ends with the files that an unbroken run leaves.
"""

import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from leap import provenance
from leap.errors import LeapError
from leap.evaluation.diagnoses import write_diagnoses
from leap.evaluation.manifest import MANIFEST, read_manifest
from leap.evaluation.predictions import (
    Key,
    as_prediction,
    example_and_repeat,
    read_repeats,
    repeat_key,
    usage_and_cost,
    write_predictions,
)
from leap.evaluation.repeats import score_repeats
from leap.evaluation.requests import build_requests
from leap.evaluation.score import Counts
from leap.evaluation.setting_differences import unlike_members
from leap.evaluation.settings import EvaluatedModel, EvaluationSettings
from leap.hub.hub_models import hub_origin
from leap.inference.protocol import Request, Response, request_hash
from leap.models.checkpoints import changed_files, read_marker
from leap.records.benchmark import BenchmarkExample
from leap.records.files import LOCK, is_file, move_folder
from leap.records.json_files import JsonlAppender, write_json
from leap.records.litter import listed
from leap.records.locks import FolderLock
from leap.records.remote import address
from leap.redaction import hide_all
from leap.vlabench.blind import blind_scores
from leap.vlabench.dimensions import DIMENSIONS, Dimension
from leap.vlabench.examples import find_examples, fingerprint

PREDICTIONS, SCORES = "predictions.jsonl", "final_score.json"
_NOTE_EVERY = 10.0  # seconds between two notes of how fast answers come, for whoever watches


@dataclass(frozen=True)
class DimensionResult:
    """Where a dimension's results lie, and what became of its examples."""

    dimension: str
    folder: Path
    counts: Counts


class ResultFolder:
    """`results`/<dimension>/<model>/, held from entering to leaving.

    The order of calls: begin; open, note_engine and record where something is `waiting`; finish.
    """

    def __init__(
        self,
        results: Path,
        model: EvaluatedModel,
        dimension: Dimension,
        settings: EvaluationSettings,
        repository: Path,
    ) -> None:
        self.dimension, self.path = dimension, results / dimension.name / model.name
        self.waiting: list[Request] = []  # what has no answer yet
        self._results, self._model, self._settings, self._repository = results, model, settings, repository
        self._held = ExitStack()

    def __enter__(self) -> "ResultFolder":
        self._held.enter_context(FolderLock(self.path))
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def move_away(self, archive: Path) -> None:
        """Old results, if any, to a place of their own: `archive`/<dimension>/<model>/. We hold the new folder."""
        if not listed(self.path, "*.json*"):
            return
        place = move_folder(self.path, archive / self.dimension.name / self._model.name)
        self._held.enter_context(FolderLock(self.path))
        (place / LOCK).unlink()
        print(f"{self.path}: the old results are in {place}")

    def begin(self) -> None:
        """Find what is left to ask. Raises LeapError where the stored answers were made otherwise; changes nothing."""
        self._pool = find_examples(self._settings.data, self.dimension)
        self._repeats = read_repeats(self.path / PREDICTIONS)  # a run of fewer must not shrink a result
        self._repeats += [{} for _ in range(len(self._repeats), self._settings.repeats)]
        self._fixed = {"model": self._model.to_dict(), "settings": self._settings.to_dict()}
        self._refuse_other_settings()
        self._examples = self._asked()
        requests = build_requests(self._examples, self._pool, self._settings)
        self._hashes: dict[Key, str] = {_example(request): request_hash(request) for request in requests}
        self._refuse_other_data()
        self.waiting = [
            replace(request, key=repeat_key(request.key, repeat))
            for repeat, found in enumerate(self._repeats)
            for request in requests
            if (stored := found.get(_example(request))) is None or stored.error is not None
        ]
        before = read_manifest(self.path)
        self._manifest = self._new_manifest() | {"inference": list(before.get("inference") or [])}
        # The counts are those of the score file that is there, until `finish` replaces both.
        self._ended = before.get("end")  # stays where nothing is asked now
        self._manifest |= {name: before[name] for name in ("start", "counts", "blind", "diagnosis") if name in before}

    def open(self) -> None:
        """Make ready for answers, before the first: their settings must be known, and the folder not look complete."""
        write_json(self.path / MANIFEST, self._manifest)
        self._file = self._held.enter_context(JsonlAppender(self.path / PREDICTIONS))

    def note_engine(self, described: dict[str, Any], again: bool = False) -> None:
        """Keep with the answers what makes them: a later run may only score them, with other code elsewhere.

        `again` renews the note of this run.
        """
        origin = {name: self._manifest[name] for name in ("code", "command", "versions")}
        started = {"time": provenance.now(), "answers": 0, "seconds": 0.0, **origin}
        before = self._manifest["inference"].pop() if again else started
        self._manifest["inference"].append({**before, **described})
        self._write_note()

    def record(self, response: Response, seconds: float, sync: bool = True) -> None:
        """Put an answer on disk, with `sync` at once; one with an error stands there as such, and is asked again by the
        next run.

        `seconds` have passed since the answer before it, of any dimension: their sums say how fast each dimension was
        answered, whatever else was asked in between.
        """
        note = self._manifest["inference"][-1]
        # Before this one is counted: answers come in batches, whose first has taken the time of all.
        if note["answers"] and time.monotonic() - self._noted > _NOTE_EVERY:
            self._write_note()
        note["answers"] += 1
        note["seconds"] = round(note["seconds"] + seconds, 6)
        example, repeat = example_and_repeat(response.key)
        self._repeats[repeat][example] = as_prediction(response, self._hashes[example])
        self._file.append(self._repeats[repeat][example], sync)

    def sync(self) -> None:
        """What is recorded is on disk when this returns."""
        self._file.sync()

    def _write_note(self) -> None:
        write_json(self.path / MANIFEST, self._manifest)
        self._noted = time.monotonic()

    def finish(self) -> DimensionResult:
        """Predictions in the benchmark's order, scores and the final manifest; untouched where nothing has changed."""
        found = [{key: one[key] for key in self._hashes if key in one} for one in self._repeats]
        scores, counts, first = score_repeats(self._examples, found, self._settings.scorer)
        everything = [prediction for one in found for prediction in one.values()]
        write_predictions(self.path / PREDICTIONS, everything)
        write_json(self.path / SCORES, scores, if_changed=True)
        self._manifest |= {
            "counts": counts.to_dict(),
            "blind": blind_scores(self._pool),
            "diagnosis": write_diagnoses(self.path, self._examples, found[0], first, self._settings.data),
            "usage": usage_and_cost(everything, *self._settings.prices),
            "end": provenance.now() if self.waiting or not self._ended else self._ended,
            "status": "complete" if counts.complete else "incomplete",
        }
        write_json(self.path / MANIFEST, self._manifest, if_changed=True)
        return DimensionResult(self.dimension.name, self.path, counts)

    def _asked(self) -> list[BenchmarkExample]:
        """The part that is asked for, and whatever was answered before: a smaller run must not shrink a result."""
        part = find_examples(self._settings.data, self.dimension, self._settings.max_tasks, self._settings.num_episodes)
        keys = {example.key for example in part}.union(*self._repeats)
        return [example for example in self._pool if example.key in keys]

    def _new_manifest(self) -> dict[str, Any]:
        return {
            "dimension": self.dimension.name,
            **self._fixed,
            "model_path": str(self._model.folder) if self._model.folder else None,
            "base_model_path": str(self._model.base) if self._model.base else None,
            **_origins(self._model),
            "recipe": _recipe_of(self._model.folder),
            **({"repeats": len(self._repeats)} if len(self._repeats) > 1 else {}),
            "image_size_source": self._settings.image_size_source,
            "scorer": self._settings.scorer.to_dict(),
            "data": {
                "path": address(self._settings.data),
                "examples": len(self._examples),
                "fingerprint": fingerprint(self._examples),
            },
            **provenance.origin(self._repository),
            "status": "running",
        }

    def _refuse_other_settings(self) -> None:
        """One name means one model asked and scored in one way, over all dimensions."""
        for dimension in DIMENSIONS:
            folder = self._results / dimension.name / self._model.name
            answered = is_file(folder / PREDICTIONS)  # looked for first: another process may write both just now
            if is_file(folder / MANIFEST):
                self._refuse_manifest(folder, read_manifest(folder))
            elif answered:
                raise LeapError(f"{folder}: answers without a {MANIFEST}: nobody can say how they were made, move them")

    def _refuse_manifest(self, folder: Path, found: dict[str, Any]) -> None:
        scored = _different({"scorer": self._settings.scorer.to_dict()}, found)
        if made := _different(self._fixed, found) + _other_files(self._fixed["model"], found.get("model") or {}):
            raise LeapError(
                f"{folder}: its answers were made otherwise: {'; '.join(made + scored)}. Give this evaluation a name "
                "(--model_name) or a folder (--output_dir) of its own, or move the old results of all dimensions "
                "away with --fresh"
            )
        if scored:
            raise LeapError(
                f"{folder}: scored otherwise: {'; '.join(scored)}. Score them all anew "
                f"(scripts/evaluation/score_predictions.py --scorer {self._settings.scorer.name}), or give that one"
            )

    def _refuse_other_data(self) -> None:
        """Stored answers must be to these very requests: the data may have changed since."""
        others = [
            f"{task}/{number}"
            for one in self._repeats
            for (task, number), prediction in one.items()
            if self._hashes.get((task, number)) != prediction.request
        ]
        if others:
            raise LeapError(
                f"{self.path}: {len(others)} of its answers are to other data than {self._settings.data} holds now "
                f"({', '.join(others[:3])}{', …' if len(others) > 3 else ''}). Give the right --data_path, give this "
                "evaluation a name (--model_name) of its own, or move the old results away with --fresh"
            )


def _example(request: Request) -> Key:
    return example_and_repeat(request.key)[0]


def _different(now: dict[str, dict[str, Any]], found: dict[str, Any]) -> list[str]:
    """Each value of these parts of a manifest that is another there, or that only one of the two has."""
    return [
        f"{key} ({there} there, {here} now)"
        for part, values in hide_all(now).items()  # as they are stored
        for key, here, there in unlike_members(values, hide_all(found.get(part) or {}))
        if key != "files"  # listed by name
    ]


def _other_files(now: dict[str, Any], then: dict[str, Any]) -> list[str]:
    """The small files of a model that are others now."""
    return [f"{name} of the model has changed" for name in changed_files(then.get("files", {}), now.get("files", {}))]


def _origins(model: EvaluatedModel) -> dict[str, Any]:
    """Repository, commit and subfolder of what came from the hub."""
    found = {"hub": model.folder and hub_origin(model.folder), "base_hub": model.base and hub_origin(model.base)}
    return {name: origin for name, origin in found.items() if origin}


def _recipe_of(model: Path | None) -> Any:
    """The recipe that a checkpoint was trained with; None for a model that LEAP did not train."""
    return read_marker(model).get("recipe") if model else None
