"""Evaluate models and dimensions in parallel, one job a GPU, each a call of run_vlm_evaluation.py.

    python scripts/evaluation/run_parallel_evaluation.py --batch_mode --max_checkpoints 8
    python scripts/evaluation/run_parallel_evaluation.py --checkpoint output/checkpoint-200 output/checkpoint-400
    python scripts/evaluation/run_parallel_evaluation.py --gpus 0,1 --dimension "M&T" Complex -- --few_shot_num 1

Several jobs run at once where Ray is installed (pip install -c constraints.txt -e ".[jobs]"), else one after the other.
What stands behind -- goes to every call. Logs and PID files lie under logs/. Exit code 1 if any job failed; the same
command continues what is not finished.
"""

import argparse
import shlex
import sys
from pathlib import Path

import leap.interrupt  # noqa: F401  (before what takes time)
from configs.config import WorkspaceConfig
from leap.cli import FAILED, Parser, count, count_or_all, run
from leap.errors import UsageError
from leap.models.fetching import fetch_models
from leap.models.image_size import ChosenSize, choose_size, read_size_flags, size_flags

_SPLITS = ("models", "dimensions", "auto")  # auto: older commands have it, and mean the default


def parse_arguments(workspace: WorkspaceConfig, words: list[str]) -> argparse.Namespace:
    parser = Parser(__doc__)
    add, find, model = parser.add_argument, workspace.resolve, workspace.find_model
    add(
        "--checkpoint",
        "--model_path",
        dest="models",
        type=model,
        nargs="+",
        help="model folders, or OWNER/NAME[@REVISION][:SUBFOLDER] on the hub (default: the baseline)",
    )
    add("--dimension", nargs="+", default=["all"], help="one or several in any spelling, all, or baseline")
    add("--batch_mode", action="store_true", help="the baseline and every checkpoint of --checkpoints_dir")
    add("--baseline_model", type=model, default=workspace.base_model, help="its results are named Baseline")
    add("--checkpoints_dir", type=find, default=workspace.output, help="for --batch_mode")
    add("--max_checkpoints", type=count_or_all, help="only the newest N checkpoints, or None")
    add("--skip_baseline", action="store_true", help="for --batch_mode")
    add("--split", choices=_SPLITS, default="models", help="one job a model (default), or a model and dimension")
    add("--jobs", type=count, help="jobs at once (default: one a GPU, one without a GPU)")
    add("--gpus", help="names as in CUDA_VISIBLE_DEVICES: 0,1 (default: all visible); none for the CPU")
    add("--dry_run", action="store_true", help="print the commands and stop")
    return parser.parse_args(words)


def _refuse_contradictions(arguments: argparse.Namespace) -> None:
    if "baseline" in arguments.dimension and (
        arguments.dimension != ["baseline"] or arguments.models or arguments.batch_mode
    ):
        raise UsageError("--dimension baseline evaluates the baseline on all dimensions; give it no model and no other")
    if arguments.batch_mode and arguments.models:
        raise UsageError("--batch_mode takes the baseline and all checkpoints; give it no --checkpoint")
    if not arguments.batch_mode and (arguments.skip_baseline or arguments.max_checkpoints):
        raise UsageError("--skip_baseline and --max_checkpoints go with --batch_mode")


def _image_size(workspace: WorkspaceConfig, folders: list[Path], baseline: Path, options: list[str]) -> ChosenSize:
    """What one call for all models would take, so that no job takes another."""
    parser = Parser(None, add_help=False)
    parser.add_argument("--base_model_path", type=workspace.find_model)
    found = parser.parse_known_args(options)[0]
    fetch_models(found, workspace.root)
    base = found.base_model_path
    given = read_size_flags(options)
    return choose_size(given, workspace.image_size, folders, baseline, workspace.root, base)


def main() -> int | None:
    workspace = WorkspaceConfig.find()
    words = sys.argv[1:]
    end = words.index("--") if "--" in words else len(words)
    arguments, options = parse_arguments(workspace, words[:end]), words[end + 1 :]
    _refuse_contradictions(arguments)

    from leap.evaluation.model_names import chosen_models
    from leap.evaluation.sweep import evaluation_jobs, named_models
    from leap.hardware import chosen_gpus
    from leap.jobs.job_runner import run_jobs, slots_for
    from leap.jobs.show import print_outcome
    from leap.vlabench.dimensions import find_dimensions

    fetch_models(arguments, workspace.root)
    baseline = arguments.baseline_model
    if arguments.batch_mode:
        first = None if arguments.skip_baseline else baseline
        folders = chosen_models(first, arguments.checkpoints_dir, arguments.max_checkpoints)
    else:
        folders = arguments.models or [baseline]
    models = named_models(folders, baseline, workspace.output)
    dimensions = find_dimensions(["all"] if arguments.dimension == ["baseline"] else arguments.dimension)
    gpus = chosen_gpus(arguments.gpus)
    slots = slots_for(gpus, arguments.jobs)
    script = workspace.repository / "scripts" / "evaluation" / "run_vlm_evaluation.py"
    size = _image_size(workspace, folders, baseline, options)
    asked = [*size_flags(size.tokens), *options] if len(folders) > 1 else options
    jobs = evaluation_jobs(script, models, dimensions, baseline, arguments.split, asked)
    if arguments.dry_run:
        print("\n".join(shlex.join(job.command) for job in jobs))
        return None
    print(size)
    if len(jobs) < slots:
        print(f"{len(jobs)} job(s) for {slots} places: a model is loaded once (--split dimensions: once a dimension)")
    print("how far it is: python scripts/utils/monitor_evaluation.py")
    return None if print_outcome(run_jobs(jobs, workspace.logs, gpus, arguments.jobs)) else FAILED


if __name__ == "__main__":
    run(main)
