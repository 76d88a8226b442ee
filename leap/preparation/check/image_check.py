"""A training file's images: found, decoded once each, and decoded again only where the file has changed since."""

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from leap.data.arrow_files import read_arrow, writing_arrow
from leap.data.image import load_image, refuse_stripes, resolve_image
from leap.errors import LeapError
from leap.workers import map_in_order

MISSING, CORRUPT = "missing image", "corrupt image"
_FILES = 32  # that are decoded together
_STORE_EVERY = 200  # of these, so that a killed check goes on near where it was
_COLUMNS = ("size", "mtime_ns", "height", "width")  # bytes, nanoseconds, pixels
_SCHEMA = pa.schema([(name, pa.int64()) for name in _COLUMNS])


class Decoded(NamedTuple):
    """An image's dimensions in pixels, or why it is of no use."""

    height: int = 0
    width: int = 0
    reason: str | None = None


@dataclass(frozen=True)
class FoundImages:
    """Where images are and how old; `size` is -1 for one that is not there, and `missing` says why."""

    files: list[str]
    size: np.ndarray  # bytes
    mtime_ns: np.ndarray
    missing: dict[int, str] = field(default_factory=dict)


def find_images(images: Sequence[str], roots: Sequence[Path]) -> FoundImages:
    """Look every image up, without opening it. 150,000 take about two seconds on a local disk."""
    folders = [str(root) for root in roots]
    found = FoundImages([], np.full(len(images), -1, np.int64), np.full(len(images), -1, np.int64))
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
            found.size[index], found.mtime_ns[index] = status.st_size, status.st_mtime_ns
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


class ImageTable:
    """What is known of a training file's images, in the order in which the file first names them.

    One that could not be decoded is never taken as known: the fault may have been the disk's or the network's.
    """

    def __init__(self, store: Path, count: int) -> None:
        """The first `count` images, and whatever `store`, an Arrow file, knows already."""
        self._store = store
        self._columns = {name: np.full(count, -1, np.int64) for name in _COLUMNS}
        self.corrupt: dict[int, str] = {}  # why, by the image's place
        known = read_arrow(store, _SCHEMA)
        for name, new in self._columns.items():
            stored = known.column(name).to_numpy()
            self._columns[name] = np.concatenate([stored, new[len(stored) :]])

    def dimensions(self, count: int) -> np.ndarray:
        """Height and width in pixels of the first `count` [images, 2]; -1 where it is not known."""
        return np.stack([self._columns["height"][:count], self._columns["width"][:count]], axis=1)

    def stale(self, found: FoundImages) -> np.ndarray:
        """The places of images that are there and were not decoded as they are now."""
        count = len(found.files)
        same = (self._columns["size"][:count] == found.size) & (self._columns["mtime_ns"][:count] == found.mtime_ns)
        return np.flatnonzero((found.size >= 0) & ~same)

    def decode(self, found: FoundImages, places: np.ndarray, processes: int) -> Iterator[int]:
        """Decode these images, yielding each place as it is done, and store what was seen."""
        parts = [places[start : start + _FILES].tolist() for start in range(0, len(places), _FILES)]
        results = map_in_order(decode_files, ([found.files[place] for place in part] for part in parts), processes)
        for number, (part, decoded) in enumerate(zip(parts, results, strict=True), start=1):
            for place, image in zip(part, decoded, strict=True):
                self._note(place, found, image)
                yield place
            if number % _STORE_EVERY == 0 or number == len(parts):
                self._write()

    def _note(self, place: int, found: FoundImages, image: Decoded) -> None:
        if image.reason is None:
            values = int(found.size[place]), int(found.mtime_ns[place]), image.height, image.width
        else:
            self.corrupt[place] = image.reason
            values = -1, -1, -1, -1
        for column, value in zip(self._columns.values(), values, strict=True):
            column[place] = value

    def _write(self) -> None:
        with writing_arrow(self._store, _SCHEMA) as writer:
            writer.write_table(pa.table(self._columns, _SCHEMA))


def decode_files(files: Sequence[str]) -> list[Decoded]:
    """Each file decoded whole, since a header says nothing of the pixels behind it."""
    return [_decode(Path(file)) for file in files]


def _decode(file: Path) -> Decoded:
    try:
        image = load_image(file)
        refuse_stripes(image.height, image.width)
    except LeapError as error:
        return Decoded(reason=str(error))
    return Decoded(image.height, image.width)
