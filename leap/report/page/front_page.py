"""What the first part of the page shows: leaderboard, scores by dimension, diagnoses, and what qualifies them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from leap.evaluation.manifest import read_manifest
from leap.progress import duration
from leap.report.results import (
    BLIND,
    read_blind,
    read_counts,
    read_kinds,
    read_scores,
    repeat_scores,
    result_folders,
    result_notes,
    unlike_settings,
)
from leap.report.results_summary import METHOD, REPEATS, SIGNIFICANT, summarise_scores
from leap.statistics.means import MEAN
from leap.vlabench.diagnosis import KINDS
from leap.vlabench.dimensions import NAMES

MEASURED = ("official", "grounded")  # what the page calls the scores of HEADLINES


class Cell(NamedTuple):
    """A number as text, a mean with its marks and interval; `order` is what a column is sorted by."""

    value: str
    interval: str = ""
    order: float | None = None


class Segment(NamedTuple):
    """A part of a model's bar of diagnoses, in percent of its examples."""

    kind: str
    place: int  # among KINDS
    examples: int
    start: float
    width: float


@dataclass(frozen=True)
class ModelRow:
    """A model in the leaderboard."""

    name: str
    cells: Sequence[Cell]  # official, grounded; share correct, examples without a score, tokens, cost, time
    differences: str


@dataclass(frozen=True)
class FrontPage:
    """All of the first part. `by_dimension`: score -> model -> a cell for each dimension and their mean."""

    models: Sequence[str]
    baseline: str | None
    rows: Sequence[ModelRow]
    blind: Mapping[str, Sequence[Cell]]  # floor, best blind: official, grounded
    by_dimension: Mapping[str, Mapping[str, Sequence[Cell]]]
    bars: Mapping[str, Sequence[Segment]]
    notes: Sequence[str]
    dimensions: Sequence[str] = (*NAMES, MEAN)
    method: Sequence[str] = tuple(
        f"{name}: {METHOD[key]}." for name, key in (*zip(BLIND, BLIND, strict=True), ("[low, high]", "interval"))
    )
    significant: str = f"{SIGNIFICANT} differs from the baseline: {METHOD['p']}; {METHOD['p_holm']}."


def read_front_page(results: Path, models: Sequence[str], baseline: str | None) -> FrontPage:
    """The same numbers as in summary.md, of these models."""
    scores, counts = read_scores(results, models), read_counts(results, models)
    blind, kinds = read_blind(results, models), read_kinds(results, models)
    unlike = unlike_settings(results, models, baseline)
    tables = {
        name: found.readable(counts)
        for name, found in zip(MEASURED, summarise_scores(scores, blind, baseline, unlike).values(), strict=True)
    }
    manifests = manifests_of(results, models)
    differences: dict[str, dict[str, None]] = {}
    for (model, _), its in unlike.items():
        differences.setdefault(model, {}).update(dict.fromkeys(map(str, its)))
    notes = result_notes(results, models, baseline, scores, counts, models)
    notes += [REPEATS] if repeat_scores(scores.columns) else []
    by_dimension = {
        score: {row: [*map(_cell, cells)] for row, cells in zip(table.index, table.to_numpy(), strict=True)}
        for score, table in tables.items()
    }
    return FrontPage(
        models,
        baseline,
        [
            ModelRow(
                model,
                [
                    *(by_dimension[score][model][-1] for score in MEASURED),
                    _correct(kinds[kinds["model"] == model]),
                    _unscored(counts[counts["model"] == model]),
                    *_costs(manifests[model]),
                ],
                "; ".join(differences.get(model, ())),
            )
            for model in models
        ],
        {name: [by_dimension[score][name][-1] for score in MEASURED] for name in BLIND},
        by_dimension,
        {model: found for model in models if (found := _bar(kinds[kinds["model"] == model]))},
        notes,
    )


def manifests_of(results: Path, models: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
    """Every model's manifests, a dimension each."""
    found: dict[str, list[dict[str, Any]]] = {model: [] for model in models}
    for _, model, folder in result_folders(results, models):
        found[model].append(read_manifest(folder))
    return found


def _cell(text: str) -> Cell:
    """Of "45.0 [40.1, 49.9]†*": the marks go with the value."""
    value, bracket, rest = str(text).partition(" [")
    interval, _, marks = rest.partition("]")
    number = value.rstrip("†*")
    return Cell(value + marks, f"[{interval}]" if bracket else "", None if number == "-" else float(number))


def _correct(kinds: pd.DataFrame) -> Cell:
    counted = kinds[list(KINDS)].sum(min_count=1)
    return _number(None if counted.isna().all() else 100 * counted["correct"] / counted.sum(), "{:.1f} %".format)


def _unscored(counts: pd.DataFrame) -> Cell:
    unscored = (counts["examples"] - counts["scored"]).sum(skipna=False)
    return Cell("unknown") if pd.isna(unscored) else Cell(str(unscored), order=float(unscored))


def _costs(manifests: Sequence[Mapping[str, Any]]) -> tuple[Cell, Cell, Cell]:
    """Tokens of prompts and responses, USD, time of inference; "-" where nothing says it, "≥" where a part does not."""
    usage = [one["usage"] for one in manifests if "usage" in one]
    tokens = sum(one.get("prompt_tokens", 0) + one.get("new_tokens", 0) for one in usage)
    costs = [cost for one in usage if (cost := one.get("cost_usd")) is not None]
    seconds = sum(session.get("seconds", 0) for one in manifests for session in one.get("inference", []))
    unknown = len(usage) < len(manifests) or any(one.get("answers_without_usage") for one in usage)
    return (
        _number(tokens or None, ("≥ {:,}" if unknown else "{:,}").format),
        _number(sum(costs) if costs else None, ("≥ ${:.2f}" if len(costs) < len(manifests) else "${:.2f}").format),
        _number(seconds or None, duration),
    )


def _number(value: float | None, written: Callable[[float], str]) -> Cell:
    return Cell("-") if value is None else Cell(written(value), order=float(value))


def _bar(kinds: pd.DataFrame) -> list[Segment]:
    counted = kinds[list(KINDS)].sum()
    total, start, found = int(counted.sum()), 0.0, []
    for place, kind in enumerate(KINDS):
        if count := int(counted[kind]):
            found.append(Segment(kind, place, count, start, 100 * count / total))
            start += 100 * count / total
    return found
