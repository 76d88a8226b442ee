"""Models by their names on the hub, OWNER/NAME[@REVISION][:SUBFOLDER]: in models/, or in the hub's own cache.

A revision stands where it does in the addresses of the hub's file system (hf://OWNER/NAME@REVISION). In the cache a
model lies as huggingface_hub lays it out (models--OWNER--NAME/snapshots/COMMIT), so that each finds what the other has
fetched. Files lie there themselves, and not as links to blobs, as huggingface_hub has it where links cannot be made.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path, PurePosixPath

from leap.environment import rank
from leap.errors import LeapError, UsageError
from leap.hub.client import Hub, find_hub
from leap.hub.download import Choice, download_snapshot, log
from leap.hub.file_listing import Repository, Snapshot
from leap.hub.notes import HubListing, read_listing
from leap.hub.resume_download import Retries, RetryPolicy
from leap.records.files import write_atomic
from leap.records.locks import FolderLock
from leap.records.paths import find_path, may_be_hub_name
from leap.terminal import first_few

_NAME = re.compile(r"([^/@:]+/[^/@:]+)(?:@([\w.-]+(?:/[\w.-]+)*))?(?::([^:]+))?")
_CACHED = re.compile("models--(.+?)--(.+)")
_IS_MODEL = ("config.json", "adapter_config.json")
# What loading and serving read. Optimisers' states and other programs' forms of the weights stay on the hub.
_READ = (".json", ".safetensors", ".txt", ".jinja", ".model", ".tiktoken", ".py", ".md")
_PICKLED = re.compile(r"(pytorch_model|adapter_model).*\.bin")  # only where there are no other weights
_TEMPLATES = "additional_chat_templates"
_LONGEST_WAIT = 7 * 24 * 3600.0  # seconds, for another rank or job that fetches the same model


@dataclass(frozen=True)
class HubModel:
    """A repository of the hub, or a folder in one, that holds a model. Without a revision: the main branch's."""

    repository: str
    revision: str | None = None
    subfolder: str | None = None

    def __str__(self) -> str:
        at, folder = self.revision, self.subfolder
        return f"{self.repository}{f'@{at}' if at else ''}{f':{folder}' if folder else ''}"

    @property
    def name(self) -> str:
        """As a folder's: NAME, or NAME-SUBFOLDER."""
        owned = self.repository.partition("/")[2]
        return f"{owned}-{self.subfolder.replace('/', '-')}" if self.subfolder else owned


def find_model(text: str, root: Path) -> Path | HubModel:
    """What a command line means: a folder where there is one, else the hub's model of that name. Nothing is asked.

    `root` is the workspace's. Raises UsageError for a text that is neither a path nor such a name.
    """
    return _folder_or_hub(text, find_path(text, root), root)


def named_model(text: str, root: Path) -> Path | HubModel:
    """The same for a name in a file, a recipe's or an adapter's, whose relative paths start at `root` alone."""
    return _folder_or_hub(text, root / text, root)


def _folder_or_hub(text: str, folder: Path, root: Path) -> Path | HubModel:
    model = _parse(text)
    if model is None:
        return folder
    if folder.exists():
        if _snapshots(model).is_dir():
            _say(f"note: {text}: the folder {folder} is taken, not the hub's model of that name")
        return folder
    explicit = model != HubModel(model.repository)  # OWNER/NAME alone may be a mistyped path
    return model if may_be_hub_name(model.repository, root, explicit) else folder


@cache
def _say(text: str) -> None:
    """Once, and by one rank."""
    if rank() == 0:
        log(text)


def _parse(text: str) -> HubModel | None:
    match = _NAME.fullmatch(text)
    if match is None:
        return None
    repository, revision, subfolder = match.groups()
    place = PurePosixPath(subfolder or ".")
    if place.is_absolute() or ".." in (*place.parts, *(revision or "").split("/")):
        raise UsageError(f"{text!r}: a model on the hub is OWNER/NAME, OWNER/NAME@REVISION or OWNER/NAME:SUBFOLDER")
    return HubModel(repository, revision, str(place) if place.parts else None)


def local_folder(model: Path | HubModel, root: Path) -> Path:
    """Where a model lies, or would: `fetch_model` has seen to one of the hub's. Nothing is asked."""
    if isinstance(model, Path):
        return model
    return _local_copy(model, root) or _of_that_name(model, root) or root / "models" / model.name


def fetch_model(model: Path | HubModel, root: Path) -> Path:
    """The model's folder on this machine; one of the hub's is fetched where it is not here yet.

    Raises LeapError where the hub does not have it or does not give it, and offline where it is not here.
    """
    return model if isinstance(model, Path) else _fetch_once(model, root)


@cache
def _fetch_once(model: HubModel, root: Path) -> Path:
    """A process has one commit of a branch, and asks for it once."""
    from huggingface_hub import is_offline_mode

    here, offline = _local_copy(model, root), is_offline_mode()
    commit = read_listing(_snapshots(model) / (model.revision or ""))  # else others may have fetched some files only
    if here and (offline or commit or here.is_relative_to(root / "models")):
        _say(f"{model}: {here}")
        return here
    kept = here or _of_that_name(model, root)
    if offline and kept is None:
        raise LeapError(
            f"{model}: neither {root / 'models'} nor the hub's cache ({_hub_cache()}) has it, and HF_HUB_OFFLINE (or "
            "TRANSFORMERS_OFFLINE) is set: unset it to download"
        )
    try:
        hub = find_hub(_say)
    except LeapError as error:
        if kept is None or isinstance(error, UsageError):
            raise
        what = "as it was fetched last" if here else "for what has its name here, wherever that came from"
        _say(f"{error}; {model} is taken {what}: {kept}")
        return kept
    if kept and not here:
        _say(f"note: {model}: {kept} is not known to have come from there; to have it, give its path")
    return _fetch(hub, model)


def _fetch(hub: Hub, model: HubModel) -> Path:
    retries = Retries(RetryPolicy(), log)
    repository = Repository(model.repository, "model", model.revision)
    snapshot = retries.persist(lambda: hub.snapshot(repository))
    choice, place = _files_of(model, snapshot.commit), _snapshots(model) / snapshot.commit
    with FolderLock(_snapshots(model).parent / ".leap", timeout=_LONGEST_WAIT):
        if not _has(place, choice([file.path for file in snapshot.files])):
            download_snapshot(hub, snapshot, place, choice, retries)
        _note_revision(model, snapshot)
    return place / (model.subfolder or "")


def _note_revision(model: HubModel, snapshot: Snapshot) -> None:
    """What commit a branch or tag was, for those without a network."""
    if model.revision != snapshot.commit:
        note = _reference(model)
        note.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(note, snapshot.commit, if_changed=True)


def _files_of(model: HubModel, commit: str) -> Choice:
    """The files of the model alone. Raises LeapError, naming the models that are there, where there is none."""
    folder = f"{model.subfolder}/" if model.subfolder else ""

    def choose(paths: Sequence[str]) -> set[str]:
        own = [path.removeprefix(folder) for path in paths if path.startswith(folder)]
        if set(own).isdisjoint(_IS_MODEL):
            others = {path.rpartition("/")[0] for path in paths if path.rpartition("/")[2] in _IS_MODEL}
            names = [str(replace(model, subfolder=other or None)) for other in sorted(others, key=_by_length)]
            what = f"no model in {model.subfolder}" if folder else "no model of its own"
            listed = first_few(names, 10) if names else "none in any folder"
            raise LeapError(f"{model.repository} has {what} at {commit[:12]} (no {_IS_MODEL[0]}); it has {listed}")
        return {folder + path for path in _read_files(own)}

    return choose


def _by_length(name: str) -> tuple[int, str]:
    return len(name), name


def _read_files(paths: Sequence[str]) -> Iterator[str]:
    """Of a model's files those that are read, by their paths in its folder."""
    pickled = not any(path.endswith(".safetensors") and "/" not in path for path in paths)
    for path in paths:
        parent, _, name = path.rpartition("/")
        if parent in ("", _TEMPLATES) and (name.endswith(_READ) or (pickled and _PICKLED.fullmatch(name))):
            yield path


def _local_copy(model: HubModel, root: Path) -> Path | None:
    """The whole model's folder in models/ or in the hub's cache; None where it is not there."""
    ours = root / "models" / model.repository.partition("/")[2]
    listing, inside = read_listing(ours), model.subfolder or ""
    this = listing and listing.repository == model.repository and model.revision in (None, listing.commit)
    if this and _is_whole(ours, model, listing):
        return ours / inside
    cached = _snapshots(model) / _commit(model)
    return cached / inside if _is_whole(cached, model, read_listing(cached)) else None


def _of_that_name(model: HubModel, root: Path) -> Path | None:
    """A model in models/ that is called so and does not say where it came from: it may be one's own."""
    ours = root / "models" / model.repository.partition("/")[2]
    if model.revision or read_listing(ours) or not _is_whole(ours, model, None):
        return None
    return ours / (model.subfolder or "")


def _commit(model: HubModel) -> str:
    """Its revision's, as far as the cache knows it; else the revision as it stands, which is no snapshot's name."""
    note = _reference(model)
    return note.read_text().strip() if note.is_file() else model.revision or "main"


def _is_whole(folder: Path, model: HubModel, listing: HubListing | None) -> bool:
    """Whether all files are there that the hub listed: each appears when it is whole. Without a listing a model's
    settings must do; what is missing beside them, loading says."""
    place = folder / (model.subfolder or "")
    if not any((place / name).is_file() for name in _IS_MODEL):
        return False
    return listing is None or _has(folder, _files_of(model, listing.commit)(list(listing.files)))


def _has(folder: Path, paths: set[str]) -> bool:
    return all((folder / path).is_file() for path in paths)


def cached_model(folder: Path) -> HubModel | None:
    """Which model of the hub a folder in its cache is, with its commit as the revision; None for any other folder."""
    parts = folder.parts
    for place in range(len(parts) - 2):
        named = _CACHED.fullmatch(parts[place])
        if named and parts[place + 1] == "snapshots":
            return HubModel("/".join(named.groups()), parts[place + 2], "/".join(parts[place + 3 :]) or None)
    return None


def hub_origin(folder: Path) -> dict[str, str | None] | None:
    """{"repository", "commit", "subfolder"} of a model that came from the hub; None for one that did not, as far as is
    known, or has changed since."""
    found = cached_model(folder.resolve()) or _downloaded(folder.resolve())
    if found is None:
        return None
    return {"repository": found.repository, "commit": found.revision, "subfolder": found.subfolder}


def _downloaded(folder: Path) -> HubModel | None:
    """By the listing that a download left in the folder, or in one above it, where all files have the sizes in it."""
    for place in (folder, *folder.parents):
        if listing := read_listing(place):
            below = folder.relative_to(place).as_posix()
            inside = "" if below == "." else f"{below}/"
            files = [path.removeprefix(inside) for path in listing.files if path.startswith(inside)]
            sizes = {path: listing.files[inside + path] for path in _read_files(files)}
            same = all((folder / path).is_file() and (folder / path).stat().st_size == sizes[path] for path in sizes)
            own = not set(sizes).isdisjoint(_IS_MODEL)
            return HubModel(listing.repository, listing.commit, below if inside else None) if own and same else None
    return None


def _reference(model: HubModel) -> Path:
    return _snapshots(model).parent / "refs" / (model.revision or "main")


def _snapshots(model: HubModel) -> Path:
    return _hub_cache() / f"models--{model.repository.replace('/', '--')}" / "snapshots"


def _hub_cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)
