"""What a repository of a hub holds: names, sizes and hashes of its files at one commit."""

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import BaseModel, Field, TypeAdapter

from leap.errors import LeapError
from leap.records.files import naming
from leap.terminal import shown

HUB = "https://huggingface.co"
_PIECE = 1 << 20  # bytes read at a time


@dataclass(frozen=True)
class Repository:
    """What is asked for. `revision` is a branch, a tag or a commit; None is the main branch."""

    name: str
    kind: Literal["model", "dataset"]
    revision: str | None = None

    @property
    def page(self) -> str:
        """Where a person reads about it."""
        return f"{HUB}/{'datasets/' if self.kind == 'dataset' else ''}{self.name}"


@dataclass(frozen=True)
class HubFile:
    """A file as the hub knows it. `sha256` is None for files that git itself holds, `xet` for files not in Xet."""

    path: str
    size: int
    blob: str  # git's SHA-1 of the file; where there is a sha256, of its pointer
    sha256: str | None = None
    xet: str | None = None

    def is_at(self, path: Path) -> bool:
        """Whether exactly this content is there, by size and hash."""
        if not path.is_file() or path.stat().st_size != self.size:
            return False
        digest = hashlib.sha256() if self.sha256 else hashlib.sha1(f"blob {self.size}\0".encode())
        with path.open("rb") as content:
            while piece := content.read(_PIECE):
                digest.update(piece)
        return digest.hexdigest() == (self.sha256 or self.blob)


@dataclass(frozen=True)
class Snapshot:
    """A repository's files at one commit."""

    repository: Repository
    commit: str
    files: tuple[HubFile, ...]
    hidden: tuple[str, ...] = ()  # paths that are left out


class _Lfs(BaseModel):
    oid: str = Field(pattern="^[0-9a-f]{64}$")
    size: int = Field(ge=0)


class Entry(BaseModel):
    """A line of the hub's listing."""

    type: Literal["file", "directory"]
    path: str
    size: int = Field(ge=0)
    oid: str = Field(pattern="^[0-9a-f]{40}$")
    lfs: _Lfs | None = None
    xetHash: str | None = None


ENTRIES = TypeAdapter(list[Entry])


def snapshot_of(repository: Repository, commit: str, entries: list[Entry]) -> Snapshot:
    """The files among the entries, but for hidden ones: git, shells and editors act on these (`.git/hooks/`, `.envrc`).

    Raises LeapError for a path that leads out of the folder it is put into, or has no one place in it.
    """
    files = {entry.path: entry for entry in entries if entry.type == "file"}
    for path in files:
        _refuse(path, repository)
    if len(files) < sum(entry.type == "file" for entry in entries):
        raise LeapError(f"{repository.name}: its listing names a file twice; nothing is downloaded from there")
    if both := {str(parent) for path in files for parent in PurePosixPath(path).parents} & files.keys():
        raise LeapError(f"{repository.name}: {min(both)!r} is a file and a folder; nothing is downloaded from there")
    hidden = {path for path in files if any(part.startswith(".") for part in path.split("/"))}
    kept = (_file(entry) for path, entry in files.items() if path not in hidden)
    return Snapshot(repository, commit, tuple(kept), tuple(sorted(hidden)))


def _refuse(text: str, repository: Repository) -> None:
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\\" in text:
        raise LeapError(f"{repository.name}: {text!r} leads out of the folder; nothing is downloaded from there")
    if str(path) != text or shown(text) != text:  # a//b, a/./b; names that a terminal would obey
        raise LeapError(f"{repository.name}: {text!r} is no name of a file; nothing is downloaded from there")


def _file(entry: Entry) -> HubFile:
    size, sha256 = (entry.lfs.size, entry.lfs.oid) if entry.lfs else (entry.size, None)
    return HubFile(entry.path, size, entry.oid, sha256, entry.xetHash)


def note_origin(folder: Path, commit: str, file: HubFile) -> None:
    """Write down where a file came from, as `hf download` does: that then fetches none of ours again."""
    from huggingface_hub._local_folder import get_local_download_paths

    # Not by its own writer, which locks each note by flock: some file systems have none, and we hold the folder.
    note = get_local_download_paths(folder, file.path).metadata_path
    with naming(note):
        note.write_text(f"{commit}\n{file.sha256 or file.blob}\n{time.time()}\n")
