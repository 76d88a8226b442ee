"""Tables and figures of the stored results: model x dimension, metrics, improvement over the baseline, training curves.

    python scripts/evaluation/draw_evaluation_results.py
    python scripts/evaluation/draw_evaluation_results.py --models Baseline checkpoint-200 checkpoint-5000
    python scripts/evaluation/draw_evaluation_results.py --figure diagnosis --format pdf
    python scripts/evaluation/draw_evaluation_results.py --baseline checkpoint-200 --output_dir logs/figures
    python scripts/evaluation/draw_evaluation_results.py --select_on grounded

No model is needed. What was not evaluated stays empty; it is never counted as 0.
"""

import argparse

import leap.interrupt  # noqa: F401  (before what takes time)
from configs.config import WorkspaceConfig
from leap.cli import FIGURE_FORMATS, Parser, run, seed
from leap.errors import UsageError
from leap.terminal import shown


def parse_arguments(workspace: WorkspaceConfig) -> argparse.Namespace:
    parser = Parser(__doc__)
    add, find = parser.add_argument, workspace.resolve
    add("--results_dir", type=find, default=workspace.eva_results, help="<dimension>/<model>/final_score.json lie here")
    add("--output_dir", type=find, help="where tables and figures go (default: figures/ in the results)")
    add("--baseline", type=shown, help="the model that the others are compared with (default: Baseline)")
    add("--figure", nargs="+", metavar="NAME", help="only these figures, such as diagnosis (default: all)")
    add("--format", nargs="+", choices=FIGURE_FORMATS, default=["png", "svg"], help="of the figures (default: png svg)")
    add("--models", nargs="+", type=shown, metavar="MODEL", help="only these models (default: all that have results)")
    add(
        "--run_dir",
        type=find,
        default=workspace.output,
        help="the training run whose newest checkpoint's loss is drawn",
    )
    add(
        "--select_on",
        metavar="SCORE",
        help="choose each run's best checkpoint by it on half of the examples, and score",
    )
    add("--select_seed", type=seed, default=0, help="draws that half, of each task alike")
    return parser.parse_args()


def chosen_figures(wanted: list[str] | None, known: tuple[str, ...]) -> tuple[str, ...]:
    if unknown := [name for name in wanted or [] if name not in known]:
        raise UsageError(f"--figure {unknown[0]}: there is no such figure; choose from {', '.join(known)}")
    return tuple(wanted or known)


def main() -> None:
    workspace = WorkspaceConfig.find()
    arguments = parse_arguments(workspace)

    from leap.report.figures import FIGURES, Evaluation, draw_figures
    from leap.report.results import BLIND, chosen_baseline, chosen_models, result_notes, unlike_settings

    names = chosen_figures(arguments.figure, FIGURES)
    results, run_dir = arguments.results_dir, arguments.run_dir
    output = arguments.output_dir or results / "figures"
    models = chosen_models(results, arguments.models)
    baseline = chosen_baseline(arguments.baseline, models)

    from leap.report.curves import read_loss
    from leap.report.results_summary import SIGNIFICANT, write_summary
    from leap.report.selection import select_checkpoints, selection_notes
    from leap.report.tables import (
        REPEATS_TITLE,
        grounded_table,
        metric_table,
        print_table,
        repeat_table,
        total_table,
        write_tables,
    )

    evaluation = Evaluation.of_results(results, models, baseline)
    scores, counts, blind = evaluation.scores, evaluation.counts, evaluation.blind
    tables = {
        "scores": total_table(scores, counts, baseline, evaluation.unlike),
        "grounded": grounded_table(scores, counts, blind),
    }
    tables["metrics"] = metric_table(scores, counts, blind)
    print_table(tables["scores"], "Total score (official, at most 80)")
    for score, summary in write_summary(results, baseline or "").items():
        shown_rows = summary.loc[[*models, *(row for row in summary.index if row in BLIND)]]
        print_table(shown_rows, f"{score} [95 % interval]; {SIGNIFICANT} differs from the baseline (summary.md: how)")
    print_table(tables["metrics"], "Mean of the dimensions (at most 100; total at most 80)")
    if len(repeated := repeat_table(scores)):
        tables["repeats"] = repeated
        print_table(repeated, REPEATS_TITLE)
    if arguments.select_on:
        on, unlike = arguments.select_on, unlike_settings(results, models, baseline)
        tables["selection"] = select_checkpoints(scores, on, baseline, unlike, arguments.select_seed)
        print_table(tables["selection"], f"Chosen by {on} on one half of the examples, scored on the other")
    notes = result_notes(results, models, baseline, scores, counts, arguments.models)
    for note in [*notes, *([] if arguments.select_on else selection_notes(scores))]:
        print(note)
    loss = read_loss(run_dir)
    if loss is None:
        print(f"{run_dir}: no checkpoint with a log there, so no training loss is drawn (--run_dir names another run)")
    drawn = draw_figures(evaluation, loss, output, names, arguments.format)
    for path in [*write_tables(tables, output, evaluation.note), *drawn]:
        print(path)


if __name__ == "__main__":
    run(main)
