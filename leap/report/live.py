"""What an evaluation and a re-scoring print at their end."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from leap.console import new_console
from leap.evaluation.rescore import Rescored
from leap.evaluation.result_folder import DimensionResult
from leap.report.results import NO_PLAN, ids_as_text_notes, read_blind, read_counts, read_scores
from leap.report.results_summary import write_summary
from leap.report.tables import (
    GROUNDED_TITLE,
    REPEATS_TITLE,
    grounded_table,
    metric_table,
    print_table,
    repeat_table,
    total_table,
)
from leap.report.unfinished import unfinished_note
from leap.terminal import shown
from leap.vlabench.sources import Scorer


def print_results(finished: Sequence[DimensionResult], results: Path) -> bool:
    """Tables of the models just evaluated; False, after saying so, where an example has no score."""
    models = list(dict.fromkeys(result.folder.name for result in finished))
    scores, counts, blind = read_scores(results, models), read_counts(results, models), read_blind(results, models)
    console = new_console()
    print_table(total_table(scores, counts, None), "Total score (official, at most 80)", console)
    print_table(grounded_table(scores, counts, blind), GROUNDED_TITLE, console)
    print_table(metric_table(scores, counts, blind), "Mean of the dimensions (at most 100; total at most 80)", console)
    if len(repeated := repeat_table(scores)):
        print_table(repeated, REPEATS_TITLE, console)
    unscored = {f"{r.dimension}/{r.folder.name}": r.counts for r in finished if not r.counts.complete}
    for name, count in unscored.items():
        console.print(
            f"INCOMPLETE {name}: {count.inference_error} inference errors, {count.missing} missing of {count.examples};"
            " unscored, not zero. The same command tries them again.",
            style="bold red",
            markup=False,
        )
    for note in filter(None, [unfinished_note(results, models), *ids_as_text_notes(scores, counts)]):
        console.print(note, markup=False)
    write_summary(results)
    print(f"results in {results}/<dimension>/<model>/, all of them in {results}/summary.md")
    return not unscored


def print_rescored(rescored: Sequence[Rescored], scorer: Scorer) -> None:
    """A line a folder: its mean total now and as it was stored, and every example whose official scores changed."""
    console = new_console()
    apart = [name for name in NO_PLAN if any(getattr(found.counts, name) for found in rescored)]
    names = ("scored", "format_error", *apart, "inference_error", "missing")
    rows = {
        shown("/".join(found.folder.parts[-2:])): {
            **{name: getattr(found.counts, name) for name in names},
            "total": found.total,
            "stored": found.stored_total,
        }
        for found in rescored
    }
    table = pd.DataFrame.from_dict(rows, orient="index").astype({"total": float, "stored": float})
    table["gain"] = table["total"] - table["stored"]
    print_table(table, f"Scored again by {scorer.name}'s scorer", console)
    for found in rescored:
        if found.changed:
            some = ", ".join(found.changed[:5]) + (" …" if len(found.changed) > 5 else "")
            console.print(f"{found.folder}: {len(found.changed)} examples have other scores now: {some}", markup=False)
