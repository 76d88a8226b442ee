"""What the tests of downloads share: a small repository, and a download of it into a folder."""

import random
from collections.abc import Mapping
from pathlib import Path

import pytest
from servers.hub import HubServer
from servers.hub_store import Stored

from leap.hub.client import Hub
from leap.hub.download import download, everything
from leap.hub.file_listing import Repository
from leap.hub.resume_download import RetryPolicy

QUICK = RetryPolicy(max_workers=3, initial_sleep=0.01, max_sleep=0.02, max_tries=5)
DATA = Repository("someone/data", "dataset")
SIZES = {"README.md": 40, "empty.txt": 0, "a/one.json": 999, "a/b/two words.png": 70_000, "big.tar.gz": 300_000}


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """The suite runs offline; these tests talk to this machine."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    monkeypatch.delenv("HF_ENDPOINT", raising=False)


def stored(sizes: Mapping[str, int] = SIZES, says: Mapping[str, int] | None = None) -> Stored:
    """A repository of files of these sizes; its listing `says` others of some."""
    draw = random.Random(1)
    return Stored("someone/data", "dataset", {path: draw.randbytes(size) for path, size in sizes.items()}, says or {})


def get(hub: HubServer, folder: Path, policy: RetryPolicy = QUICK, wanted: Repository = DATA) -> None:
    download(Hub(hub.url), wanted, folder, everything, policy)


def on_disk(folder: Path) -> dict[str, bytes]:
    """Every file below the folder, hidden ones too, but for the notes in the client's own form."""
    paths = (path for path in folder.rglob("*") if path.is_file() and ".cache" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}
