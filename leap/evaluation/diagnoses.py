"""diagnosis.jsonl: why each example's response is right or wrong, beside its scores."""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from leap.evaluation.predictions import Key
from leap.evaluation.score import Scores
from leap.records.benchmark import BenchmarkExample, Prediction
from leap.records.files import is_file, write_atomic
from leap.records.json_files import jsonl_line, read_jsonl
from leap.vlabench.diagnosis import FLAGS, KINDS, Diagnosis, diagnose, seen_transitions

DIAGNOSES = "diagnosis.jsonl"
_SHOWN = ("total_score", "grounded", "exact_match_score")


def write_diagnoses(
    folder: Path,
    examples: Iterable[BenchmarkExample],
    predictions: Mapping[Key, Prediction],
    scores: Scores,
    data: Path,
) -> dict[str, dict[str, int]]:
    """Diagnose every example, replace the folder's file, and count: {"kinds": {kind: n}, "flags": {flag: n}}.

    `data` is the benchmark's folder, from whose references the transitions are learned.
    """
    seen = seen_transitions(data)
    found = []
    for example in examples:
        scored = scores.get(example.task, {}).get(str(example.number), {})
        one = diagnose(example, predictions.get(example.key), seen)
        found.append(one.model_copy(update={name: scored.get(name) for name in _SHOWN}))
    write_atomic(folder / DIAGNOSES, b"".join(map(jsonl_line, found)), if_changed=True)
    kinds = Counter(one.kind for one in found)
    flags = {flag: sum(bool(getattr(one, flag)) for one in found) for flag in FLAGS}
    return {"kinds": {kind: kinds[kind] for kind in KINDS if kinds[kind]}, "flags": flags}


def read_diagnoses(folder: Path) -> dict[Key, Diagnosis]:
    """A result folder's diagnoses; none where it is older than they are. Raises LeapError for a file of other lines."""
    path = folder / DIAGNOSES
    found = (one for _, one in read_jsonl(path, Diagnosis)) if is_file(path) else ()
    return {(one.task, one.example): one for one in found}
