"""What desktops, notebooks and network drives leave in folders: never data of ours, wherever a folder is listed."""

import os
from collections.abc import Iterator
from pathlib import Path

# In lower case, since neither Windows nor macOS tells cases apart.
_NAMES = frozenset(
    {".ds_store", "__macosx", ".appledouble", ".localized", ".spotlight-v100", ".trashes", ".fseventsd",
     ".temporaryitems", ".documentrevisions-v100", "icon\r", "thumbs.db", "ehthumbs.db", "desktop.ini",
     "$recycle.bin", "system volume information", "lost+found", ".directory", "@eadir", "#recycle",
     ".ipynb_checkpoints", "__pycache__"}
)  # fmt: skip
_BEGINNINGS = ("._", ".nfs", ".fuse_hidden", ".trash-")


def is_litter(name: str) -> bool:
    """Whether a file or folder of this name is nobody's work."""
    return name.casefold() in _NAMES or name.casefold().startswith(_BEGINNINGS)


def is_data(path: str) -> bool:
    """Whether a relative path may be data: neither litter nor hidden by a dot, and in no such folder."""
    parts = (part for part in path.split("/") if part not in ("", ".", ".."))
    return not any(part.startswith(".") or is_litter(part) for part in parts)


def listed(folder: Path, pattern: str = "*") -> list[Path]:
    """The entries of a folder that match and may be data, sorted; none where there is no such folder."""
    return sorted(path for path in folder.glob(pattern) if is_data(path.relative_to(folder).as_posix()))


def is_bare(folder: Path, besides: tuple[str, ...] = ()) -> bool:
    """Whether nothing but litter is in a folder, and files `besides`. What else is hidden may be somebody's work."""
    return all(is_litter(entry.name) or entry.name in besides for entry in folder.iterdir())


def walk(folder: Path, without: str = "") -> Iterator[tuple[Path, list[str]]]:
    """(folder, names of the files in it that may be data), for it and all below; links to folders are not followed.

    A folder that holds a file named `without` is left out, with all below it.
    """
    for place, folders, names in os.walk(folder):
        if without in names:
            folders.clear()
            continue
        folders[:] = sorted(filter(is_data, folders))
        yield Path(place), sorted(filter(is_data, names))
