"""Download VLABench's VLM data set into dataset/vlm_evaluation_v1.0, and check every byte.

    python scripts/download/download_vlabench_with_retry.py
    python scripts/download/download_vlabench_with_retry.py --dimensions "M&T" CommonSense --max_workers 4
    python scripts/download/download_vlabench_with_retry.py --dry_run

Stop it whenever you like: the same command goes on from there. HF_ENDPOINT chooses the hub; with a token (HF_TOKEN or
hf auth login) the hub allows more requests.
"""

import leap.interrupt  # noqa: F401  (before what takes time)
from configs.config import WorkspaceConfig
from leap.cli import Parser, run


def main() -> None:
    from leap.hub.download import add_retry_flags, download, log, named, retry_policy_of

    workspace = WorkspaceConfig.find()
    parser = Parser(__doc__)
    add, find = parser.add_argument, workspace.resolve
    add("--dimensions", nargs="+", default=["all"], help="any spelling, or all (default)")
    add("--revision", help="a branch, a tag or a commit (default: the main branch)")
    add("--local_dir", type=find, help="the folder (default: dataset/vlm_evaluation_v1.0)")
    add_retry_flags(parser)
    arguments = parser.parse_args()

    from leap.hub.client import find_hub
    from leap.hub.file_listing import Repository
    from leap.vlabench.dimensions import find_dimensions
    from leap.vlabench.examples import dimension_of

    wanted = [dimension.name for dimension in find_dimensions(arguments.dimensions)]
    repository = Repository(workspace.benchmark_repository, "dataset", arguments.revision)
    folder = arguments.local_dir or workspace.vlm_evaluation
    choice = named("dimension", dimension_of, wanted)
    policy = retry_policy_of(arguments)
    download(find_hub(log), repository, folder, choice, policy, arguments.dry_run)


if __name__ == "__main__":
    run(main)
