"""Files and folders moved out of the way, with a restore file that brings them all back. Nothing is ever deleted.

<quarantine>/<time>/restore.json      what was moved, and why; written whole before the first move
<quarantine>/<time>/files/...         the files, under the names that they had in their folder
"""

import errno
import os
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from leap.errors import LeapError
from leap.records.files import free_place, is_file, move_folder, replacing, sync_folder
from leap.records.json_files import read_model, write_json
from leap.records.locks import FolderLock

RESTORE, _FILES = "restore.json", "files"


def _inside(path: str) -> str:
    if os.path.isabs(path) or ".." in Path(path).parts or not Path(path).parts:
        raise ValueError("a path inside the folder is needed")
    return path


class _Moved(BaseModel):
    model_config = ConfigDict(extra="forbid")

    path: Annotated[str, AfterValidator(_inside)]  # in the folder
    why: str


class _RestoreFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    folder: str  # that the files belong to, as seen from the restore file: both may move together
    moved: Annotated[list[_Moved], Field(min_length=1)]


def move_to_quarantine(reasons: Mapping[Path, str], folder: Path, quarantine: Path) -> Path:
    """Move files or folders of `folder`, each for its reason, into a new folder under `quarantine`; the restore file.

    Hold FolderLock(quarantine) while they are chosen and moved: two that choose the same ones would lose some midway.
    A kill midway leaves a restore file that brings back what had been moved by then.
    """
    moved = [_Moved(path=os.path.relpath(path, folder), why=why) for path, why in reasons.items()]
    place = free_place(quarantine / datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ"))
    record = _RestoreFile(folder=os.path.relpath(folder, place), moved=moved)
    write_json(place / RESTORE, record.model_dump())
    _move_all({folder / entry.path: place / _FILES / entry.path for entry in moved})
    return place / RESTORE


def restore(file: Path) -> int:
    """Put everything that a restore file names back in its place; how many were moved.

    What is back already is passed over, so a broken-off restoring is simply repeated; the restore file goes when all
    is done. Raises LeapError where a file is neither here nor there, before anything is moved, and where another one
    has taken a place, after all the others are back, and where another process restores the same.
    """
    if not is_file(file):
        raise LeapError(f"{file}: there is no such restore file")
    with FolderLock(file.parent):
        return _restore(file, read_model(file, _RestoreFile, "it is no restore file of LEAP"))


def _restore(file: Path, record: _RestoreFile) -> int:
    folder = Path(os.path.abspath(file.parent / record.folder))  # as it was named: images may lie behind a link
    files = file.parent / _FILES
    waiting = {entry.path for entry in record.moved if os.path.lexists(files / entry.path)}
    there = {entry.path for entry in record.moved if os.path.lexists(folder / entry.path)}
    for entry in record.moved:
        if entry.path not in waiting | there:
            raise LeapError(f"{file}: {entry.path} is neither in {files} nor in {folder}; nothing was restored")
    _move_all({files / path: folder / path for path in sorted(waiting - there)})
    if taken := sorted(waiting & there):
        raise LeapError(
            f"{folder / taken[0]}: there is another one now (files left in {files}: {len(taken)}, "
            f"restored: {len(waiting - there)}); remove it and restore {file} again, or keep it"
        )
    file.unlink()
    _remove_empty(files)
    return len(waiting)


def _move_all(places: Mapping[Path, Path]) -> None:
    for source, place in places.items():
        place.parent.mkdir(parents=True, exist_ok=True)
        _move(source, place)
    for parent in {path.parent for pair in places.items() for path in pair}:
        sync_folder(parent)


def _move(source: Path, place: Path) -> None:
    """Move to a place where nothing is; whole or not at all, also to another file system."""
    if source.is_dir() and not source.is_symlink():
        move_folder(source, place)
        return
    try:
        source.rename(place)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with replacing(place) as temporary:
            shutil.copy2(source, temporary)
        source.unlink()


def _remove_empty(folder: Path) -> None:
    """Remove what is left of a folder where nothing but empty folders is."""
    for place, _, names in os.walk(folder, topdown=False):
        if not names and not os.listdir(place):
            os.rmdir(place)
