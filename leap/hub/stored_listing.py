"""The hub's listing of what was downloaded, kept with the files: what a complete download is, only that can say."""

from pathlib import Path

from pydantic import BaseModel, NonNegativeInt, ValidationError

from leap.errors import LeapError
from leap.hub.file_listing import Snapshot
from leap.records.files import first_problem, is_file, read_json, write_json

_PLACE = Path(".cache", "leap", "listing.json")  # beside huggingface_hub's own notes


class HubListing(BaseModel):
    """A repository's files at one commit: path -> bytes."""

    repository: str
    commit: str
    files: dict[str, NonNegativeInt]


def keep_listing(folder: Path, snapshot: Snapshot) -> None:
    """Write down all that the repository has, not only what was chosen of it."""
    files = {file.path: file.size for file in snapshot.files}
    listing = HubListing(repository=snapshot.repository.name, commit=snapshot.commit, files=files)
    write_json(folder / _PLACE, listing.model_dump())


def read_listing(folder: Path) -> HubListing | None:
    """The listing of the last download into the folder; None where nothing was downloaded by LEAP."""
    if not is_file(folder / _PLACE):
        return None
    try:
        return HubListing.model_validate(read_json(folder / _PLACE))
    except ValidationError as error:
        raise LeapError(f"{folder / _PLACE}: {first_problem(error)}; download again, or remove this file") from error
