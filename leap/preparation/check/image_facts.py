"""What is known of image files: dimensions, a digest of the pixels, a perceptual hash. One decoding gives all of it.

The store is an Arrow file that remembers each path with its size and time of change; an image is decoded again only
where these differ. Every tool that looks at images before training shares it.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import imagehash
import numpy as np
import pyarrow as pa

from leap.data.arrow_files import read_arrow, writing_arrow
from leap.data.image import LOADING, load_image, refuse_stripes
from leap.errors import LeapError
from leap.hardware import usable_cores
from leap.progress import track
from leap.records.files import encoded
from leap.records.locks import FolderLock
from leap.records.remote import Status, fetch, is_cached
from leap.workers import map_in_order

_FORMAT = 1  # of the store; to be raised when a fact is measured otherwise
_FEW = 200  # images that are decoded sooner than processes start
_TOGETHER = 32  # that a process decodes at a time
_STORE_EVERY = 12_800  # images, so that a killed look goes on near where it was
_SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("size", pa.int64()),
        ("mtime_ns", pa.int64()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("digest", pa.binary(16)),
        ("phash", pa.uint64()),
    ]
)


class Facts(NamedTuple):
    """What one decoding says. Equal digests mean equal pixels; hashes that differ in few bits mean alike images."""

    height: int  # pixels
    width: int
    digest: bytes  # 16 bytes of the sha256 of size and RGB values
    phash: int  # 64 bits: ImageHash's phash, the signs of the lowest frequencies around their median


_Known = dict[str, tuple[Status, Facts]]  # by path


@dataclass
class Looked:
    """What became of the files that were looked at."""

    facts: dict[str, Facts] = field(default_factory=dict)  # by path
    broken: dict[str, str] = field(default_factory=dict)  # by path, why
    decoded: int = 0  # how many of them were decoded now


class FactStore:
    """Facts of images, kept in a folder that may be removed at any time but while it is written."""

    def __init__(self, cache: Path) -> None:
        self._folder = cache / "images"
        self._file = self._folder / f"facts-{_FORMAT}-{LOADING}.arrow"

    def look(
        self,
        files: Iterable[str] | Mapping[str, Status],
        what: str = "decoding images",
        alone: Callable[[Path], AbstractContextManager[Any]] = FolderLock,
    ) -> Looked:
        """The facts of every file, decoding those that are new or changed by all cores.

        files: a mapping says how they are, where that is known. One that cannot be decoded is never taken as known: the
        fault may have been the disk's or the network's. Raises LeapError where another process is decoding, and `alone`
        does not wait for it.
        """
        looked = Looked()
        asked = files if isinstance(files, Mapping) else _statuses(files, looked)
        known = self._read()
        if _stale(asked, known):
            with alone(self._folder):
                known = self._read()  # another process may have been here meanwhile
                self._decode(_stale(asked, known), known, looked, what)
        looked.facts = {path: known[path][1] for path in asked if path not in looked.broken}
        return looked

    def unknown(self, files: Mapping[str, Status]) -> dict[str, Status]:
        """Those that would be decoded."""
        return _stale(files, self._read())

    def _decode(self, stale: dict[str, Status], known: _Known, looked: Looked, what: str) -> None:
        files = list(stale)
        parts = (_fetched(files[start : start + _TOGETHER], stale) for start in range(0, len(files), _TOGETHER))
        processes = usable_cores() if len(stale) > _FEW else 1
        seen = chain.from_iterable(map_in_order(look_at_files, parts, processes))
        try:
            for (path, status), found in track(zip(stale.items(), seen, strict=True), what, len(stale), for_all=True):
                looked.decoded += 1
                if isinstance(found, Facts):
                    known[path] = status, found
                else:
                    looked.broken[path] = found
                    known.pop(path, None)
                if looked.decoded % _STORE_EVERY == 0:
                    self._write(known)
        finally:  # also where Ctrl-C ends it
            if looked.decoded:
                self._write(known)

    def _read(self) -> _Known:
        table = read_arrow(self._file, _SCHEMA)
        path, size, mtime_ns, *columns = (column.to_pylist() for column in table.columns)
        facts = map(Facts, *columns)
        return dict(zip(path, zip(zip(size, mtime_ns, strict=True), facts, strict=True), strict=True))

    def _write(self, known: _Known) -> None:
        # Arrow's texts are UTF-8: an image whose name is not is decoded anew each time.
        images = [(path, *status, *facts) for path, (status, facts) in known.items() if _is_utf8(path)]
        columns = [list(column) for column in zip(*images, strict=True)] or [[] for _ in _SCHEMA]
        table = pa.table(
            [pa.array(values, field.type) for values, field in zip(columns, _SCHEMA, strict=True)], _SCHEMA
        )
        with writing_arrow(self._file, _SCHEMA) as writer:
            writer.write_table(table)


def _is_utf8(path: str) -> bool:
    return encoded(path) == os.fsencode(path)


def _statuses(files: Iterable[str], looked: Looked) -> dict[str, Status]:
    found: dict[str, Status] = {}
    for path in dict.fromkeys(files):
        try:
            status = os.stat(path)
        except OSError as error:
            looked.broken[path] = f"{path}: cannot be reached ({error.strerror})"
        else:
            found[path] = status.st_size, status.st_mtime_ns
    return found


def _stale(asked: Mapping[str, Status], known: _Known) -> dict[str, Status]:
    """The files that are new, or not as they were when they were decoded."""
    return {path: status for path, status in asked.items() if path not in known or known[path][0] != status}


def _fetched(files: list[str], stale: Mapping[str, Status]) -> list[str]:
    """Here and not in the process that decodes them: many come at once, in the version that was listed."""
    fetch({Path(file): stale[file] for file in files if is_cached(file)})
    return files


def look_at_files(files: Iterable[str]) -> list[Facts | str]:
    """Each file decoded whole: its facts, or why it is of no use."""
    return [_look_at(Path(file)) for file in files]


def _look_at(file: Path) -> Facts | str:
    try:
        image = load_image(file)
        refuse_stripes(image.height, image.width)
    except LeapError as error:
        return str(error)
    pixels = hashlib.sha256(f"{image.width}x{image.height}\0".encode())
    pixels.update(image.tobytes())
    signs = np.packbits(imagehash.phash(image).hash)
    return Facts(image.height, image.width, pixels.digest()[:16], int.from_bytes(signs.tobytes(), "big"))
