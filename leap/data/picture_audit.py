"""A data folder's pictures against the rows that name them: missing, corrupt and left over ones, incomplete tasks."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from leap.data.picture_facts import PictureStore
from leap.data.pictures import resolve_picture
from leap.errors import LeapError
from leap.progress import track
from leap.records.files import first_problem, read_lines
from leap.records.litter import is_data, walk
from leap.records.training import TrainingRow

PICTURE_NAMES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})
_EPISODE = re.compile(r"(\d+)-(\d+)")  # <task>-<episode>, the name of a LOVE-Agibot picture


class Named(NamedTuple):
    """A picture as the rows name it."""

    place: str  # file:line of the first row with it
    rows: int  # how many have it

    def __str__(self) -> str:
        return f"{self.place}, rows with it: {self.rows}"


@dataclass
class Audit:
    """What a check of a data folder found."""

    files: list[Path]
    rows: int = 0
    pictures: int = 0  # that the rows name
    missing: dict[str, str] = field(default_factory=dict)  # by the name in the rows: where, and why
    corrupt: dict[str, str] = field(default_factory=dict)  # by the file's path, why
    orphans: list[str] = field(default_factory=list)  # files in images/ that no row names
    invalid: dict[str, str] = field(default_factory=dict)  # by file:line, why a row cannot be read
    decoded: int = 0  # pictures that were decoded now and not known already

    @property
    def problems(self) -> int:
        """What keeps the rows from being trained on; orphans do not."""
        return len(self.missing) + len(self.corrupt) + len(self.invalid)

    def incomplete_tasks(self) -> list[int]:
        """Tasks of which a picture named <task>-<episode> is missing or corrupt."""
        names = (Path(picture).stem for picture in (*self.missing, *self.corrupt))
        return sorted({int(match[1]) for name in names if (match := _EPISODE.fullmatch(name))})

    def to_dict(self) -> dict[str, Any]:
        return {
            "files": [str(file) for file in self.files],
            "rows": self.rows,
            "pictures": self.pictures,
            "decoded": self.decoded,
            "missing": self.missing,
            "corrupt": self.corrupt,
            "orphans": self.orphans,
            "invalid_rows": self.invalid,
            "incomplete_tasks": self.incomplete_tasks(),
        }


class Listing:
    """Which files folders hold, each folder listed once: 150,000 looks at single files take long on a network disk."""

    def __init__(self) -> None:
        self._folders: dict[str, dict[str, bool]] = {}  # by path: the names in it, and whether each is a link
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

    def find(self, picture: str, roots: Sequence[str]) -> str | None:
        """The one file that a row's picture means, as `resolve_picture` finds it, which raises for none and several."""
        head, _, name = picture.rpartition("/")
        folders = [head or "/"] if picture.startswith("/") else [f"{root}/{head}" if head else root for root in roots]
        found = [folder for folder in folders if name in self.names(folder)]
        return f"{found[0]}/{name}" if len(found) == 1 else None

    def real_names(self, path: str) -> list[str]:
        """What a file is called without links in its folder's path, and what it points to if it is a link itself."""
        folder, _, name = path.rpartition("/")
        if folder not in self._real:
            self._real[folder] = os.path.realpath(folder)
        names = [f"{self._real[folder]}/{name}"]
        return [*names, os.path.realpath(path)] if self.names(folder).get(name) else names


def audit_pictures(
    data: Path,
    files: Sequence[Path],
    roots: Sequence[Path],
    store: PictureStore | None,
    others: Sequence[Path] = (),
) -> Audit:
    """Check the pictures that `files` name, and those in images/ of the data folder. Without a store none is decoded.

    What `others` name is no orphan; nothing else is asked of those files. Without any file nothing can be missing or
    left over: then the pictures are decoded, and that is all.
    """
    audit = Audit(list(files))
    named, listing = read_names(files, audit), Listing()
    found = find_named(named, roots, listing, audit)
    images = list(_pictures_under(data / "images", listing))
    if files:
        ignored = Audit([])
        kept = find_named(read_names(others, ignored), roots, listing, ignored)
        used = {real for path in (*found, *kept) for real in listing.real_names(path)}
        audit.orphans = [path for path in images if used.isdisjoint(listing.real_names(path))]
    if store:
        _note_corrupt(store, found, images, audit)
    return audit


def _note_corrupt(store: PictureStore, found: dict[str, Named], images: Sequence[str], audit: Audit) -> None:
    looked = store.look([*found, *images])
    audit.decoded = looked.decoded
    for path, why in looked.broken.items():
        audit.corrupt[path] = f"{why} ({found[path]})" if path in found else why


def read_names(files: Sequence[Path], audit: Audit) -> dict[str, Named]:
    """Every picture that a row names, in the order of their first use; rows that cannot be read are noted."""
    named: dict[str, Named] = {}
    for file in files:
        for number, line in track(read_lines(file), f"reading {file.name}"):
            try:
                row = TrainingRow.model_validate_json(line)
            except ValidationError as error:
                audit.invalid[f"{file}:{number}"] = first_problem(error)
                continue
            audit.rows += 1
            for picture in row.images():
                place, rows = named.get(picture, (f"{file}:{number}", 0))
                named[picture] = Named(place, rows + 1)
    audit.pictures = len(named)
    return named


def find_named(named: dict[str, Named], roots: Sequence[Path], listing: Listing, audit: Audit) -> dict[str, Named]:
    """The pictures that are there, by their files; the others are noted as missing."""
    folders = [str(root) for root in roots]
    found: dict[str, Named] = {}
    for picture, where in named.items():
        path = listing.find(picture, folders)
        if path is None:
            try:
                path = str(resolve_picture(picture, roots))
            except (LeapError, OSError, ValueError) as error:  # the latter: a name that no file can have
                audit.missing[picture] = f"{where}: {error}"
                continue
        found[path] = where
    return found


def _pictures_under(folder: Path, listing: Listing) -> Iterator[str]:
    for place, _ in walk(folder):
        for name in sorted(listing.names(str(place))):
            if os.path.splitext(name)[1].casefold() in PICTURE_NAMES:
                yield f"{place}/{name}"
