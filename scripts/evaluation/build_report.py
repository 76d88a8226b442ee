"""The results as a page to browse: leaderboard, figures, and every example with its images, plans and what went wrong.

    python scripts/evaluation/build_report.py
    python scripts/evaluation/build_report.py --models Baseline checkpoint-200 checkpoint-200_swapped
    python scripts/evaluation/build_report.py --results_dir eva_results --output_dir site/report

Writes one folder, by default report/ in the results. Open its index.html from disk, or put the folder on any static web
host: no server, no network and no model is needed. The same results make the same page.
"""

import argparse
import tempfile
from pathlib import Path

import leap.interrupt  # noqa: F401  (before what takes time)
from configs.config import WorkspaceConfig
from leap.cli import Parser, run
from leap.terminal import shown

_NOTES = 10  # printed; the page has all


def parse_arguments(workspace: WorkspaceConfig) -> argparse.Namespace:
    parser = Parser(__doc__)
    add, find = parser.add_argument, workspace.resolve
    add("--results_dir", type=find, default=workspace.eva_results, help="<dimension>/<model>/final_score.json lie here")
    add("--output_dir", type=find, help="the folder to write (default: report/ in the results)")
    add("--models", nargs="+", type=shown, metavar="MODEL", help="only these models (default: all that have results)")
    add("--baseline", type=shown, help="the model that the others are compared with (default: Baseline)")
    add(
        "--data_dir",
        type=workspace.find_data,
        default=workspace.vlm_evaluation,
        help="the benchmark: images and references",
    )
    add("--review_dir", type=find, help="the tables of a blind review (default: blind_10/ in the results)")
    add("--run_dir", type=find, default=workspace.output, help="the training run whose loss is drawn")
    add("--inspect_log", action="store_true", help="write inspect_ai's logs too, into inspect_log/ in the results")
    return parser.parse_args()


def main() -> None:
    workspace = WorkspaceConfig.find()
    arguments = parse_arguments(workspace)

    from rich.filesize import decimal

    from leap.report.page.build_page import Sources, build
    from leap.report.page.drawn_figures import draw_all
    from leap.report.page.inspect_log import require_inspect, write_inspect_logs
    from leap.report.results import chosen_baseline, chosen_models

    if arguments.inspect_log:
        require_inspect()
    results = arguments.results_dir
    models = chosen_models(results, arguments.models)
    baseline = chosen_baseline(arguments.baseline, models)
    review = arguments.review_dir or results / "blind_10"
    with tempfile.TemporaryDirectory(prefix="leap-report-") as drawn:
        figures = draw_all(results, models, baseline, review, arguments.run_dir, Path(drawn))
        sources = Sources(results, arguments.data_dir, review, workspace.root, models, baseline, figures)
        built = build(sources, arguments.output_dir or results / "report")
    for note in built.notes[:_NOTES]:
        print(note)
    if len(built.notes) > _NOTES:
        print(f"and {len(built.notes) - _NOTES} more that was not found: see the page")
    if arguments.inspect_log:
        folder = results / "inspect_log"
        logs = write_inspect_logs(results, arguments.data_dir, models, built.page.parent, folder)
        print(f"{len(logs)} logs: inspect view --log-dir {folder}")
    print(f"{built.page}: {len(models)} models, {built.examples} examples, {decimal(built.size)}")


if __name__ == "__main__":
    run(main)
