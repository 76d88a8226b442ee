"""Scores from stored answers, without a model: LEAP's own results, and the output.json files of its first version."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from leap import provenance
from leap.errors import LeapError
from leap.evaluation.diagnoses import write_diagnoses
from leap.evaluation.manifest import MANIFEST, asked_for, read_manifest
from leap.evaluation.predictions import Key, read_repeats
from leap.evaluation.repeats import score_repeats
from leap.evaluation.result_folder import PREDICTIONS, SCORES
from leap.evaluation.score import Counts, Scores, read_scores
from leap.records.benchmark import BenchmarkExample, Prediction
from leap.records.files import is_file
from leap.records.json_files import read_object, write_json
from leap.records.litter import listed
from leap.records.locks import FolderLock
from leap.vlabench.blind import blind_scores
from leap.vlabench.dimensions import Dimension, find_dimension
from leap.vlabench.examples import by_example, find_examples, fingerprint
from leap.vlabench.parsing import Mode
from leap.vlabench.prompts import fenced_plan
from leap.vlabench.scoring import OFFICIAL_KEYS
from leap.vlabench.sources import Scorer

OLD_OUTPUT = "output.json"  # upstream's and the first LEAP's name for stored answers
LENIENT_SCORES = "final_score_lenient.json"
_NOTES = "benchmeatinfo"  # upstream's spelling: run time notes among the tasks of output.json


@dataclass(frozen=True)
class Rescored:
    """What re-scoring one folder found. `changed` lists the examples whose stored official scores were others."""

    folder: Path
    dimension: Dimension
    counts: Counts
    total: float | None  # mean official total of the scored examples, by the mode asked for
    stored_total: float | None  # of the final_score.json that was there before
    changed: tuple[str, ...]


def find_stored(paths: list[Path]) -> list[Path]:
    """The folders with stored answers in and under `paths`. Raises LeapError where there are none."""
    names = (PREDICTIONS, OLD_OUTPUT)
    found = {file.parent for path in paths for name in names for file in listed(path, f"**/{name}")}
    if not found:
        raise LeapError(f"{', '.join(map(str, paths))}: no {' or '.join(names)} there; give a folder of eva_results")
    return sorted(found)


def rescore(folder: Path, data: Path, scorer: Scorer, mode: Mode = "official") -> Rescored:
    """Score a folder's stored answers again.

    Official scores replace final_score.json (an older one of other content stays beside it as final_score.old.json);
    lenient ones go to a file of their own, so that the two are never mixed.
    """
    with FolderLock(folder):
        return _rescore(folder, data, scorer, mode)


def _rescore(folder: Path, data: Path, scorer: Scorer, mode: Mode) -> Rescored:
    dimension = _dimension_of(folder)
    pool = find_examples(data, dimension)
    examples, repeats = _stored(folder, data, pool)
    scores, counts, first = score_repeats(examples, repeats, scorer, mode)
    counts = _with_unanswered(counts, folder)
    before: Scores = read_scores(folder / SCORES) if is_file(folder / SCORES) else {}
    changed = _changes(before, scores)
    if mode == "official":
        if changed:
            shutil.copyfile(folder / SCORES, folder / "final_score.old.json")
        write_json(folder / SCORES, scores)
        diagnosis = write_diagnoses(folder, examples, repeats[0], first, data)
        _update_manifest(folder, dimension, scorer, counts, {"blind": blind_scores(pool), "diagnosis": diagnosis})
    else:
        write_json(folder / LENIENT_SCORES, scores)
    return Rescored(folder, dimension, counts, _mean_total(scores), _mean_total(before), changed)


def read_old_output(path: Path) -> dict[Key, Prediction]:
    """The answers in an output.json. Its "inference_error" is no answer, though its own scores counted it as a zero."""
    content = read_object(path)
    if odd := [task for task, responses in content.items() if not isinstance(responses, dict)]:
        raise LeapError(f"{path}: {odd[0]}: example -> answer is expected, found {type(content[odd[0]]).__name__}")
    return {
        (task, number): _old_prediction(path, task, number, response)
        for task, responses in content.items()
        if task != _NOTES
        for number, response in by_example(responses, f"{path}: {task}").items()
        if response  # upstream leaves an empty object where it stopped
    }


def _old_prediction(path: Path, task: str, number: str, response: Any) -> Prediction:
    if not isinstance(response, dict):
        raise LeapError(f"{path}: {task}/{number}: an answer should be an object, found {type(response).__name__}")
    if response.get("format_error") == "inference_error":
        return Prediction(task=task, example=number, error="inference error of the run that wrote output.json")
    text = response.get("origin_output")
    if text is None and "skill_sequence" in response:  # only the parsed plan was kept
        text = fenced_plan(response["skill_sequence"])
    return Prediction(task=task, example=number, text=None if text is None else str(text))


def _stored(
    folder: Path, data: Path, whole: list[BenchmarkExample]
) -> tuple[list[BenchmarkExample], Sequence[Mapping[Key, Prediction]]]:
    """The examples, of all on disk, that the folder's run was over, and its answers, repeat by repeat."""
    if is_file(folder / PREDICTIONS):
        repeats = read_repeats(folder / PREDICTIONS)
        answered = set().union(*repeats)
        examples = [example for example in whole if example.key in answered]
        if len(examples) < len(answered):
            task, number = min(answered - {example.key for example in whole})
            raise LeapError(
                f"{folder}: it has an answer to {task}/{number}, an example that {data} does not have; "
                "give the right --data_path"
            )
        _refuse_other_data(folder, data, examples, whole)
        return examples, repeats
    return whole, [read_old_output(folder / OLD_OUTPUT)]


def _refuse_other_data(folder: Path, data: Path, *candidates: list[BenchmarkExample]) -> None:
    """The run was over the first of the candidates that is as large as its manifest says, and as they are now."""
    made_for = read_manifest(folder).get("data", {})
    if not made_for.keys() >= {"examples", "fingerprint"}:
        return
    examples = next((found for found in candidates if len(found) == made_for["examples"]), None)
    if examples is None:
        raise LeapError(
            f"{folder}: {len(candidates[0])} of its {made_for['examples']} examples are answered, so nobody can say "
            f"whether {data} is what they were made for; finish this evaluation first, or give the right --data_path"
        )
    if made_for["fingerprint"] != fingerprint(examples):
        raise LeapError(f"{folder}: its answers were made for other data than {data}; give the right --data_path")


def _with_unanswered(counts: Counts, folder: Path) -> Counts:
    """Examples that a run was asked for and an interruption left without a line are missing, not absent."""
    asked = asked_for(read_manifest(folder)) or 0
    unanswered = max(0, asked - counts.examples)
    return replace(counts, examples=counts.examples + unanswered, missing=counts.missing + unanswered)


def _dimension_of(folder: Path) -> Dimension:
    """From the manifest, or else from the nearest folder above that is named like a dimension."""
    if named := read_manifest(folder).get("dimension"):
        return find_dimension(named)
    for name in (folder.name, *(parent.name for parent in folder.parents)):
        try:
            return find_dimension(name)
        except LeapError:
            continue
    raise LeapError(f"{folder}: neither a {MANIFEST} nor a folder name says which dimension these answers are for")


def _changes(before: Scores, after: Scores) -> tuple[str, ...]:
    """ "task/example" of every official score that was there and is another now, or is not there any more."""
    return tuple(
        f"{task}/{number}"
        for task, examples in before.items()
        for number, scores in examples.items()
        if any(scores.get(key) != after.get(task, {}).get(number, {}).get(key) for key in OFFICIAL_KEYS)
    )


def _mean_total(scores: Scores) -> float | None:
    found = (example["total_score"] for examples in scores.values() for example in examples.values())
    totals = [total for total in found if total is not None]
    return sum(totals) / len(totals) if totals else None


def _update_manifest(folder: Path, dimension: Dimension, scorer: Scorer, counts: Counts, more: dict[str, Any]) -> None:
    manifest = {"dimension": dimension.name, **read_manifest(folder)}
    status = "complete" if counts.complete else "incomplete"
    note = {"time": provenance.now(), "command": provenance.command(), "versions": provenance.versions()}
    update = {"scorer": scorer.to_dict(), "counts": counts.to_dict(), "status": status, "rescored": note}
    write_json(folder / MANIFEST, {**manifest, **update, **more})
