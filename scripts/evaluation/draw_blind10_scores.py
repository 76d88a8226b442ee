"""Figures of a blind review: final scores, criteria, improvement over the baseline, agreement, pairs.

    python scripts/evaluation/draw_blind10_scores.py
    python scripts/evaluation/draw_blind10_scores.py --baseline checkpoint-200 --output_dir logs/figures
    python scripts/evaluation/draw_blind10_scores.py --scores eva_results/blind_10/blind10_score_20261125_120000.csv

Takes the newest blind10_score_<time>.csv. The baseline is chosen by its name. What is unscored is left out, never 0.
"""

import argparse

import leap.interrupt  # noqa: F401  (before what takes time)
from configs.config import WorkspaceConfig
from leap.cli import FIGURE_FORMATS, Parser, run
from leap.errors import LeapError


def parse_arguments(workspace: WorkspaceConfig) -> argparse.Namespace:
    parser = Parser(__doc__)
    add, find = parser.add_argument, workspace.resolve
    add("--scores", type=find, help="a table of scores (default: the newest in --save_dir)")
    add("--save_dir", type=find, default=workspace.blind_10, help="where the tables lie")
    add("--baseline", help="the model that the others are compared with (default: Baseline)")
    add("--format", nargs="+", choices=FIGURE_FORMATS, default=["png", "svg"], help="of the figures (default: png svg)")
    add("--output_dir", type=find, help="where figures go (default: figures/ in --save_dir)")
    return parser.parse_args()


def main() -> None:
    workspace = WorkspaceConfig.find()
    arguments = parse_arguments(workspace)

    from leap.judge.review_files import SCORES, find_newest, find_pairs, read_pairs, read_scores
    from leap.report.results import chosen_baseline

    folder = arguments.save_dir
    path = arguments.scores or find_newest(folder, SCORES)
    if path is None:
        raise LeapError(f"{folder}: no {SCORES}_<time>.csv; run scripts/evaluation/analyze_output_results.py first")
    scores, pairs = read_scores(path), find_pairs(path)
    baseline = chosen_baseline(arguments.baseline, list(scores["model_name"].unique()))

    from leap.report.review_figures import ReviewFigures, draw_review

    figures = ReviewFigures(scores, read_pairs(pairs) if pairs else None, baseline)
    output = arguments.output_dir or folder / "figures"
    for drawn in draw_review(figures, output, arguments.format):
        print(drawn)


if __name__ == "__main__":
    run(main)
