"""Download a model from the hub into models/<its name>, and check every byte; a second run brings only what is missing.

    bash scripts/download/download_model.sh
    bash scripts/download/download_model.sh Qwen/Qwen2.5-VL-3B-Instruct --revision main
    python scripts/download/download_model.py --dry_run

HF_ENDPOINT chooses the hub, HF_TOKEN opens private and gated models.
"""

import leap.interrupt  # noqa: F401  (before what takes time)
from configs.config import WorkspaceConfig
from leap.cli import Parser, run


def main() -> None:
    workspace = WorkspaceConfig.find()
    from leap.hub.download import add_retry_flags, download, everything, log, retry_policy_of

    parser = Parser(__doc__)
    add, find = parser.add_argument, workspace.resolve
    add("repository", nargs="?", default=workspace.base_model_repository, help="OWNER/NAME")
    add("--revision", help="a branch, a tag or a commit (default: the main branch)")
    add("--local_dir", type=find, help="the folder (default: models/NAME)")
    add_retry_flags(parser)
    arguments = parser.parse_args()

    from leap.hub.client import find_hub
    from leap.hub.file_listing import Repository

    folder = arguments.local_dir or workspace.models / arguments.repository.rpartition("/")[2]
    wanted = Repository(arguments.repository, "model", arguments.revision)
    policy = retry_policy_of(arguments)
    download(find_hub(log), wanted, folder, everything, policy, arguments.dry_run)


if __name__ == "__main__":
    run(main)
