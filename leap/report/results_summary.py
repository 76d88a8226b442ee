"""The summary of a results folder: means with intervals, what was not scored, what differs from the baseline.

summary.json holds all of it; summary.csv the means, one row a (model, dimension); summary.md one table to read.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from leap.evaluation.setting_differences import Difference
from leap.records.files import write_atomic
from leap.records.table_cells import csv_text, markdown_lines, markdown_text
from leap.report.results import (
    BLIND,
    COUNTS,
    NO_PLAN,
    TOTAL,
    blind_means,
    dimension_means,
    ids_as_text_notes,
    model_order,
    prompt_note,
    read_blind,
    read_counts,
    read_kinds,
    read_scores,
    repeat_scores,
    unlike_settings,
    unlike_settings_note,
    without_verdicts,
)
from leap.report.selection import selection_notes
from leap.report.tables import kind_table, repeat_table
from leap.report.unfinished import unfinished_results
from leap.statistics.comparison import compare_all
from leap.statistics.means import MEAN, summarise, summarise_between_tasks
from leap.vlabench.diagnosis import FLAGS
from leap.vlabench.dimensions import NAMES
from leap.vlabench.grounding import GROUNDED

SIGNIFICANT, INCOMPLETE = "†", "*"
HEADLINES = {
    TOTAL: "the benchmark's own score, a recall of at most 80",
    GROUNDED: "percent of the steps that name an object that are right, of the longer of the two plans",
}
_BELOW = "p_holm below 0.025, since dimensions and means share 5 %"
METHOD = {
    "floor": "what a planner that never looks has: the mean over all pairs of examples of a task, the reference of one "
    "scored as the answer to the other",
    "best blind": "the best constant plan of each task, chosen on its other examples",
    "diagnosis": "examples of each kind, over all dimensions, then those with each flag; one by one: diagnosis.jsonl",
    "mean": "a dimension's is over its examples, whatever their task; the last column's is over the six dimensions, "
    "each alike, however many tasks and examples it has",
    "interval": "95 % percentile bootstrap of the mean, examples resampled within each task, 10,000 times",
    "between_tasks": "the same with whole tasks resampled within each dimension, of the mean in which every task of a "
    "dimension weighs alike: over all dimensions together only",
    "p": "two-sided paired permutation test on the examples that both models have",
    "p_holm": "p with Holm's correction over all models and dimensions shown; that of the means over the models",
    "significant": f"{_BELOW}; empty where the two were asked or scored in other ways",
}

REPEATS = (
    "scores of a model that was asked repeatedly are means of each example's responses; _std is their standard "
    "deviation within an example, pass@k the chance in percent that one of k responses is correct (Chen et al. 2021), "
    "both as means of the dimensions that were run; its counts are of responses, its diagnosis is of the first"
)


def write_summary(results: Path, baseline: str = "Baseline") -> dict[str, pd.DataFrame]:
    """Write summary.{json,csv,md} for all models in `results`; returns the tables of summary.md by their scores.

    Comparisons are left out where there is no such baseline.
    """
    scores, counts = read_scores(results), read_counts(results)
    blind, kinds = read_blind(results), read_kinds(results)
    compared = baseline in set(scores["model"])
    unlike = unlike_settings(results, baseline=baseline)
    found = summarise_scores(scores, blind, baseline if compared else None, unlike)
    unlike_note, unfinished = unlike_settings_note(results, baseline=baseline), unfinished_results(results)
    total, own_prompt = found[TOTAL], prompt_note(results)
    content = {
        "score": TOTAL,
        "method": METHOD,
        "unlike": unlike_note or None,
        "prompt": own_prompt or None,
        **total.records(),
        GROUNDED: found[GROUNDED].records(),
        "blind": records(blind),
        "diagnosis": records(kinds),
        "unfinished": unfinished,
    }
    if repeated := repeat_scores(scores.columns):
        content["method"] = METHOD | {"repeats": REPEATS}
        content["repeats"] = {name: records(summarise(scores.dropna(subset=[name]), name)) for name in repeated}
    write_atomic(results / "summary.json", json.dumps(content, indent=2, allow_nan=False) + "\n")
    write_atomic(results / "summary.csv", csv_text(_all_means(found, scores, counts, blind, kinds)))
    begun = f"not finished, and not or only partly shown: {'; '.join(unfinished)}" if unfinished else ""
    notes = [*_kinds_of_no_plan(counts), *(f"{note}." for note in (begun, unlike_note, own_prompt) if note)]
    remarks = *ids_as_text_notes(scores, counts), *selection_notes(scores), *_unequal_tasks(scores)
    notes += [f"{note}." for note in remarks]
    tables = {score: of.readable(counts) for score, of in found.items()}
    further = {"diagnosis": kind_table(kinds), "repeats": _with_gaps(repeat_table(scores))}
    shown = tables | {name: table for name, table in further.items() if len(table.columns)}  # of what there is
    page = _markdown(shown, total.between, baseline if compared else None, notes)
    write_atomic(results / "summary.md", page)
    return tables


@dataclass(frozen=True)
class ScoreSummary:
    """What is known of one score: `summarise`, `summarise_between_tasks`, `compare_all`, `blind_means`."""

    means: pd.DataFrame
    between: pd.DataFrame
    comparisons: pd.DataFrame
    blind: pd.DataFrame

    def records(self) -> dict[str, Any]:
        names = {"means": self.means, "between_tasks": self.between, "comparisons": self.comparisons}
        return {name: records(table) for name, table in names.items()}

    def readable(self, counts: pd.DataFrame) -> pd.DataFrame:
        """Models, and what never looks, in rows, `NAMES` and their mean in columns: "45.0 [40.1, 49.9]" with marks."""
        table = _readable(_with_counts(self.means, counts), self.comparisons)
        return pd.concat([table, _with_gaps(self.blind)])


def summarise_scores(
    scores: pd.DataFrame,
    blind: pd.DataFrame,
    baseline: str | None,
    unlike: Mapping[tuple[str, str], Sequence[Difference]],
) -> dict[str, ScoreSummary]:
    """What is known of each of `HEADLINES`; comparisons are empty without a baseline. `unlike`: `unlike_settings`."""
    return {score: _of_score(scores.dropna(subset=[score]), blind, score, baseline, unlike) for score in HEADLINES}


def _of_score(
    scores: pd.DataFrame,
    blind: pd.DataFrame,
    score: str,
    baseline: str | None,
    unlike: Mapping[tuple[str, str], Sequence[Difference]],
) -> ScoreSummary:
    compared = baseline in set(scores["model"])
    return ScoreSummary(
        summarise(scores, score),
        summarise_between_tasks(scores, score),
        without_verdicts(compare_all(scores, baseline, score), unlike) if baseline and compared else pd.DataFrame(),
        blind_means(blind, score),
    )


def _all_means(
    found: Mapping[str, ScoreSummary],
    scores: pd.DataFrame,
    counts: pd.DataFrame,
    blind: pd.DataFrame,
    kinds: pd.DataFrame,
) -> pd.DataFrame:
    """A row for each (model, dimension or mean): the total with its interval and counts, `grounded` with its own, what
    never looks has of both, the diagnoses, and what only repeats have."""
    keys = ["model", "dimension"]
    own = {"mean": GROUNDED, **{name: f"{GROUNDED}_{name}" for name in ("low", "high", "n")}}
    numbers = blind.drop(columns="data").set_index(keys)
    whole = numbers.groupby("model").mean()[numbers.groupby("model").count() == len(NAMES)]
    never = pd.concat([numbers.reset_index(), whole.reset_index().assign(dimension=MEAN)])
    table = _with_counts(found[TOTAL].means, counts).merge(found[GROUNDED].means.rename(columns=own), "left", keys)
    diagnosed = kinds.rename(columns={flag: f"diagnosed_{flag}" for flag in FLAGS})  # some are counted otherwise too
    table = table.merge(never, "left", keys).merge(diagnosed, "left", keys)
    for name in repeat_scores(scores.columns):
        means = dimension_means(scores, name).stack().rename(name).rename_axis(keys)
        table = table.merge(means.reset_index(), "left", keys)
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


def _markdown(
    tables: Mapping[str, pd.DataFrame], between: pd.DataFrame, baseline: str | None, more: Sequence[str]
) -> str:
    lines = [markdown_table(score, table) for score, table in tables.items()]
    notes = [f"{markdown_text(score)}: {meaning}." for score, meaning in HEADLINES.items()]
    notes += [f"{name}: {METHOD[name]}." for name in ("mean", *BLIND, "diagnosis")]
    notes += [f"repeats: {markdown_text(REPEATS)}."] * ("repeats" in tables)
    notes.append(f"[low, high]: {METHOD['interval']}.")
    if baseline:
        notes.append(
            f"{SIGNIFICANT} differs from {markdown_text(baseline)}: {METHOD['p']}; {METHOD['p_holm']}; {_BELOW}."
        )
    notes.append(
        f"{INCOMPLETE} incomplete: some examples have no score, see {' and '.join(COUNTS[-2:])} in summary.csv "
        "(empty there: nothing says whether all have one)."
    )
    notes += map(markdown_text, more)
    for row in between.dropna(subset=["low"]).to_dict("records"):
        notes.append(
            f"{markdown_text(row['model'])}: total_score, mean of the dimensions' means over tasks {row['mean']:.1f} "
            f"[{row['low']:.1f}, {row['high']:.1f}], whole tasks resampled."
        )
    return "\n".join([*lines, *(f"- {note}" for note in notes)]) + "\n"


def markdown_table(score: str, table: pd.DataFrame) -> str:
    """A table of models, as `ScoreSummary.readable` makes it."""
    rows = [[str(model), *map(str, cells)] for model, cells in zip(table.index, table.to_numpy(), strict=True)]
    return markdown_lines([score, *table.columns], [False, *[True] * len(table.columns)], rows)


def _with_gaps(table: pd.DataFrame) -> pd.DataFrame:
    """Numbers as they are shown, "-" for those that are not known."""
    return table.map("{:.1f}".format, na_action="ignore").astype(object).fillna("-")


def _unequal_tasks(scores: pd.DataFrame) -> list[str]:
    """How many tasks the dimensions have, where that differs: their mean is not that of all tasks."""
    tasks = scores.groupby("dimension")["task"].nunique().reindex(list(NAMES)).dropna()
    listed = ", ".join(f"{name} {number:.0f}" for name, number in tasks.items())
    return [f"tasks: {listed}; the mean of six is of dimensions, not of tasks"] if tasks.nunique() > 1 else []


def _kinds_of_no_plan(counts: pd.DataFrame) -> Iterator[str]:
    """A sentence on each model that refused, was filtered, or answered with nothing."""
    for model, found in counts.groupby("model")[list(NO_PLAN)].sum().iterrows():
        if found.any():
            kinds = ", ".join(f"{number} {name}" for name, number in found.items() if number)
            yield f"{model}: {kinds} answers, which hold no plan and score 0."


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as JSON objects, null where a value is not known."""
    return json.loads(table.to_json(orient="records"))
