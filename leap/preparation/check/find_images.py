"""Where images are: each looked up once, without opening it."""

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from leap.data.image import resolve_image
from leap.errors import LeapError
from leap.preparation.check.image_facts import Status


@dataclass(frozen=True)
class FoundImages:
    """Where images are."""

    files: list[str] = field(default_factory=list)  # "" for one that is not there
    status: dict[str, Status] = field(default_factory=dict)  # of these files
    missing: dict[int, str] = field(default_factory=dict)  # why, by the place of the image


def find_images(images: Sequence[str], roots: Sequence[Path]) -> FoundImages:
    """Look every image up, without opening it. 150,000 take about two seconds on a local disk."""
    folders = [str(root) for root in roots]
    found = FoundImages()
    for index, image in enumerate(images):
        try:
            file, status = _find(image, folders)
        except LeapError as error:
            file = ""
            found.missing[index] = str(error)
        except OSError as error:
            file = ""
            found.missing[index] = f"image {image}: cannot be reached ({error.strerror})"
        else:
            found.status[file] = status.st_size, status.st_mtime_ns
        found.files.append(file)
    return found


def _find(image: str, folders: Sequence[str]) -> tuple[str, os.stat_result]:
    """The one file that the path means. In the common case that is one look at each root."""
    candidates = []
    for file in [image] if os.path.isabs(image) else [os.path.join(folder, image) for folder in folders]:
        try:
            status = os.stat(file)
        except (OSError, ValueError):  # resolve_image says what is wrong
            continue
        if stat.S_ISREG(status.st_mode):
            candidates.append((file, status))
    if len(candidates) == 1:
        return candidates[0]
    file = str(resolve_image(image, [Path(folder) for folder in folders]))
    return file, os.stat(file)
