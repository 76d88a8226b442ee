"""What a download leaves in `.cache` beside the files: where each came from, and the hub's whole listing."""

import re
import time
from pathlib import Path

from pydantic import BaseModel, NonNegativeInt

from leap.hub.file_listing import HubFile, Snapshot
from leap.records.files import is_file, naming
from leap.records.json_files import read_model, write_json

_LISTING = Path(".cache", "leap", "listing.json")  # what a complete download is, only that can say
_ORIGINS = Path(".cache", "huggingface", "download")  # as huggingface_hub lays it out
_LEVELS = 3  # folders above a file that may be the one it was downloaded into


class HubListing(BaseModel):
    """A repository's files at one commit: path -> bytes."""

    repository: str
    commit: str
    files: dict[str, NonNegativeInt]


def keep_listing(folder: Path, snapshot: Snapshot) -> None:
    """Write down all that the repository has, not only what was chosen of it."""
    files = {file.path: file.size for file in snapshot.files}
    listing = HubListing(repository=snapshot.repository.name, commit=snapshot.commit, files=files)
    write_json(folder / _LISTING, listing.model_dump())


def read_listing(folder: Path) -> HubListing | None:
    """The listing of the last download into the folder; None where nothing was downloaded by LEAP."""
    place = folder / _LISTING
    remedy = "download again, or remove this file"
    return read_model(place, HubListing, remedy) if is_file(place) else None


def note_origin(folder: Path, commit: str, file: HubFile) -> None:
    """Write down where a file came from, as `hf download` does: that then fetches none of ours again."""
    note = folder / _ORIGINS / f"{file.path}.metadata"
    note.parent.mkdir(parents=True, exist_ok=True)
    # Not by huggingface_hub's own writer, which locks each note by flock: some file systems have none.
    with naming(note):
        note.write_text(f"{commit}\n{file.sha256 or file.blob}\n{time.time()}\n")


def hub_sha256(file: Path) -> str | None:
    """The SHA-256 that the hub names for a file, as our downloads and `hf download --local-dir` note it.

    None where the file did not come from the hub, or was too small for the hub to name one.
    """
    for folder in list(file.parents)[:_LEVELS]:
        note = folder / _ORIGINS / f"{file.relative_to(folder)}.metadata"
        if note.is_file():
            lines = note.read_text(encoding="utf-8", errors="replace").splitlines()  # commit, ETag, time
            etag = lines[1].strip() if len(lines) > 1 else ""
            return etag if re.fullmatch(r"[0-9a-f]{64}", etag) else None
    return None
