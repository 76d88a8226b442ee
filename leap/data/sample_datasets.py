"""Data sets in folders and on the hub as files of training samples, through `datasets`: mapped into memory."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from leap.data.formats import RawSample, SampleError, SampleReader, detect
from leap.data.formats.stored_images import ImageFolder
from leap.data.lerobot_dataset import INFO, find_camera, load_episodes
from leap.data.sample_files import SampleFile
from leap.errors import LeapError, first_line
from leap.records.paths import may_be_hub_name
from leap.records.remote import as_path, fetch_data, is_cached, is_remote, remote_type
from leap.records.training import TrainingSample

_ROWS = 256  # that are read at a time: a row may hold images
_FILES = (".jsonl", ".json", ".ndjson", ".parquet", ".arrow", ".csv", ".yaml", ".txt")  # no data set is called so
_OFFLINE = "HF_HUB_OFFLINE=1 keeps it from the hub; unset it, or give a file"


@dataclass(frozen=True)
class SampleDataset:
    """A data set's split: `name` is a folder, or a name on the hub; the only split, or train, where none is given.

    Of a LeRobotDataset `split` is a camera, and a row is an episode.
    """

    path: Path  # as it was given, for messages
    name: str
    split: str | None
    cache: Path | None  # for a folder's tables; None for the hub's own cache

    @property
    def is_lines(self) -> bool:
        """It is a table."""
        return False

    @property
    def folder(self) -> Path | None:
        """Where relative paths of images may start."""
        return Path(self.name) if self.cache else None

    def samples(self) -> Iterator[tuple[int, RawSample]]:
        """Each row with its number from 1. Images are not decoded: they are what the table holds of them."""
        row = 0
        for batch in self._table.with_format("arrow").iter(_ROWS):
            for record in batch.to_pylist():
                row += 1
                yield row, record
        if not row:
            raise LeapError(f"{self.path}: there is no sample in it")

    def count(self) -> int:
        """How many samples there are."""
        return len(self._table)

    def fingerprint(self) -> str:
        """sha256 of the rows; the data set's own would change with the folder that it lies in."""
        digest = hashlib.sha256()
        for _, record in self.samples():
            digest.update(json.dumps(record, default=_digest).encode())
        return digest.hexdigest()

    @cached_property
    def _table(self) -> Any:
        found = self._load()
        if not isinstance(found, dict):
            return found
        splits = list(found)
        wanted = self.split or ("train" if "train" in splits else splits[0] if len(splits) == 1 else None)
        if wanted not in splits:
            said = f"it has no split {wanted!r}" if wanted else "it has several splits"
            raise LeapError(f"{self.path}: {said}; give one: {', '.join(f'{self.name}:{one}' for one in splits)}")
        return found[wanted]

    def _load(self) -> Any:
        import datasets
        from datasets.exceptions import DatasetsError

        if root := self._lerobot_root():
            return load_episodes(root, find_camera(root, self.split, self.path), self.path, self.cache)
        saved = [Path(self.name, mark) for mark in ("state.json", "dataset_dict.json")]
        try:
            if self.cache and any(mark.is_file() for mark in saved):
                return datasets.load_from_disk(self.name)
            return datasets.load_dataset(self.name, cache_dir=str(self.cache) if self.cache else None)
        except ConnectionError as error:
            remedy = _OFFLINE if datasets.config.HF_HUB_OFFLINE else "is the name right, and the hub reached?"
            missing = "there is no such file, and no such data set came from the hub"
            raise LeapError(f"{self.path}: {missing}; {remedy}") from error
        except (DatasetsError, FileNotFoundError, ValueError) as error:
            reason = " ".join(str(error.__cause__ or error).split())
            raise LeapError(f"{self.path}: `datasets` cannot read it ({reason}); name one of its files") from error

    def _lerobot_root(self) -> Path | None:
        """The folder of a LeRobotDataset; from the hub comes what is read of it. None for any other data set."""
        if self.cache:
            return Path(self.name) if Path(self.name, INFO).is_file() else None
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        # Its first base is HTTPError of the HTTP library, which differs from release to release.
        problems: tuple[Any, ...] = (HfHubHTTPError.__bases__[0], OSError, RuntimeError)

        def fetched(*parts: str) -> Path:
            return Path(snapshot_download(self.name, repo_type="dataset", allow_patterns=list(parts)))

        root = None
        try:
            root = fetched(INFO)
            if not (root / INFO).is_file():
                return None
            return fetched("meta/*", "data/*", f"videos/{find_camera(root, self.split, self.path).name}/*")
        except problems as error:
            if root is None and isinstance(error, (HfHubHTTPError, LocalEntryNotFoundError)):
                return None  # `datasets` says what is wrong
            raise LeapError(
                f"{self.path}: not all of it came from the hub ({first_line(error)}); the same command fetches the rest"
            ) from error


SampleSource = SampleFile | SampleDataset


def _digest(value: Any) -> str:
    """Of what JSON has no word for: bytes, and dates in columns that are not read."""
    return hashlib.sha256(value if isinstance(value, bytes) else str(value).encode()).hexdigest()


def find_samples(given: str, root: Path, cache: Path) -> SampleSource | None:
    """What `train_file` or `val_file` names: a file, a folder, or a data set on the hub (org/name), each with :split.

    Relative paths start at `root`, and an address will do as well; None where there is nothing of that name and it is
    none that the hub has. Nothing is read or fetched yet. A folder's tables go into `cache`.
    """
    place = as_path(given, root)
    if is_cached(place):
        return _remote_samples(place, cache)
    if is_remote(given):
        given = str(place)
    if place.is_file():
        return SampleFile(place)
    name, _, split = given.partition(":")
    if (root / name).is_dir():
        return SampleDataset(place, str(root / name), split or None, cache / "datasets")
    if may_be_hub_name(name, root) and not name.endswith(_FILES):
        return SampleDataset(Path(given), name, split or None, None)
    return None


def _remote_samples(place: Path, cache: Path) -> SampleSource | None:
    name, _, split = place.name.partition(":")
    for whole, wanted in ((place, None), (place.with_name(name), split or None)):
        if (found := remote_type(whole)) == "file":
            return SampleFile(whole) if wanted is None else None
        if found:
            return SampleDataset(place, str(whole), wanted, cache / "datasets")
    return None


def fetch_samples(source: SampleSource) -> None:
    """What is at an address comes into the cache, in the version that is there now."""
    if isinstance(source, SampleFile):
        fetch_data(source.path)
    elif source.cache:
        fetch_data(Path(source.name))


def iter_samples(source: SampleSource, images: ImageFolder) -> Iterator[tuple[int, TrainingSample | SampleError]]:
    """Each sample in whatever form, with its line; in the place of one that is none, what is wrong with it.

    Images that stand in the samples go into `images`. Raises UnknownFormat.
    """
    reader = SampleReader(detect(source.samples(), source.path), images=images)
    for line, raw in source.samples():
        try:
            yield line, reader.read(raw)[0]
        except SampleError as error:
            yield line, error
