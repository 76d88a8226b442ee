"""How fast one core computes the statistics, and how fast it scores plans.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python benchmarks/statistics_speed.py

Statistics: seconds for `summarise` and `compare_all` of 50 models on six dimensions of 400 examples (8 tasks of 50).
Scoring: plans a second on the golden vectors through `plan_scores`, and through `official_scores` alone. A figure is
the median of the timed windows, which follow one that is not timed. Writes statistics-cpu.json and scoring-cpu.json.
"""

import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import installed  # noqa: F401
import numpy as np
import pandas as pd

from leap.cli import Parser, count, run
from leap.provenance import command, device_name, git_state, versions
from leap.records.json_files import write_json
from leap.statistics.comparison import PERMUTATIONS, compare_all
from leap.statistics.intervals import RESAMPLES
from leap.statistics.means import summarise
from leap.vlabench.dimensions import NAMES
from leap.vlabench.golden import decode_dependency, load_golden
from leap.vlabench.scoring import official_scores, plan_scores

REPOSITORY = Path(__file__).resolve().parent.parent
GOLDEN = "tests/data/golden/scoring_public.jsonl"
MODELS, TASKS, EXAMPLES, PASSES = 50, 8, 50, 10


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--windows", type=count, default=5, help="timed windows of each figure (default %(default)s)")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "benchmarks" / "results", help="folder to write to")
    arguments = parser.parse_args()
    where = origin()  # before a result is written, which would make the checkout differ from its commit
    measured = {"statistics": time_statistics(arguments.windows), "scoring": time_scoring(arguments.windows)}
    for name, found in measured.items():
        print(f"{name}: {found['ours']:,.2f} {found['unit']} {found['parts']}")
        write_json(arguments.output / f"{name}-cpu.json", {"benchmark": name, **where, **found})


def time_statistics(windows: int) -> dict[str, Any]:
    scores = random_scores()
    summary = [timed(partial(summarise, scores)) for _ in range(windows + 1)][1:]
    comparison = [timed(partial(compare_all, scores, "model-0")) for _ in range(windows + 1)][1:]
    together = [sum(pair) for pair in zip(summary, comparison, strict=True)]
    shape = {"models": MODELS, "dimensions": len(NAMES), "tasks": TASKS, "examples_per_task": EXAMPLES}
    return {
        "settings": {**shape, "resamples": RESAMPLES, "permutations": PERMUTATIONS, **threads()},
        "ours": middle(together),
        "unit": "seconds",
        "parts": {"summarise": middle(summary), "compare_all": middle(comparison)},
        "windows": [round(seconds, 3) for seconds in together],
    }


def time_scoring(windows: int) -> dict[str, Any]:
    cases = [
        (case["reference"], case["prediction"], decode_dependency(case["dependency"]))
        for case in load_golden(REPOSITORY / GOLDEN)
    ]
    rates = {}
    for score in (plan_scores, official_scores):
        seconds = [timed(partial(score_all, score, cases)) for _ in range(windows + 1)][1:]
        rates[score.__name__] = [round(PASSES * len(cases) / window) for window in seconds]
    return {
        "settings": {"plans": len(cases), "passes_per_window": PASSES, "golden": GOLDEN, **threads()},
        "ours": statistics.median(rates["plan_scores"]),
        "unit": "plans per second",
        "parts": {name: statistics.median(figures) for name, figures in rates.items()},
        "windows": rates["plan_scores"],
    }


def score_all(score: Callable[[Any, Any, Any], Any], cases: list[tuple[Any, Any, Any]]) -> None:
    for _ in range(PASSES):
        for case in cases:
            score(*case)


def random_scores() -> pd.DataFrame:
    """A table as leap.report.results.read_scores makes it."""
    index = pd.MultiIndex.from_product(
        [[f"model-{n}" for n in range(MODELS)], NAMES, [f"task-{n}" for n in range(TASKS)], map(str, range(EXAMPLES))],
        names=["model", "dimension", "task", "example"],
    )
    scores = np.random.default_rng(0).choice([0.0, 20.0, 40.0, 60.0, 80.0], len(index))
    return index.to_frame(index=False).assign(total_score=scores)


def timed(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def middle(seconds: list[float]) -> float:
    return round(statistics.median(seconds), 3)


def threads() -> dict[str, str | None]:
    return {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}


def origin() -> dict[str, Any]:
    """Where the figures come from: the machine, the libraries, the code and the command."""
    libraries = {**versions(), "pandas": pd.__version__}
    return {"device": device_name("cpu"), "versions": libraries, **git_state(REPOSITORY), "command": command()}


if __name__ == "__main__":
    run(main)
