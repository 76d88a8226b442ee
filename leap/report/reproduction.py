"""The published table beside what LEAP measured: the means with their intervals, and one small file to send."""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from leap import provenance
from leap.evaluation.manifest import read_manifest
from leap.evaluation.model_names import BASELINE
from leap.records.files import write_atomic
from leap.report.results import (
    TOTAL,
    blind_means,
    incomplete_note,
    prompt_note,
    read_blind,
    read_counts,
    read_scores,
    result_folders,
    unlike_settings_note,
)
from leap.report.results_summary import records
from leap.report.tables import print_table
from leap.statistics.means import MEAN, paired_differences, summarise
from leap.vlabench.dimensions import NAMES
from leap.vlabench.grounding import GROUNDED

TRAINED = "checkpoint-5000"
GROUPS = (*NAMES, MEAN)
# Of `total_score`, published with the checkpoints by an earlier version of LEAP: 10 examples a task, 450 of 4,500.
PUBLISHED = {
    BASELINE: dict(zip(GROUPS, (29.60, 25.70, 25.89, 31.10, 24.00, 14.28, 25.10), strict=True)),
    TRAINED: dict(zip(GROUPS, (32.96, 27.27, 28.49, 31.62, 30.27, 19.67, 28.38), strict=True)),
}
A_TASK = 10
FILE = "reproduction.json"
_KEPT = ("dimension", "settings", "scorer", "versions", "code", "counts", "diagnosis", "start", "end", "status")
_SESSION = ("answers", "seconds", "engine", "dtype", "device", "batch_size", "versions", "code")
_PLACE = re.compile(r"(?:^|[\s=:'\"])(?:[/~]|[A-Za-z]:\\)")  # where an absolute path begins


def print_reproduction(results: Path) -> None:
    """Both scores of what was evaluated, the official one beside the published ones, and what to know of them."""
    scores = read_scores(results, PUBLISHED)
    print_table(beside_published(scores), "total_score (at most 80) [95 % interval]")
    print_table(_grounded(scores, blind_means(read_blind(results, PUBLISHED), GROUNDED)), "grounded (at most 100)")
    notes = prompt_note(results, PUBLISHED), unlike_settings_note(results, PUBLISHED, BASELINE)
    for note in (*_within(scores), incomplete_note(read_counts(results, PUBLISHED)), *notes):
        if note:
            print(note)


def parts(scores: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The first 10 examples of each task, as published, and all of them where there are more."""
    number = pd.to_numeric(scores["example"])
    rank = number.groupby([scores["dimension"], scores["task"]]).rank("dense")  # of what any model has a score on
    first = scores[rank <= A_TASK]
    yield f"{A_TASK} a task ({_examples(first)})", first
    if len(scores) > len(first):
        yield f"whole ({_examples(scores)})", scores


def beside_published(scores: pd.DataFrame) -> pd.DataFrame:
    """A row for each model and the difference of the two, as published and as measured; `GROUPS` in columns."""
    rows = {}
    measured = {name: summarise(part, TOTAL) for name, part in parts(scores)}
    for model, known in PUBLISHED.items():
        rows[f"{model}, published"] = [f"{known[group]:.2f}" for group in GROUPS]
        rows |= {f"{model}, {name}": _cells(table, model) for name, table in measured.items()}
    if set(PUBLISHED) <= set(scores["model"]):
        known = {group: PUBLISHED[TRAINED][group] - PUBLISHED[BASELINE][group] for group in GROUPS}
        rows["difference, published"] = [f"{known[group]:+.2f}" for group in GROUPS]
        for name, part in parts(scores):
            rows[f"difference, {name}"] = _cells(paired_differences(part, BASELINE), TRAINED, "+")
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(GROUPS))


def write_reproduction(results: Path, repository: Path) -> Path:
    """<results>/reproduction.json: means, every example's two scores, and what made them. Nothing in it says where or
    by whom: of manifests only known parts are kept, and no absolute path."""
    scores = read_scores(results, PUBLISHED)
    content = {
        "published": PUBLISHED,
        "code": provenance.git_state(repository),
        "versions": provenance.versions(),
        "means": {
            name: {score: records(summarise(part.dropna(subset=[score]), score)) for score in (TOTAL, GROUNDED)}
            for name, part in parts(scores)
        },
        "evaluations": [_described(folder) for _, _, folder in result_folders(results, PUBLISHED)],
        "examples": _by_example(scores),
    }
    compact = json.dumps(_without_places(content), separators=(",", ":"), allow_nan=False)
    write_atomic(results / FILE, compact + "\n")
    return results / FILE


def _examples(scores: pd.DataFrame) -> int:
    """Of a model; of the one that has most."""
    return int(scores.groupby("model").size().max())


def _cells(table: pd.DataFrame, model: str, sign: str = "") -> list[str]:
    rows = table[table["model"] == model].set_index("dimension").reindex(GROUPS)
    return [_cell(*row, sign) for row in zip(rows["mean"], rows["low"], rows["high"], strict=True)]


def _cell(mean: float, low: float, high: float, sign: str) -> str:
    if pd.isna(mean):
        return "-"
    return f"{mean:{sign}.1f}" + ("" if pd.isna(low) else f" [{low:{sign}.1f}, {high:{sign}.1f}]")


def _grounded(scores: pd.DataFrame, blind: pd.DataFrame) -> pd.DataFrame:
    measured = {name: summarise(part.dropna(subset=[GROUNDED]), GROUNDED) for name, part in parts(scores)}
    rows = {f"{model}, {name}": _cells(table, model) for model in PUBLISHED for name, table in measured.items()}
    rows |= {str(name): [_cell(value, math.nan, math.nan, "") for value in row] for name, *row in blind.itertuples()}
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(GROUPS))


def _within(scores: pd.DataFrame) -> Iterator[str]:
    """For each model, in which columns the published score lies within the interval of as many examples."""
    name, part = next(parts(scores))
    table = summarise(part, TOTAL).set_index(["model", "dimension"])
    for model, known in PUBLISHED.items():
        rows = {group: table.loc[(model, group)] for group in GROUPS if (model, group) in table.index}
        rows = {group: row for group, row in rows.items() if pd.notna(row["low"])}  # what was not measured says nothing
        apart = [group for group, row in rows.items() if not row["low"] <= known[group] <= row["high"]]
        if rows:
            found = f"outside of it for {', '.join(apart)}" if apart else f"within it for all {len(rows)} columns"
            yield f"{model}: the published scores against the interval of {name}: {found}"


def _described(folder: Path) -> dict[str, Any]:
    manifest = read_manifest(folder)
    return {
        **{name: manifest.get(name) for name in _KEPT},
        "model": {name: manifest.get("model", {}).get(name) for name in ("name", "weights", "files")},
        "data": {name: manifest.get("data", {}).get(name) for name in ("examples", "fingerprint")},
        "blind": {name: value for name, value in manifest.get("blind", {}).items() if name != "tasks"},
        "inference": [{name: one.get(name) for name in _SESSION} for one in manifest.get("inference", [])],
    }


def _by_example(scores: pd.DataFrame) -> dict[str, Any]:
    """Model -> dimension -> task -> example -> [total_score, grounded]."""
    found: dict[str, Any] = {}
    for row in scores.itertuples():
        tasks = found.setdefault(row.model, {}).setdefault(row.dimension, {})
        grounded = None if pd.isna(row.grounded) else round(row.grounded, 4)
        tasks.setdefault(row.task, {})[row.example] = [round(row.total_score, 4), grounded]
    return found


def _without_places(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_places(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without_places(inner) for inner in value]
    return "(left out)" if isinstance(value, str) and _PLACE.search(value) else value
