"""The summary of a results folder: means with intervals, what was not scored, what differs from the baseline.

summary.json holds all of it; summary.csv the means, one row a (model, dimension); summary.md one table to read.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from leap.records.files import write_atomic
from leap.records.table_cells import csv_text, markdown_lines, markdown_text
from leap.report.results import COUNTS, NO_PLAN, model_order, read_counts, read_scores, unlike_settings_note
from leap.report.unfinished import unfinished_results
from leap.statistics.comparison import compare_all
from leap.statistics.means import MEAN, summarise, summarise_between_tasks
from leap.vlabench.dimensions import NAMES

SIGNIFICANT, INCOMPLETE = "†", "*"
METHOD = {
    "interval": "95 % percentile bootstrap of the mean, examples resampled within each task, 10,000 times",
    "between_tasks": "the same with whole tasks resampled within each dimension: over all dimensions together only",
    "p": "two-sided paired permutation test on the examples that both models have",
    "p_holm": "p with Holm's correction over the six dimensions; the mean is one test of its own",
    "significant": "p_holm (of the mean: p) below 0.05",
}


def write_summary(results: Path, score: str = "total_score", baseline: str = "Baseline") -> pd.DataFrame:
    """Write summary.{json,csv,md} for all models in `results`; returns the table of summary.md.

    Comparisons are left out where there is no such baseline.
    """
    scores, counts = read_scores(results), read_counts(results)
    means = _with_counts(summarise(scores, score), counts)
    between = summarise_between_tasks(scores, score)
    compared = baseline in set(scores["model"])
    comparisons = compare_all(scores, baseline, score) if compared else pd.DataFrame()
    table, unlike = _readable(means, comparisons), unlike_settings_note(results)
    unfinished = unfinished_results(results)
    content = {
        "score": score,
        "method": METHOD,
        "unlike": unlike or None,
        "means": _records(means),
        "between_tasks": _records(between),
        "comparisons": _records(comparisons),
        "unfinished": unfinished,
    }
    write_atomic(results / "summary.json", json.dumps(content, indent=2, allow_nan=False) + "\n")
    write_atomic(results / "summary.csv", csv_text(means))
    begun = f"not finished, and not or only partly shown: {'; '.join(unfinished)}" if unfinished else ""
    notes = [*_kinds_of_no_plan(counts), *(f"{note}." for note in (begun, unlike) if note)]
    page = _markdown(table, score, between, baseline if compared else None, notes)
    write_atomic(results / "summary.md", page)
    return table


def _with_counts(means: pd.DataFrame, counts: pd.DataFrame) -> pd.DataFrame:
    """A row for every (model, dimension or mean), also of a model that has no score at all."""
    models = model_order({*means["model"], *counts["model"]})
    rows = pd.MultiIndex.from_product([models, [*NAMES, MEAN]], names=["model", "dimension"])
    keys = ["model", "dimension"]
    table = means.set_index(keys).reindex(rows).join(counts.set_index(keys))
    return table.fillna({"n": 0}).astype({"n": "int64"}).reset_index()


def _readable(means: pd.DataFrame, comparisons: pd.DataFrame) -> pd.DataFrame:
    """Models in rows, dimensions and their mean in columns: "45.0 [40.1, 49.9]" with its marks."""
    marked = set()
    if len(comparisons):
        different = comparisons[comparisons["significant"].astype("boolean").fillna(False)]
        marked = set(zip(different["model"], different["dimension"], strict=True))
    cells = {
        (row["model"], row["dimension"]): _cell(row, (row["model"], row["dimension"]) in marked)
        for row in means.to_dict("records")
    }
    models, columns = list(means["model"].unique()), [*NAMES, MEAN]
    return pd.DataFrame([[cells[model, name] for name in columns] for model in models], models, columns)


def _cell(row: dict[str, Any], significant: bool) -> str:
    marks = SIGNIFICANT * significant
    unknown = row["dimension"] != MEAN and pd.notna(row["mean"]) and pd.isna(row["examples"])
    if unknown or (pd.notna(row["examples"]) and row["examples"] > row["scored"]):
        marks += INCOMPLETE
    if pd.isna(row["mean"]):
        return f"-{marks}"
    interval = "" if pd.isna(row["low"]) else f" [{row['low']:.1f}, {row['high']:.1f}]"
    return f"{row['mean']:.1f}{interval}{marks}"


def _markdown(table: pd.DataFrame, score: str, between: pd.DataFrame, baseline: str | None, more: Sequence[str]) -> str:
    rows = [[model, *cells] for model, cells in zip(table.index, table.to_numpy(), strict=True)]
    lines = markdown_lines([score, *table.columns], [False, *[True] * len(table.columns)], rows)
    notes = [f"[low, high]: {METHOD['interval']}."]
    if baseline:
        notes.append(f"{SIGNIFICANT} differs from {markdown_text(baseline)}: {METHOD['p']}; {METHOD['p_holm']}.")
    notes.append(
        f"{INCOMPLETE} incomplete: some examples have no score, see {' and '.join(COUNTS[-2:])} in summary.csv "
        "(empty there: nothing says whether all have one)."
    )
    notes += map(markdown_text, more)
    for row in between.dropna(subset=["low"]).to_dict("records"):
        notes.append(
            f"{markdown_text(row['model'])}: mean with whole tasks resampled [{row['low']:.1f}, {row['high']:.1f}]."
        )
    return "\n".join([lines, *(f"- {note}" for note in notes)]) + "\n"


def _kinds_of_no_plan(counts: pd.DataFrame) -> Iterator[str]:
    """A sentence on each model that refused, was filtered, or answered with nothing."""
    for model, found in counts.groupby("model")[list(NO_PLAN)].sum().iterrows():
        if found.any():
            kinds = ", ".join(f"{number} {name}" for name, number in found.items() if number)
            yield f"{model}: {kinds} answers, which hold no plan and score 0."


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as JSON objects, null where a value is not known."""
    return json.loads(table.to_json(orient="records"))
