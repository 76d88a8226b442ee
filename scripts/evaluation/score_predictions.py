"""Score stored answers again, without a model: after a change of scorer, or to see what lenient parsing would give.

    python scripts/evaluation/score_predictions.py eva_results
    python scripts/evaluation/score_predictions.py eva_results/Spatial/checkpoint-200 --scorer vlabench
    python scripts/evaluation/score_predictions.py eva_results --parse lenient

Reads predictions.jsonl, and the output.json of LEAP's first version too. Lenient scores are written to
final_score_lenient.json and never replace the official ones.
"""

import leap.interrupt  # noqa: F401  (before what takes time)
from configs.config import WorkspaceConfig
from leap.cli import Parser, run
from leap.vlabench.sources import SOURCES


def main() -> None:
    workspace = WorkspaceConfig.find()
    parser = Parser(__doc__)
    add, find = parser.add_argument, workspace.resolve
    add("folders", type=find, nargs="+", help="result folders, or folders above them")
    add("--data_path", type=workspace.find_data, default=workspace.vlm_evaluation, help="the benchmark's folder")
    add("--scorer", choices=SOURCES, default="auto", help="auto: the submodule's if checked out")
    add("--parse", choices=("official", "lenient"), default="official", help="how answers are read")
    arguments = parser.parse_args()

    from leap.evaluation.rescore import find_stored, rescore
    from leap.progress import track
    from leap.report.live import print_rescored
    from leap.vlabench.sources import choose_scorer

    scorer = choose_scorer(arguments.scorer, workspace.vlabench)
    data = arguments.data_path
    folders = find_stored(arguments.folders)
    print_rescored([rescore(folder, data, scorer, arguments.parse) for folder in track(folders, "scoring")], scorer)


if __name__ == "__main__":
    run(main)
