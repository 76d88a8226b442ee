"""Unpack the images that LEAP's published samples come with, data/images.tar.gz, into data/images/.

    python scripts/utils/unpack_images.py
    python scripts/utils/unpack_images.py --archive /somewhere/images.tar.gz --output /elsewhere/images

download_leap_data.py does so itself; this is for an archive that came another way. It is checked to its end (gzip's
checksum and length, and the hub's SHA-256 where a download noted it) before any image appears; a broken or hostile one
gives none. An image that is there with other content stays, is named, and the exit code is 1. Stop it at any time: the
same command continues. The archive is kept, since the next download would fetch it again.
"""

import leap.interrupt  # noqa: F401  (before what takes time)
from configs.config import WorkspaceConfig
from leap.cli import Parser, run


def main() -> None:
    workspace = WorkspaceConfig.find()
    parser = Parser(__doc__)
    add, find = parser.add_argument, workspace.resolve
    add("--archive", type=find, default=workspace.data / "images.tar.gz", help="the archive")
    add("--output", type=find, default=workspace.images, help="folder of the images")
    add("--dry_run", action="store_true", help="say what there is to do, and do nothing")
    arguments = parser.parse_args()

    from leap.preparation.agibot.image_archive import unpack_images

    archive, output = arguments.archive, arguments.output
    unpack_images(archive, output, arguments.dry_run)


if __name__ == "__main__":
    run(main)
