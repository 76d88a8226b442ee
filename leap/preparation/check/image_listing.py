"""Where images are: looked up one by one, or in folders that are listed once and remembered."""

import os
import stat
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from leap.data.image import resolve_image
from leap.errors import LeapError
from leap.preparation.check.image_facts import Status
from leap.records.litter import is_data


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


def folded(name: str) -> str:
    """The same for names that a Mac or Windows does not tell apart."""
    return unicodedata.normalize("NFC", name).casefold()


class Listing:
    """Which files folders hold, each folder listed once: 150,000 looks at single files take long on a network disk."""

    def __init__(self) -> None:
        self._folders: dict[str, dict[str, bool]] = {}  # by path: the names in it, and whether each is a link
        self._folded: dict[str, dict[str, str]] = {}  # by path: the names in it by how they are folded
        self._real: dict[str, str] = {}  # by path of a folder: the same without links

    def names(self, folder: str) -> dict[str, bool]:
        """The files of a folder, each with whether it is a link; none where there is no such folder."""
        if folder not in self._folders:
            found: dict[str, bool] = {}
            self._folders[folder] = found
            with suppress(OSError, ValueError), os.scandir(folder) as entries:
                found.update(
                    (entry.name, entry.is_symlink()) for entry in entries if is_data(entry.name) and entry.is_file()
                )
        return self._folders[folder]

    def folders(self, image: str, roots: Sequence[str]) -> list[str]:
        """Where an image may lie that is named so: under each of the roots, or where its absolute path says."""
        head = image.rpartition("/")[0]
        return [head or "/"] if image.startswith("/") else [f"{root}/{head}" if head else root for root in roots]

    def find(self, image: str, roots: Sequence[str]) -> str | None:
        """The one file that a sample's image means, as `resolve_image` finds it, which raises for none and several."""
        name = image.rpartition("/")[2]
        found = [folder for folder in self.folders(image, roots) if name in self.names(folder)]
        return f"{found[0]}/{name}" if len(found) == 1 else None

    def alike(self, image: str, roots: Sequence[str]) -> str | None:
        """A file that is there under the same name but for case, or for how its accents are written (NFC, NFD)."""
        for folder in self.folders(image, roots):
            if folder not in self._folded:
                self._folded[folder] = {folded(name): name for name in self.names(folder)}
            if name := self._folded[folder].get(folded(image.rpartition("/")[2])):
                return f"{folder}/{name}"
        return None

    def real_names(self, path: str) -> list[str]:
        """What a file is called without links in its folder's path, and what it points to if it is a link itself."""
        folder, _, name = path.rpartition("/")
        if folder not in self._real:
            self._real[folder] = os.path.realpath(folder)
        names = [f"{self._real[folder]}/{name}"]
        return [*names, os.path.realpath(path)] if self.names(folder).get(name) else names
