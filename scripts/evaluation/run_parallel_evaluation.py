"""Evaluate models on all GPUs of this machine, or of a Ray cluster: run_vlm_evaluation.py with its requests shared out.

    python scripts/evaluation/run_parallel_evaluation.py --batch_mode --max_checkpoints 8
    python scripts/evaluation/run_parallel_evaluation.py --checkpoint output/checkpoint-200 output/checkpoint-400
    python scripts/evaluation/run_parallel_evaluation.py --gpus 0,1 --dimension "M&T" Complex -- --few_shot_num 1
    python scripts/evaluation/run_parallel_evaluation.py --batch_mode --ray_address auto

Takes every flag of run_vlm_evaluation.py, before or behind --. Several models are asked at once where Ray is installed
(pip install -c constraints.txt -e ".[jobs]"), else one after the other. Exit code 1 if any failed; the same command
continues what is not finished.
"""

import os
import runpy
import shlex
import sys

import leap.interrupt  # noqa: F401  (before what takes time)
from configs.config import WorkspaceConfig
from leap.cli import Parser, count, run
from leap.errors import UsageError


def main() -> None:
    script = WorkspaceConfig.find().repository / "scripts" / "evaluation" / "run_vlm_evaluation.py"
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--gpus", help="names as in CUDA_VISIBLE_DEVICES: 0,1 (default: all visible); none for the CPU")
    add("--jobs", type=count, help="models at once (default: one a GPU, one without a GPU)")
    add("--ray_address", help="a Ray cluster: auto (this node's) or HOST:PORT (default: this machine alone)")
    add("--dry_run", action="store_true", help="print the command and stop")
    arguments, words = parser.parse_known_args([word for word in sys.argv[1:] if word != "--"])

    from leap.hardware import chosen_gpus
    from leap.jobs.job_runner import ray_flags

    if arguments.gpus and arguments.ray_address:
        raise UsageError("--gpus names those of this machine; --ray_address shares out all of a cluster")
    gpus = chosen_gpus(arguments.gpus)
    words += ray_flags(arguments.ray_address, gpus, arguments.jobs)
    if arguments.dry_run:
        print(shlex.join([sys.executable, str(script), *words]))
        return
    if arguments.gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    sys.argv = [str(script), *words]
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    run(main)
