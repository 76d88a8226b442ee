"""The first frame of every episode of LOVE-Agibot-Beta, data/images/<task>-<episode>.png, without extracting anything.

    python scripts/utils/prepare_love_agibot.py --num_workers 4
    python scripts/utils/prepare_love_agibot.py --tasks 327 328 --dry_run
    python scripts/utils/prepare_love_agibot.py --archives /somewhere/image --output /elsewhere/images

Reads data/love_agibot/image/task_<task>.tar.gz, whose members are named <episode>/<frame>.jpg (or .png), with anything
before that; of an episode the first name counts, in natural order: 2.jpg comes before 10.jpg. The pixels are the
frame's, to the last bit. Each archive is checked to its end: gzip's checksum and length, and the SHA-256 that the hub
names where it was downloaded by `hf download --local-dir`. Only then its images appear. An archive that is broken,
hostile (links, names with "..", bombs) or of another layout gives none; the others go on, and the exit code is 1.

Stop it at any time: what is ready is staged in data/images/.first_frames, and the same command continues. A finished
archive is not read again as long as it and its images are as they were.
"""

import leap.interrupt  # noqa: F401  (before what takes time)
from configs.config import WorkspaceConfig
from leap.cli import FAILED, Parser, run, some_workers


def main() -> int | None:
    workspace = WorkspaceConfig.find()
    parser = Parser(__doc__)
    add, find = parser.add_argument, workspace.resolve
    add("--num_workers", type=some_workers, default=4, help="processes, an archive each")
    add("--archives", type=find, default=workspace.love_agibot / "image", help="folder")
    add("--output", type=find, default=workspace.images, help="folder of the images")
    add("--tasks", nargs="+", metavar="ID", help="only these (default: every archive in the folder)")
    add("--dry_run", action="store_true", help="say what there is to do, and do nothing")
    arguments = parser.parse_args()

    from leap.preparation.agibot.archive_tasks import Outcome, find_archives, prepare, survey
    from leap.report.frames import print_outcomes

    archives = find_archives(arguments.archives, arguments.tasks)
    images = arguments.output
    if arguments.dry_run:
        print_outcomes(survey(archives, images))
        return None
    outcomes: list[Outcome] = []
    try:
        prepare(archives, images, arguments.num_workers, outcomes)
    finally:
        whole = print_outcomes(outcomes)
    print(f"images in {images}")
    return None if whole else FAILED


if __name__ == "__main__":
    run(main)
