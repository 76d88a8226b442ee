"""Images that no file of samples names, and where they are looked for. In doubt an image is no orphan."""

import json
import mmap
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from leap.records.litter import listed, walk
from leap.records.quarantine import RESTORE

IMAGE_NAMES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})
# Also copies, as editors and people name them.
_SAMPLES = re.compile(r".*\.(?:json|jsonl|ndjson)(?:[.~_-].*)?", re.IGNORECASE)
# A JSON string that ends like an image's name, whatever record it stands in: also where that is no sample of ours.
_NAMED = re.compile(rb'"([^"\n]*\.(?:png|jpe?g|webp|bmp))\\?"', re.IGNORECASE)
_EXAMPLE = re.compile(r"/example\d+/input/")  # in the benchmark's form: its images belong together
_NUMBERED = "_numbered"  # ends the name of a demo scene's second image


@dataclass(frozen=True)
class Places:
    """Which images are checked: those under `images` of the data folder, or those of `root` alone where one is given.

    Of `root` only the folders count in which the checked samples have images, with what lies below: it may be the
    workspace itself. What holds `workspace` is never searched.
    """

    workspace: Path
    data: Path
    root: Path | None = None  # without links or `..` in it

    @property
    def in_data(self) -> bool:
        """Whether what is checked is the data folder's."""
        return self.root is None or self.root.is_relative_to(self.data.resolve())

    @property
    def home(self) -> Path:
        """The folder out of which an image may be moved, and in which the quarantine lies."""
        if self.root is None:
            return self.data
        return self.data.resolve() if self.in_data else self.root

    def searched(self, found: Iterable[str] | None) -> list[Path]:
        """The folders whose images are checked, given those of the samples, if there are samples; none in another."""
        if self.root is None:
            return [self.data / "images"]
        if found is None:
            found = [f"{self.root}/"]
        inside = {folder for path in {os.path.dirname(path) for path in found} if (folder := self._in_root(path))}
        workspace = self.workspace.resolve()
        inside = {folder for folder in inside if not workspace.is_relative_to(folder.resolve())}
        return sorted(folder for folder in inside if not any(other in folder.parents for other in inside))

    def _in_root(self, folder: str) -> Path | None:
        """The folder as a path under `root`, whatever links and `..` the samples take to it."""
        assert self.root is not None
        for path in (os.path.normpath(folder), os.path.realpath(folder)):  # the former where a link leads out of it
            if Path(path).is_relative_to(self.root):
                return Path(path)
        return None

    def known_files(self, files: Sequence[Path], searched: Sequence[Path]) -> list[Path]:
        """Every file of samples there is: those that are checked, what lies beside them or in the workspace itself, and
        all in the data folder.
        """
        beside = {self.workspace} | {file.parent for file in files} | {folder.parent for folder in searched}
        beside |= {folder.resolve().parent for folder in searched}  # a linked one is another's, perhaps
        beside |= {self.root, self.root.parent} if self.root else set()
        found = {path for folder in beside for path in listed(folder) if _SAMPLES.fullmatch(path.name)}
        for folder in {self.data, self.workspace / "data", *searched}:
            for place, names in walk(folder, RESTORE):  # of 150,000 names few are worth a path
                found.update(place / name for name in names if _SAMPLES.fullmatch(name))
        return sorted({*files, *(path for path in found if path.is_file())})


class NamedImages:
    """What files of samples call their images: the bare names, in whatever folder.

    A folder, a case or a Unicode form that differs is mended more easily than an image that was moved away.
    """

    def __init__(self) -> None:
        self._names: set[str] = set()

    def add(self, names: Iterable[str]) -> None:
        """Names or paths as samples have them."""
        self._names.update(folded(name.replace("\\", "/").rpartition("/")[2]) for name in names)

    def follow(self, paths: Iterable[str]) -> None:
        """What links with such names point to is named as well."""
        self.add([os.path.realpath(path) for path in paths if self.has(path) and os.path.islink(path)])

    def has(self, path: str) -> bool:
        """Whether an image is named, or belongs to one that is."""
        stem, ending = os.path.splitext(path)
        companion = stem.endswith(_NUMBERED) and self.has(stem[: -len(_NUMBERED)] + ending)
        return companion or folded(os.path.basename(path)) in self._names or bool(_EXAMPLE.search(path))


def folded(name: str) -> str:
    """The same for names that a Mac or Windows does not tell apart."""
    return unicodedata.normalize("NFC", name).casefold()


def named_in(file: Path) -> Iterator[str]:
    """The names of images in a file of samples, read as text: broken lines and other tools' forms count too."""
    with file.open("rb") as opened:
        if not os.fstat(opened.fileno()).st_size:  # which cannot be mapped
            return
        with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as text:
            for found in _NAMED.finditer(text):
                yield _unescaped(found[1])


def _unescaped(name: bytes) -> str:
    try:
        return str(json.loads(b'"%s"' % name))
    except ValueError:
        return name.decode("utf-8", "replace")


def images_under(folder: Path) -> Iterator[str]:
    """The images in a folder and below it, but those in quarantine."""
    for place, names in walk(folder, RESTORE):
        for name in names:
            if os.path.splitext(name)[1].casefold() in IMAGE_NAMES and os.path.isfile(f"{place}/{name}"):
                yield f"{place}/{name}"
