"""What a repository of a hub holds: names, sizes and hashes of its files at one commit."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import AliasPath, BaseModel, ConfigDict, Field

from leap.errors import LeapError
from leap.terminal import shown

HUB = "https://huggingface.co"


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


class HubFile(BaseModel):
    """A file, or a directory, as the hub lists it. `sha256` is None for what git itself holds, `xet` if not in Xet."""

    # huggingface_hub's RepoFile takes whatever it is sent; a hash becomes part of a path here.
    model_config = ConfigDict(frozen=True)

    type: Literal["file", "directory"]
    path: str
    size: int = Field(ge=0)
    blob: str = Field(validation_alias="oid", pattern="^[0-9a-f]{40}$")  # git's SHA-1; of its pointer beside a sha256
    sha256: str | None = Field(default=None, validation_alias=AliasPath("lfs", "oid"), pattern="^[0-9a-f]{64}$")
    xet: str | None = Field(default=None, validation_alias="xetHash")

    def is_at(self, path: Path) -> bool:
        """Whether exactly this content is there, by size and hash."""
        if not path.is_file() or path.stat().st_size != self.size:
            return False
        digest = hashlib.sha256() if self.sha256 else hashlib.sha1(f"blob {self.size}\0".encode())
        with path.open("rb") as content:
            return hashlib.file_digest(content, lambda: digest).hexdigest() == (self.sha256 or self.blob)


@dataclass(frozen=True)
class Snapshot:
    """A repository's files at one commit."""

    repository: Repository
    commit: str
    files: tuple[HubFile, ...]
    hidden: tuple[str, ...] = ()  # paths that are left out


def snapshot_of(repository: Repository, commit: str, entries: Iterable[HubFile]) -> Snapshot:
    """The files among the entries, but for hidden ones: git, shells and editors act on these (`.git/hooks/`, `.envrc`).

    Raises LeapError for a path that leads out of the folder it is put into, or has no one place in it.
    """
    listed = [entry for entry in entries if entry.type == "file"]
    files = {file.path: file for file in listed}
    for path in files:
        _refuse(path, repository)
    if len(files) < len(listed):
        raise LeapError(f"{repository.name}: its listing names a file twice; nothing is downloaded from there")
    if both := {str(parent) for path in files for parent in PurePosixPath(path).parents} & files.keys():
        raise LeapError(f"{repository.name}: {min(both)!r} is a file and a folder; nothing is downloaded from there")
    hidden = {path for path in files if any(part.startswith(".") for part in path.split("/"))}
    kept = (file for path, file in files.items() if path not in hidden)
    return Snapshot(repository, commit, tuple(kept), tuple(sorted(hidden)))


def _refuse(text: str, repository: Repository) -> None:
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\\" in text:
        raise LeapError(f"{repository.name}: {text!r} leads out of the folder; nothing is downloaded from there")
    if str(path) != text or shown(text) != text:  # a//b, a/./b; names that a terminal would obey
        raise LeapError(f"{repository.name}: {text!r} is no name of a file; nothing is downloaded from there")
