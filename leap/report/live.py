"""What an evaluation prints at its end."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from leap.evaluation.run import DimensionResult
from leap.report.results import read_counts, read_scores
from leap.report.tables import metric_table, print_table, total_table


def print_results(finished: Sequence[DimensionResult], results: Path) -> bool:
    """Tables of the models just evaluated; False, after saying so, where an example has no score."""
    models = list(dict.fromkeys(result.folder.name for result in finished))
    scores, counts = read_scores(results, models), read_counts(results, models)
    console = Console()
    print_table(total_table(scores, counts, None), "Total score (official, at most 80)", console)
    print_table(metric_table(scores, counts), "Mean of the dimensions (at most 100; total at most 80)", console)
    unscored = {f"{r.dimension}/{r.folder.name}": r.counts for r in finished if not r.counts.complete}
    for name, count in unscored.items():
        console.print(
            f"INCOMPLETE {name}: {count.inference_error} inference errors, {count.missing} missing of {count.examples};"
            " unscored, not zero. The same command tries them again.",
            style="bold red",
            markup=False,
        )
    console.print(f"results in {results}/<dimension>/<model>/", highlight=False, markup=False)
    return not unscored
