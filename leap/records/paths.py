"""Where a path on a command line is: from the workspace root, or from the current folder."""

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from leap.environment import rank
from leap.errors import UsageError
from leap.records.litter import is_data
from leap.records.remote import as_path, is_remote

_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
# First and last words of paths in a workspace: nobody who mistypes one should get what a stranger calls so on the hub.
_OURS, _CHECKPOINT = ("models", "output", "data", "dataset", "demo"), re.compile(r"checkpoint-\d+")


def find_path(path: str | Path, root: Path) -> Path:
    """The one place that a path means.

    A relative path starts at the workspace root, where new files go too; one that is not there but exists from the
    current folder is that. Where both exist, it is said on the screen which one is taken. Raises UsageError for a text
    that is no path.
    """
    text = str(path)
    if not text.strip() or "\0" in text:
        raise UsageError(f"{text!r} is no path; leave the flag out to have its default")
    if is_remote(text):
        raise UsageError(f"{text}: a path of this machine is needed here (results go elsewhere with --upload)")
    given = at_home(path)
    if given.is_absolute():
        return given
    here, there = Path.cwd() / given, root / given
    if not os.path.exists(there):
        return here if os.path.exists(here) else there
    if os.path.exists(here) and not os.path.samefile(here, there) and not _is_empty(here):
        _say(f"{text}: the workspace's is taken, {there}; for the one here, {here}, write its whole path")
    return there


def find_data(path: str | Path, root: Path) -> Path:
    """The same for data to read, which may be at an address as well: see leap.records.remote."""
    return as_path(str(path), root) if is_remote(str(path)) else find_path(path, root)


def may_be_hub_name(text: str, root: Path, explicit: bool = False) -> bool:
    """Whether OWNER/NAME that is no path here may be a repository's name: not where OWNER is a folder, unless what
    stands with it is `explicit`."""
    owner, _, name = text.partition("/")
    if not _HUB_NAME.fullmatch(text) or owner in _OURS or _CHECKPOINT.fullmatch(name):
        return False
    return explicit or not ((root / owner).is_dir() or Path(owner).is_dir())


def at_home(path: str | Path, named_by: str = "") -> Path:
    """The path with ~ and ~user as their home folders. Raises UsageError where there is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UsageError(f"{named_by}{path}: there is no such user's folder; write the whole path") from error


def _say(note: str) -> None:
    if rank() == 0:
        print(f"note: {note}", file=sys.stderr)


def _is_empty(place: Path) -> bool:
    """Whether it is a folder that holds no data: the repository has some for a workspace to begin with."""
    return place.is_dir() and not any(is_data(name) for name in os.listdir(place))


def roots_beside(file: Path, roots: Sequence[Path]) -> tuple[Path, ...]:
    """Where the relative image paths in a file start: at any of these roots, or at the file's own folder."""
    return (*roots, *(() if file.parent in roots else (file.parent,)))
