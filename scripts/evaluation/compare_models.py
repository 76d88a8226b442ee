"""Is model A better than model B? A paired comparison on the examples that both have.

    python scripts/evaluation/compare_models.py checkpoint-5000 Baseline
    python scripts/evaluation/compare_models.py checkpoint-5000 checkpoint-5000_swapped --score grounded
    python scripts/evaluation/compare_models.py checkpoint-5000_T0.7 Baseline_T0.7 --score pass@4

Prints and writes <results>/comparisons/A_vs_B.{json,csv,md}: for each dimension and their mean the difference with its
95 % interval, a permutation p-value with Holm's correction over the dimensions, Cohen's d_z and the number of pairs;
then the examples that A is right on and B is not, with both diagnoses, and how many of which kind became which.
"""

import re

import leap.interrupt  # noqa: F401  (before what takes time)
from configs.config import WorkspaceConfig
from leap.cli import Parser, run, seed
from leap.errors import LeapError, UsageError
from leap.terminal import shown
from leap.vlabench.grounding import SCORE_KEYS


def main() -> None:
    workspace = WorkspaceConfig.find()
    parser = Parser(__doc__)
    add, find = parser.add_argument, workspace.resolve
    add("model", type=shown, help="A: a model's name in the results")
    add("baseline", type=shown, help="B: the model that it is compared with")
    add("--results_dir", type=find, default=workspace.eva_results, help="the folder of results")
    add("--score", default="total_score", help=f"of which score: {', '.join(SCORE_KEYS)}, or pass@K of repeats")
    add("--seed", type=seed, default=0, help="of the resampling and the permutations")
    arguments = parser.parse_args()
    if arguments.model == arguments.baseline:
        raise UsageError(f"{arguments.model} is to be compared with itself: name two models")
    if arguments.score not in SCORE_KEYS and not re.fullmatch(r"pass@[1-9][0-9]{0,3}", arguments.score):
        raise UsageError(f"--score {arguments.score}: choose from {', '.join(SCORE_KEYS)}, pass@K")

    from leap.report.changed_examples import read_changes
    from leap.report.comparison_page import print_changes, print_comparison, write_comparison
    from leap.report.results import read_scores, unlike_settings, unlike_settings_note, without_verdicts
    from leap.report.tables import repeat_table
    from leap.report.unfinished import unfinished_note
    from leap.statistics.comparison import compare

    results = arguments.results_dir
    models, scores = [arguments.model, arguments.baseline], read_scores(results)
    unfinished = unfinished_note(results, models)
    if unfinished and not {*models} <= {*scores["model"]}:
        raise LeapError(unfinished)
    unlike = unlike_settings(results, models, arguments.baseline)
    table = without_verdicts(compare(scores, *models, arguments.score, arguments.seed), unlike)
    note = "; ".join(filter(None, [unlike_settings_note(results, models, arguments.baseline), unfinished]))
    repeated = repeat_table(scores[scores["model"].isin(models)])
    print_comparison(table, arguments.score, note, repeated)
    changes = read_changes(results, *models)
    print_changes(changes)
    for path in write_comparison(table, changes, results / "comparisons", arguments.score, note, repeated):
        print(path)


if __name__ == "__main__":
    run(main)
