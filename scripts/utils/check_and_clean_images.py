"""Are the pictures of the training files there and whole? A dry run, unless --delete moves the bad ones away.

    python scripts/utils/check_and_clean_images.py
    python scripts/utils/check_and_clean_images.py --file data/train_151230.jsonl --no-decode
    python scripts/utils/check_and_clean_images.py --delete
    python scripts/utils/check_and_clean_images.py --restore data/trash/20260131T120000Z/restore.json

Looks for missing and corrupt pictures, for rows that cannot be read, for pictures that no file of samples names (in
images/, or with --image_root in its folders that hold the rows' pictures), and writes the tasks that lack a picture
named <task>-<episode> to missing_task_ids.txt in the data folder. What any JSONL or JSON file of the data folder names,
or one beside the checked files, is no such orphan.
--delete deletes nothing: corrupt pictures and orphans go to trash/ in the data folder, or in an image root outside of
it, and --restore brings them back.
Every picture is decoded once; a later check decodes only those whose size or time of change differs.
Exit code 0: every row can be trained on. 1: not so, or broken off.
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
    parser.add_argument("--data-dir", default=workspace.data, help="the folder of images/ (default %(default)s)")
    parser.add_argument("--file", nargs="+", default=[], help="the training files (default: each JSONL file in it)")
    parser.add_argument("--image_root", help="where relative paths start (default: the workspace, then --data-dir)")
    parser.add_argument("--no-decode", action="store_true", help="only look whether they are there")
    parser.add_argument("--delete", "--no-dry-run", action="store_true", help="move corrupt ones and orphans to trash/")
    parser.add_argument("--keep-orphans", action="store_true", help="leave those alone that no row names")
    parser.add_argument("--restore", metavar="FILE", help="put back what a restore file names, and do nothing else")
    arguments = parser.parse_args()
    if arguments.restore and arguments.delete:
        raise UsageError("--restore puts back what --delete moved away: give one of them")

    from leap.data.orphans import Places
    from leap.data.picture_cleaning import Cleaning, clean_pictures
    from leap.records.set_aside import restore

    if arguments.restore:
        print(f"restored {restore(workspace.resolve(arguments.restore)):,}")
        return None
    data = Path(os.path.abspath(workspace.resolve(arguments.data_dir)))
    if not data.is_dir():
        raise UsageError(f"--data-dir {data}: there is no such folder")
    root = workspace.resolve(arguments.image_root).resolve() if arguments.image_root else None
    if root and not root.is_dir():
        raise UsageError(f"--image_root {root}: there is no such folder")
    work = Cleaning(
        Places(workspace.root, data, root),
        tuple(workspace.resolve(file) for file in arguments.file),
        (root,) if root else (workspace.root, data),
        workspace.cache,
        decode=not arguments.no_decode,
        delete=arguments.delete,
        keep_orphans=arguments.keep_orphans,
    )
    return None if clean_pictures(work) else FAILED


if __name__ == "__main__":
    run(main)
