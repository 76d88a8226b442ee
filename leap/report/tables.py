"""The results as tables: on the screen, as Markdown, as CSV."""

from collections.abc import Collection
from pathlib import Path

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from leap.console import new_console
from leap.errors import LeapError
from leap.progress import rounded
from leap.records.files import write_atomic
from leap.records.table_cells import csv_text, markdown_lines, markdown_text
from leap.report.results import (
    NO_PLAN,
    WRITTEN,
    blind_means,
    dimension_means,
    model_order,
    repeat_scores,
    unscored_examples,
)
from leap.statistics.means import MEAN
from leap.vlabench.diagnosis import FLAGS, KINDS
from leap.vlabench.dimensions import NAMES
from leap.vlabench.grounding import GROUNDED

_METRICS = {
    "total": "total_score",
    "grounded": GROUNDED,
    "skill": "skill_match_score",
    "entity": "entity_match_score",
    "skill+entity": "skill_with_entity_match_score",
    "exact": "exact_match_score",
}
GROUNDED_TITLE = "Grounded: steps that name the right object (at most 100), beside what never looking has"
REPEATS_TITLE = "Repeats: std of the responses to an example, and pass@k of correct in percent"
_FAILURES = ("examples", "format_error", "truncated", "inference_error", "missing")
_NOTE = "* incomplete: examples without a score (inference error or missing) are left out of the means, not zero"


def total_table(
    scores: pd.DataFrame, counts: pd.DataFrame, baseline: str | None, unlike: Collection[tuple[str, str]] = ()
) -> pd.DataFrame:
    """The seed's table: model x dimension, the mean of the six, its improvement over the baseline in percent, and the
    number of unscored examples. The improvement is empty where either mean is, as `improvement` says.

    Raises LeapError where `baseline` is not among the models.
    """
    table = dimension_means(scores, models=counts["model"])
    if baseline is not None:
        table["improvement %"] = improvement(table, baseline, unlike)[1][MEAN].drop(baseline)
    table["unscored"] = unscored_examples(counts)[MEAN]
    return table


def grounded_table(scores: pd.DataFrame, counts: pd.DataFrame, blind: pd.DataFrame) -> pd.DataFrame:
    """Model x dimension and mean of `grounded`, and below the models what never looking has: floor and best blind."""
    table = dimension_means(scores, GROUNDED, counts["model"])
    return pd.concat([table, blind_means(blind, GROUNDED)]).rename_axis("model")


def repeat_table(scores: pd.DataFrame) -> pd.DataFrame:
    """Of the models that were asked repeatedly: the spread of the headline scores within an example (std), and pass@k,
    as means of the dimensions that were run. Without rows and columns where there are no such models."""
    names = repeat_scores(scores.columns)
    table = pd.DataFrame({name: dimension_means(scores, name)[list(NAMES)].mean(axis=1) for name in names})
    return table.dropna(how="all").rename_axis("model")


def kind_table(kinds: pd.DataFrame) -> pd.DataFrame:
    """Model x diagnosis, over all dimensions: the examples of each kind that there is any of, and with each flag."""
    counts = kinds.groupby("model")[[*KINDS, *FLAGS]].sum(min_count=1)
    counts = counts.loc[model_order(counts.index), counts.fillna(0).sum() > 0]
    return counts.rename(columns={flag: flag.replace("_", " ") for flag in FLAGS}).astype(object).fillna("-")


def improvement(
    means: pd.DataFrame, baseline: str, unlike: Collection[tuple[str, str]] = ()
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(points, percent) by which each row lies above the baseline's. The percent of a baseline of 0 are empty, and of
    what was not asked alike (`unlike_settings`), its mean included: they would be taken for what a training gained.

    Raises LeapError where `baseline` is not among the models.
    """
    if baseline not in means.index:
        raise LeapError(f"baseline {baseline!r} is not among the models: {', '.join(means.index)}")
    reference = means.loc[baseline]
    points = means - reference
    percent = points / reference.where(reference != 0) * 100
    for model, dimension in unlike:
        percent.loc[percent.index == model, [dimension, MEAN]] = float("nan")
    return points, percent


def metric_table(scores: pd.DataFrame, counts: pd.DataFrame, blind: pd.DataFrame) -> pd.DataFrame:
    """Model x metric, the mean of the dimensions that were run (how many stands in the column "dimensions"), with the
    floors of the two headline scores, and what became of the examples of all of them. Refusals, filtered and empty
    answers, ids as text and names have columns where there are any."""
    by_metric = {name: dimension_means(scores, score, counts["model"]) for name, score in _METRICS.items()}
    table = pd.DataFrame({name: means[list(NAMES)].mean(axis=1) for name, means in by_metric.items()})
    for name in ("grounded", "total"):
        floors = blind.groupby("model")[f"floor_{_METRICS[name]}"].agg(lambda found: found.mean(skipna=False))
        table.insert(table.columns.get_loc(name) + 1, f"{name}_floor", floors.reindex(table.index))
    table["dimensions"] = by_metric["total"][list(NAMES)].notna().sum(axis=1)
    rare = (*NO_PLAN, *WRITTEN)
    failures = counts.groupby("model")[[*_FAILURES, *rare]].sum(min_count=1)
    return table.join(failures.drop(columns=[name for name in rare if not failures[name].fillna(0).any()]))


def print_table(table: pd.DataFrame, title: str, console: Console | None = None) -> None:
    """A table on the screen; an empty cell is "-", never 0, and an incomplete model has an asterisk.

    Columns that a terminal is too narrow for come below, again with the names. These take up to half of it, and are
    folded where they are longer; a number is never cut.
    """
    console = console or new_console()
    names, *columns = map(list, zip(*_cells(table), strict=True))
    console.print(Text(title, "italic"))
    room = console.width - 1 - min(_width(names), console.width // 2)
    for part in _parts(columns, room):
        shown = Table(box=SIMPLE_HEAD)
        shown.add_column(_heading(names[0]), overflow="fold")
        for column in part:
            shown.add_column(_heading(column[0]), justify="right", no_wrap=_width(column) <= room, overflow="fold")
        for row in zip(names[1:], *(column[1:] for column in part), strict=True):
            shown.add_row(*map(Text, row))
        console.print(shown)
    if _incomplete(table).any():
        console.print(Text(_NOTE, "dim italic"))


def _heading(name: str) -> Text:
    return Text(name.replace("_", "\n"))


def _parts(columns: list[list[str]], room: int) -> list[list[list[str]]]:
    """The columns in as many tables as the room beside the names asks for."""
    parts: list[list[list[str]]] = [[]]
    left = room
    for column in columns:
        if _width(column) > left and parts[-1]:
            parts.append([])
            left = room
        parts[-1].append(column)
        left -= _width(column)
    return parts


def _width(column: list[str]) -> int:
    """Characters on the screen, with the three between two columns."""
    heading, *cells = column
    return max(map(cell_len, [*heading.split("_"), *cells])) + 3


def write_tables(tables: dict[str, pd.DataFrame], folder: Path, note: str = "") -> list[Path]:
    """Each table as <name>.csv (exact numbers) and <name>.md (two decimals, with the note below)."""
    written = []
    for name, table in tables.items():
        for path, text in (
            (folder / f"{name}.csv", csv_text(table, index=True)),
            (folder / f"{name}.md", markdown_table(table) + (f"\n{markdown_text(note)}\n" if note else "")),
        ):
            write_atomic(path, text)
            written.append(path)
    return written


def markdown_table(table: pd.DataFrame) -> str:
    """A Markdown table with two decimals; an incomplete model has an asterisk and a note."""
    header, *rows = _cells(table)
    lines = markdown_lines(header, [False, *[True] * len(table.columns)], rows)
    return lines + f"\n\\{_NOTE}\n" if _incomplete(table).any() else lines


def _cells(table: pd.DataFrame) -> list[list[str]]:
    """The header and the rows, as text."""
    names = [f"{model} *" if marked else str(model) for model, marked in _incomplete(table).items()]
    columns = [[_cell(value, str(column)) for value in table[column]] for column in table.columns]
    return [[table.index.name or "model", *map(str, table.columns)], *map(list, zip(names, *columns, strict=True))]


def _cell(value: float, column: str) -> str:
    if pd.isna(value):
        return "-"
    if column in ("p", "p_holm") and isinstance(value, float):
        return rounded(value)
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _incomplete(table: pd.DataFrame) -> pd.Series:
    """Whether a model (row) has examples without a score."""
    columns = [column for column in ("unscored", "inference_error", "missing") if column in table.columns]
    return (table[columns] > 0).fillna(False).any(axis=1)
