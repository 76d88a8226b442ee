"""What a check of the benchmark's files prints."""

import json
from itertools import groupby
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table

from leap.console import new_console
from leap.preparation.check.benchmark_check import Finding, Verification
from leap.terminal import in_one_line

_SHOWN = 20  # findings on the screen


def print_verification(found: Verification, restore_file: Path | None, as_json: bool) -> None:
    """A table of the tasks and the findings, or all of it as one JSON object."""
    if as_json:
        quarantined = str(restore_file) if restore_file else None
        print(json.dumps({**found.to_dict(), "restore_file": quarantined}, ensure_ascii=False))
        return
    new_console().print(_table(found), crop=False)
    notes = [finding for finding in found.findings if finding.note]
    _list("PROBLEM", found.problems)
    _list("note", notes)
    if restore_file:
        print(f"moved {len(found.broken())} examples; --restore {restore_file} puts them back")
    print(f"{len(found.problems)} problems, {len(notes)} notes in {found.root}; completeness: {_completeness(found)}")


def _completeness(found: Verification) -> str:
    if found.completeness == "unknown":
        return "unknown (scripts/download/download_vlabench_with_retry.py keeps the listing to compare with)"
    return found.completeness


def _table(found: Verification) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in ("dimension", "task", "examples", "broken", "notes"):
        table.add_column(column, justify="left" if column in ("dimension", "task") else "right")
    for dimension, tasks in groupby(found.counts(), key=lambda task: task["dimension"]):
        rows = list(tasks)
        for row in rows:
            style = "bold red" if row["broken"] or not row["examples"] else None
            table.add_row(*(str(value) for value in row.values()), style=style)
        sums = (str(sum(row[column] for row in rows)) for column in ("examples", "broken", "notes"))
        table.add_row(dimension, f"{len(rows)} tasks", *sums, style="bold", end_section=True)
    return table


def _list(title: str, findings: list[Finding]) -> None:
    for finding in findings[:_SHOWN]:
        place = "/".join(str(part) for part in finding[:3] if part is not None)
        print(in_one_line(f"{title}  {place}: {finding.kind}: {finding.reason}"))
    if len(findings) > _SHOWN:
        print(f"{title}  and {len(findings) - _SHOWN} more; --json has them all")
