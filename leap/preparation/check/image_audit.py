"""A data folder's images against the samples that name them: missing, corrupt and left over ones, incomplete tasks."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from leap.data.formats import SampleError, UnknownFormat
from leap.data.formats.stored_images import ImageFolder
from leap.data.sample_datasets import iter_samples
from leap.data.sample_files import SampleFile
from leap.preparation.check.find_images import find_images
from leap.preparation.check.image_facts import FactStore
from leap.preparation.check.orphans import NamedImages, Places, folded, images_under, named_in
from leap.progress import track
from leap.records.litter import listed

_EPISODE = re.compile(r"(\d+)-(\d+)")  # <task>-<episode>, the name of a LOVE-Agibot image


class Named(NamedTuple):
    """An image as the samples name it."""

    place: str  # file:line of the first sample with it
    samples: int  # how many have it

    def __str__(self) -> str:
        return f"{self.place}, samples with it: {self.samples}"


@dataclass
class Audit:
    """What a check of a data folder found."""

    files: list[Path]
    samples: int = 0
    images: int = 0  # that the samples name
    missing: dict[str, str] = field(default_factory=dict)  # by the name in the samples: where, and why
    corrupt: dict[str, str] = field(default_factory=dict)  # by the file's path, why
    orphans: list[str] = field(default_factory=list)  # images that no known file names
    vanished: list[str] = field(default_factory=list)  # images that went away while they were checked
    invalid: dict[str, str] = field(default_factory=dict)  # by file:line, why a sample cannot be read
    decoded: int = 0  # images that were decoded now and not known already

    @property
    def problems(self) -> int:
        """What keeps the samples from being trained on; orphans do not."""
        return len(self.missing) + len(self.corrupt) + len(self.invalid) + len(self.vanished)

    def incomplete_tasks(self) -> list[int]:
        """Tasks of which an image named <task>-<episode> is missing or corrupt."""
        names = (Path(image).stem for image in (*self.missing, *self.corrupt))
        return sorted({int(match[1]) for name in names if (match := _EPISODE.fullmatch(name))})

    def to_dict(self) -> dict[str, Any]:
        return {
            "files": [str(file) for file in self.files],
            "rows": self.samples,
            "images": self.images,
            "decoded": self.decoded,
            "missing": self.missing,
            "corrupt": self.corrupt,
            "orphans": self.orphans,
            "vanished": self.vanished,
            "invalid_rows": self.invalid,
            "incomplete_tasks": self.incomplete_tasks(),
        }


def audit_images(
    files: Sequence[Path], roots: Sequence[Path], places: Places, store: FactStore | None, stored: ImageFolder
) -> Audit:
    """Check the images that `files` name, and those that `places` name. Without a store none is decoded.

    Images that stand in the files themselves go into `stored`.

    What any known file names is no orphan; nothing else is asked of files that are not checked. Without any file
    nothing can be missing or left over: then the images are decoded, and that is all.
    """
    audit = Audit(list(files))
    named = read_names(files, audit, stored)
    found = find_named(named, (*roots, stored.path), audit)
    searched = places.searched(found if files else None)
    images = [path for folder in searched for path in images_under(folder)]
    if files:
        known = NamedImages()
        known.add(named)  # a table is no text in which names could be found
        for file in places.known_files(files, searched):
            known.add(named_in(file))
        known.follow([*found, *images])
        audit.orphans = [path for path in images if not known.has(path)]
    if store:
        _note_corrupt(store, found, images, audit)
    return audit


def _note_corrupt(store: FactStore, found: dict[str, Named], images: Sequence[str], audit: Audit) -> None:
    looked = store.look([*found, *images])
    audit.decoded = looked.decoded
    for path, why in looked.broken.items():
        if not os.path.exists(path):  # it was there when the check began
            audit.vanished.append(path)
        else:
            audit.corrupt[path] = f"{why} ({found[path]})" if path in found else why


def read_names(files: Sequence[Path], audit: Audit, stored: ImageFolder) -> dict[str, Named]:
    """Every image that a sample names, in the order of their first use; samples that cannot be read are noted."""
    named: dict[str, Named] = {}
    for file in files:
        try:
            for number, sample in track(iter_samples(SampleFile(file), stored), f"reading {file.name}"):
                if isinstance(sample, SampleError):
                    audit.invalid[f"{file}:{number}"] = str(sample)
                    continue
                audit.samples += 1
                for image in sample.images():
                    place, samples = named.get(image, (f"{file}:{number}", 0))
                    named[image] = Named(place, samples + 1)
        except UnknownFormat as error:
            place, _, reason = str(error).partition(": ")
            audit.invalid[place] = reason
    audit.images = len(named)
    return named


def find_named(named: dict[str, Named], roots: Sequence[Path], audit: Audit) -> dict[str, Named]:
    """The images that are there, by their files; the others are noted as missing."""

    @cache
    def names_in(folder: Path) -> dict[str, str]:
        try:
            return {folded(path.name): path.name for path in listed(folder)}
        except OSError:  # a name that is too long, a folder that cannot be read: nothing in it is known
            return {}

    def alike(image: str) -> str:
        """A file of the same name but for case, or for how its accents are written (NFC, NFD)."""
        for place in (root / image for root in roots):
            if "\0" not in image and (name := names_in(place.parent).get(folded(place.name))):
                return f"; {place.with_name(name)} is named almost so"
        return ""

    images = find_images(list(named), roots)
    found = {}
    for index, (image, where) in enumerate(named.items()):
        if why := images.missing.get(index):
            audit.missing[image] = f"{where}: {why}{alike(image)}"
        else:
            found[images.files[index]] = where
    return found
