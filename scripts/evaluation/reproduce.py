"""What reproduce.sh takes, and what came out: LEAP's scores beside the published ones.

    python scripts/evaluation/reproduce.py --check
    python scripts/evaluation/reproduce.py

Without --check: the table with intervals, and reproduction.json beside the results, to send to whoever wants to know.
"""

import leap.interrupt  # noqa: F401  (before what takes time)
from configs.config import WorkspaceConfig
from leap.cli import Parser, run

MEASURED = "benchmarks/results/evaluation_throughput_hf-NVIDIA-H100-80GB-HBM3.json"


def main() -> None:
    workspace = WorkspaceConfig.find()
    parser = Parser(__doc__)
    parser.add_argument(
        "--check", action="store_true", help="only say what is to be downloaded, the disk and the hours"
    )
    if parser.parse_args().check:
        _check(workspace)
        return

    from leap.report.reproduction import print_reproduction, write_reproduction

    results = workspace.eva_results / "reproduction"
    print_reproduction(results)
    print(f"{write_reproduction(results, workspace.repository)}: to send; it says nothing of who made it, or where")


def _check(workspace: WorkspaceConfig) -> None:
    from leap.hub.client import find_hub
    from leap.hub.download import everything, log, named, numbered
    from leap.hub.file_listing import Repository
    from leap.hub.reproduction_needs import needs
    from leap.vlabench.dimensions import NAMES
    from leap.vlabench.examples import dimension_of

    dimensions, step = named("dimension", dimension_of, NAMES), numbered("checkpoint-([0-9]+)/")
    wanted = [
        (Repository(workspace.base_model_repository, "model"), workspace.base_model, everything),
        (Repository(workspace.benchmark_repository, "dataset"), workspace.vlm_evaluation, dimensions),
        (Repository(workspace.checkpoints_repository, "model"), workspace.output, named("checkpoint", step, ["5000"])),
    ]
    print(needs(find_hub(log), wanted, workspace.root, workspace.repository / MEASURED))


if __name__ == "__main__":
    run(main)
