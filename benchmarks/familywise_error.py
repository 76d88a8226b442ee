"""How often a table has a dagger where nothing differs, and how often one where something does.

    python benchmarks/familywise_error.py --tables 1000
    python benchmarks/familywise_error.py --tables 100 --examples_per_task 250

Sweeps: 1, 5 and 35 checkpoints and a baseline on six dimensions of 3 tasks of 8 examples (250: as many in all as the
whole benchmark has), all scores drawn from the same distribution given the example, so that whatever is called
significant is an error; tested as `compare_all` does.
Ablation: full fine-tuning and 4 presets with 3 seeds each, runs that scatter by one point as a whole and by one and a
half more on a dimension; tested as the report does. Power: the same where one checkpoint (of 35, or the only one), or
full fine-tuning, is truly better by 5 points in all dimensions. For comparison the errors before: Holm's correction
within each checkpoint at 0.05, and an ablation that tests pairs of examples of one run each. Writes
familywise_error.json, with another number of examples a task behind the name.
"""

import math
from pathlib import Path

import installed  # noqa: F401
import numpy as np
import pandas as pd
from statistics_speed import origin

from leap.cli import Parser, count, run
from leap.progress import track
from leap.records.json_files import write_json
from leap.statistics.comparison import ALPHA, holm, paired_permutation, run_verdicts, verdicts
from leap.statistics.means import MEAN
from leap.vlabench.dimensions import NAMES

REPOSITORY = Path(__file__).resolve().parent.parent
SWEEPS, SEEDS, PRESETS, TASKS, EXAMPLES, POINTS = (1, 5, 35), 3, 4, 3, 8, 5.0  # EXAMPLES of a task
RUN_STD, DIMENSION_STD = 1.0, 1.5  # points by which runs of one method scatter


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument(
        "--tables", type=count, default=1000, help="simulated tables of each kind (default %(default)s)"
    )
    parser.add_argument("--examples_per_task", type=count, default=EXAMPLES, help="default %(default)s")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "benchmarks" / "results", help="folder to write to")
    arguments = parser.parse_args()
    where = origin()
    examples = arguments.examples_per_task
    found = simulate(arguments.tables, examples=examples)
    for name, value in found.items():
        print(f"{name}: {value}")
    parts = {"benchmark": "familywise_error", "ours": found[f"sweep_{SWEEPS[-1]}"], "unit": "% of tables with an error"}
    shape = {"tables": arguments.tables, "tasks": TASKS, "examples_per_task": examples, "seeds": SEEDS}
    name = "familywise_error" if examples == EXAMPLES else f"familywise_error_{examples}"
    write_json(arguments.output / f"{name}.json", {**parts, **where, "settings": shape, "parts": found})


def simulate(tables: int, sweeps: tuple[int, ...] = SWEEPS, examples: int = EXAMPLES) -> dict[str, float]:
    """Percent of tables with any wrong dagger, by kind; and with the right one, for a difference of `POINTS`."""
    found: dict[str, list[bool]] = {}
    for seed in track(range(tables), "simulating"):
        rng = np.random.default_rng(seed)
        for models in sweeps:
            tested = verdicts(sweep(rng, models, examples), seed)
            found.setdefault(f"sweep_{models}", []).append(bool(tested["significant"].any()))
            found.setdefault(f"sweep_{models}_before", []).append(any_before(tested))
        for models in dict.fromkeys((sweeps[0], sweeps[-1])):
            better = verdicts(sweep(rng, models, examples, POINTS), seed).set_index(["model", "dimension"])
            found.setdefault(f"power_sweep_{models}_mean", []).append(bool(better.loc[("m1", MEAN), "significant"]))
        for gain, kind in ((0.0, f"ablation_{SEEDS}_seeds"), (POINTS, f"power_ablation_{SEEDS}_seeds_mean")):
            tested = run_verdicts(ablation(rng, gain), "full")
            mean = tested["dimension"] == MEAN
            found.setdefault(kind, []).append(bool(tested.loc[mean if gain else slice(None), "significant"].any()))
        found.setdefault("ablation_one_seed_before", []).append(one_seed_before(rng, seed))
    return {name: round(100 * float(np.mean(values)), 1) for name, values in found.items()}


def sweep(rng: np.random.Generator, models: int, examples: int = EXAMPLES, gain: float = 0.0) -> pd.DataFrame:
    """Differences from the baseline, a column a checkpoint: scores in {0, 20, 40, 60, 80}, harder and easier examples;
    the first checkpoint's are higher by `gain` points in the mean."""
    index = pd.MultiIndex.from_product([NAMES, range(TASKS), range(examples)], names=["dimension", "task", "example"])
    ease = rng.beta(1, 1.5, size=len(index)) * (1 - POINTS / 80)
    drawn = 20.0 * rng.binomial(4, ease[:, None], size=(len(index), models + 1))
    drawn[:, 1] = 20.0 * rng.binomial(4, ease + gain / 80)
    columns = [f"m{number}" for number in range(1, models + 1)]
    return pd.DataFrame(drawn[:, 1:] - drawn[:, :1], index, columns)


def any_before(tested: pd.DataFrame) -> bool:
    """Whether Holm within each checkpoint, and its mean by itself, find anything at 0.05 in the same p-values."""
    mean = tested["dimension"] == MEAN
    by_model = tested[~mean].groupby("model")["p"].agg(lambda p: holm(p).min())
    return bool((by_model < ALPHA).any() or (tested.loc[mean, "p"] < ALPHA).any())


def ablation(rng: np.random.Generator, gain: float = 0.0) -> dict[str, pd.DataFrame]:
    """Scores of runs, `SEEDS` a method; full fine-tuning's are higher by `gain`."""
    runs = {}
    for method in ("full", *(f"preset {number}" for number in range(PRESETS))):
        scattered = rng.normal(0, RUN_STD, (SEEDS, 1)) + rng.normal(0, DIMENSION_STD, (SEEDS, len(NAMES)))
        table = pd.DataFrame(45 + scattered + (gain if method == "full" else 0.0), columns=list(NAMES))
        runs[method] = table.assign(**{MEAN: table.mean(axis=1)})
    return runs


def one_seed_before(rng: np.random.Generator, seed: int) -> bool:
    """Whether the paired test of examples calls two methods different that are alike but for one point of their seeds,
    on a whole benchmark of 4,500 examples whose scores two models share for the most part."""
    spread = rng.normal(0, RUN_STD * math.sqrt(2))
    return paired_permutation(spread + rng.normal(0, 20, 4500), np.zeros(4500), 1000, seed) < ALPHA


if __name__ == "__main__":
    run(main)
