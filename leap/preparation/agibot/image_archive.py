"""The archive of images that the published samples come with, images.tar.gz, unpacked into the folder of images.

It streams by as an archive of frames does, with the same promises: it is checked to its end before any image appears,
a kill at any moment is gone on from, nothing of a broken or hostile one stays, and nobody's image is replaced.
"""

import os
import shutil
from pathlib import Path, PurePosixPath
from typing import ClassVar

from rich.filesize import decimal

from leap.errors import LeapError
from leap.preparation.agibot.archive_tasks import Archive, Outcome, Reader, prepare, survey
from leap.preparation.agibot.archives import DOWNLOAD_AGAIN, ArchiveError, GzipStream, read_members
from leap.preparation.agibot.first_frames import MAX_FRAME
from leap.preparation.agibot.frame_store import ImageStore
from leap.preparation.check.orphans import IMAGE_NAMES
from leap.records.files import is_file
from leap.records.litter import is_data

_FOLDER = "images"  # above the images in the archive, and the folder that samples name them in
_MAX_NAME, _MAX_PATH = 255, 1024  # letters of a part, and of a whole name


class ImagesArchive(Archive):
    """An archive of whole images."""

    lost: ClassVar = "images not unpacked", "image"

    def store(self, images: Path) -> ImageStore:
        return ImageStore(images, f"archive_{self.task}")

    def reader(self, store: ImageStore) -> Reader:
        return _AllImages(store)


class _AllImages:
    """Every image of an archive, in whatever folder above images/ it was packed."""

    def __init__(self, store: ImageStore) -> None:
        self._store = store
        self._names: dict[str, str] = {}  # and as which member of the archive

    def __len__(self) -> int:
        return len(self._names)

    def take_all(self, stream: GzipStream) -> None:
        for member in read_members(stream):
            if not is_data(member.name) or os.path.splitext(member.name)[1].casefold() not in IMAGE_NAMES:
                continue
            name = _name_of(stream, member.name)
            data = stream.content(member, MAX_FRAME)
            if self._names.setdefault(name, member.name) != member.name:
                raise ArchiveError(
                    f"{stream.path}: {self._names[name]!r} and {member.name!r} would both become "
                    f"{_FOLDER}/{name}; unpack it by hand"
                )
            self._store.settle(name, member.name, data)
        if not self._names:
            raise ArchiveError(f"{stream.path}: no images in it; {DOWNLOAD_AGAIN}")
        for name in self._names:
            if above := next((str(part) for part in PurePosixPath(name).parents if str(part) in self._names), None):
                raise ArchiveError(f"{stream.path}: {above!r} is an image, and has {name!r} in it; {DOWNLOAD_AGAIN}")


def _name_of(stream: GzipStream, path: str) -> str:
    """An image's name in the folder of images. Raises ArchiveError where it lies in another folder, or has none."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if not path.isprintable() or len(path) > _MAX_PATH or any(len(part.encode()) > _MAX_NAME for part in parts):
        raise ArchiveError(f"{stream.path}: {path[:80]!r} is no name for an image; {DOWNLOAD_AGAIN}")
    if _FOLDER not in parts[:-1] and len(parts) > 1:
        raise ArchiveError(
            f"{stream.path}: {path!r} lies in no {_FOLDER}/ folder, so where samples look for it is not known; "
            "unpack it by hand"
        )
    return "/".join(parts[parts.index(_FOLDER) + 1 :] if _FOLDER in parts[:-1] else parts)


def unpack_images(path: Path, images: Path, dry_run: bool = False) -> None:
    """Put every image of an archive into `images`, and say so. What is there with the same content stays as it is.

    Raises LeapError where there is no archive or no room, where it is broken or hostile, and where an image's place is
    taken (once all others are in theirs); Stopped and KeyboardInterrupt as `prepare` does.
    """
    if not is_file(path):
        raise LeapError(
            f"{path}: there is no such archive; download it (python scripts/download/download_leap_data.py)"
        )
    archive = ImagesArchive(path.name, path, path.stat().st_size)
    (found,) = survey([archive], images)
    if found.state == "to do" and not found.problem:
        _refuse_small_disk(archive, images)
    if dry_run:
        print(f"{path}: {found.state}; {decimal(archive.size)} into {images}")
        return
    outcomes: list[Outcome] = []
    prepare([archive], images, 1, outcomes, ("unpacking images", "images"))
    (found,) = outcomes
    print(f"{images}: {found.episodes:,} images of {path}, {found.made:,} of them new")
    if found.state == "failed":
        raise LeapError(str(found.problem))


def _refuse_small_disk(archive: ImagesArchive, images: Path) -> None:
    there = next(folder for folder in (images, *images.parents) if folder.is_dir())
    free = shutil.disk_usage(there).free
    if archive.size > free:  # images hardly shrink in an archive
        raise LeapError(f"{images}: about {decimal(archive.size)} are needed, and {decimal(free)} of the disk are free")
