"""Download LEAP's training data into data/, checkpoints into output/, LOVE-Agibot archives into data/love_agibot/.

    python scripts/download/download_leap_data.py
    python scripts/download/download_leap_data.py --checkpoints 5000 7000
    python scripts/download/download_leap_data.py --love_agibot --tasks 327 352
    python scripts/download/download_leap_data.py --love_agibot --tasks all --dry_run

Without --checkpoints and --love_agibot it is the training data; --data brings that beside them. Every byte is checked,
and a second run brings only what is missing.
"""

import leap.interrupt  # noqa: F401  (before what takes time)
from configs.config import WorkspaceConfig
from leap.cli import Parser, run


def main() -> None:
    from leap.hub.download import add_retry_flags, download, everything, log, named, numbered, retry_policy_of

    parser = Parser(__doc__)
    add = parser.add_argument
    add("--data", action="store_true", help="the training data, beside what else is named")
    add("--checkpoints", nargs="+", metavar="STEP", help="published checkpoints: steps, or all")
    add("--love_agibot", action="store_true", help="archives of images; --tasks says which")
    add("--tasks", nargs="+", metavar="NUMBER", help="tasks of LOVE-Agibot-Beta, or all")
    add_retry_flags(parser)
    arguments = parser.parse_args()

    from leap.data.image import IMAGES_ARCHIVE
    from leap.errors import UsageError
    from leap.hub.client import find_hub
    from leap.hub.file_listing import Repository

    if arguments.love_agibot != bool(arguments.tasks):
        raise UsageError("--love_agibot and --tasks go together: --love_agibot --tasks 327 352, or --tasks all")
    policy, workspace, hub = retry_policy_of(arguments), WorkspaceConfig.find(), find_hub(log)
    with_data = arguments.data or not (arguments.checkpoints or arguments.love_agibot)
    if with_data:
        data = Repository(workspace.data_repository, "dataset")
        download(hub, data, workspace.data, everything, policy, arguments.dry_run)
    if arguments.checkpoints:
        checkpoints = Repository(workspace.checkpoints_repository, "model")
        choice = named("checkpoint", numbered("checkpoint-([0-9]+)/"), arguments.checkpoints)
        download(hub, checkpoints, workspace.output, choice, policy, arguments.dry_run)
    if arguments.love_agibot:
        archives = Repository(workspace.love_agibot_repository, "dataset")
        choice = named("task", numbered(r"(?:image/task_|json/output_)([0-9]+)\.(?:tar\.gz|json)$"), arguments.tasks)
        download(hub, archives, workspace.love_agibot, choice, policy, arguments.dry_run)
    packed = workspace.data / IMAGES_ARCHIVE
    if with_data and packed.is_file() and not arguments.dry_run:
        from leap.preparation.agibot.image_archive import unpack_images

        unpack_images(packed, workspace.images)


if __name__ == "__main__":
    run(main)
