"""Are the images of the training files there and whole? Nothing is moved, unless --quarantine moves the bad ones away.

    python scripts/utils/check_and_clean_images.py
    python scripts/utils/check_and_clean_images.py --file data/train_151230.jsonl --no_decode
    python scripts/utils/check_and_clean_images.py --quarantine
    python scripts/utils/check_and_clean_images.py --restore data/quarantine/20260131T120000Z/restore.json

Looks for missing and corrupt images, for samples that cannot be read, for images that no file of samples names (in
images/, or with --image_root in its folders that hold the samples' images), and writes the tasks that lack an image
named <task>-<episode> to missing_task_ids.txt in the data folder. What any JSONL or JSON file of the data folder names,
or one in the workspace's own folder or beside the checked files, is no such orphan.
--quarantine (or --delete, which deletes nothing) moves corrupt images and orphans to quarantine/ in the data folder, or
in an image root outside of it, and --restore brings them back.
With --dry_run nothing is written either.
Every image is decoded once; a later check decodes only those whose size or time of change differs.
Exit code 0: every sample can be trained on. 1: not so, or broken off.
"""

import os
from pathlib import Path

import leap.interrupt  # noqa: F401  (before what takes time)
from configs.config import WorkspaceConfig
from leap.cli import FAILED, Parser, run
from leap.errors import UsageError


def main() -> int | None:
    workspace = WorkspaceConfig.find()
    parser = Parser(__doc__)
    add, find = parser.add_argument, workspace.resolve
    add("--data_dir", type=find, default=workspace.data, help="the folder of images/")
    add("--file", type=find, nargs="+", default=[], help="the training files (default: each JSONL file in it)")
    add(
        "--image_root",
        type=find,
        help="where relative paths start (default: the workspace, --data_dir, each file's folder)",
    )
    add("--no_decode", action="store_true", help="only look whether they are there")
    add(*("--quarantine", "--delete", "--no_dry_run"), action="store_true", help="move corrupt ones and orphans there")
    add("--dry_run", action="store_true", help="write nothing, no report and no missing_task_ids.txt")
    add("--keep_orphans", action="store_true", help="leave those alone that no sample names")
    add("--restore", type=find, metavar="FILE", help="put back what a restore file names, and do nothing else")
    arguments = parser.parse_args()
    if (arguments.restore is not None) + arguments.quarantine + arguments.dry_run > 1:
        raise UsageError(
            "--restore, --quarantine (--delete, --no_dry_run) and --dry_run exclude each other: give one of them"
        )

    from leap.preparation.check.orphans import Places
    from leap.preparation.check.quarantine_images import Cleaning, clean_images
    from leap.records.quarantine import restore

    if arguments.restore:
        print(f"restored {restore(arguments.restore):,}")
        return None
    data, files = Path(os.path.abspath(arguments.data_dir)), tuple(arguments.file)
    if not data.is_dir():
        raise UsageError(f"--data_dir {data}: there is no such folder")
    root = arguments.image_root.resolve() if arguments.image_root else None
    if root and not root.is_dir():
        raise UsageError(f"--image_root {root}: there is no such folder")
    work = Cleaning(
        Places(workspace.root, data, root),
        files,
        (root,) if root else tuple(dict.fromkeys((workspace.root, data, *(file.parent for file in files)))),
        workspace.cache,
        decode=not arguments.no_decode,
        write=not arguments.dry_run,
        move=arguments.quarantine,
        keep_orphans=arguments.keep_orphans,
    )
    return None if clean_images(work) else FAILED


if __name__ == "__main__":
    run(main)
