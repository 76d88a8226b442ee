"""A repository of a hub in a folder: only what is missing or damaged is fetched, and every byte is checked.

The folder itself is the record. Each run hashes what lies there against the hub's listing; a file takes its name only
when its hash is right, and one that was cut short waits in `.download-…` and goes on where it ends. So a run that was
interrupted, or killed, is continued by the next.
"""

import argparse
import re
import shutil
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from rich.filesize import decimal

from leap.cli import count, refuse_reversed, seconds, some_workers
from leap.errors import LeapError
from leap.hub.client import Hub
from leap.hub.file_listing import HubFile, Repository, Snapshot
from leap.hub.notes import keep_listing
from leap.hub.resume_download import Fetch, Retries, RetryPolicy
from leap.progress import track_bytes
from leap.records.files import check_folder
from leap.records.locks import FolderLock
from leap.terminal import first_few

_ORDINARY = (".gitattributes", ".gitignore")  # of most repositories
Choice = Callable[[Sequence[str]], set[str]]  # which of a repository's paths are wanted


def log(text: str) -> None:
    """A line on the screen, at once."""
    print(text, file=sys.stderr, flush=True)


def everything(paths: Sequence[str]) -> set[str]:
    """Every file of a repository."""
    return set(paths)


def numbered(pattern: str) -> Callable[[str], str | None]:
    """The first group of the pattern at a path's beginning."""
    return lambda path: match[1] if (match := re.match(pattern, path)) else None


def named(what: str, name_of: Callable[[str], str | None], wanted: Sequence[str]) -> Choice:
    """The files to which `name_of` gives a wanted name, or any name where "all" are wanted.

    The choice raises LeapError, listing what the hub has, where it has nothing of a name.
    """

    def choose(paths: Sequence[str]) -> set[str]:
        found = defaultdict(set)
        for path in paths:
            if name := name_of(path):
                found[name].add(path)
        has = sorted(found, key=lambda name: (len(name), name))
        if absent := [name for name in wanted if name not in found and (name != "all" or not has)]:
            folders = sorted({path.partition("/")[0] for path in paths})
            listed = ", ".join(has) or f"none, only {', '.join(folders[:20]) or 'no file at all'}"
            raise LeapError(f"the hub has no {what} {', '.join(absent)}; it has {listed}")
        return set().union(*(found[name] for name in (has if "all" in wanted else wanted)))

    return choose


def download(
    hub: Hub, repository: Repository, folder: Path, choice: Choice, policy: RetryPolicy, dry_run: bool = False
) -> None:
    """Make `folder` hold the chosen files of the repository; `dry_run` only says what would be fetched.

    Raises LeapError where the hub refuses or the disk is too small, and where files twice had a wrong hash: these are
    named, and not put into the folder.
    """
    check_folder(folder)
    retries = Retries(policy, log)
    snapshot = retries.persist(lambda: hub.snapshot(repository))
    download_snapshot(hub, snapshot, folder, choice, retries, dry_run)


def download_snapshot(
    hub: Hub, snapshot: Snapshot, folder: Path, choice: Choice, retries: Retries, dry_run: bool = False
) -> None:
    """The same for files that are known already."""
    repository, wanted = snapshot.repository, choice([file.path for file in snapshot.files])
    files = [file for file in snapshot.files if file.path in wanted]
    log(f"{repository.name} at {snapshot.commit[:12]}: {_amount(files)}, into {folder}")
    if hidden := [path for path in snapshot.hidden if path not in _ORDINARY]:
        log(f"left out, since what is hidden may act on its own: {first_few(hidden)}")
    _refuse_ways_out(files, folder)
    parts = folder / f".download-{repository.name.replace('/', '--')}"
    fetch = Fetch(hub, snapshot, folder, parts, retries)
    if dry_run:
        missing = _missing(files, folder)
        log(f"to fetch: {_amount(missing)}, {decimal(sum(map(fetch.left, missing)))} of them still to come")
        return
    with FolderLock(parts):
        keep_listing(folder, snapshot)
        known = {fetch.part(file) for file in snapshot.files}
        for old in set(parts.glob("*.part")) - known:  # of another commit
            old.unlink()
        if missing := _missing(files, folder):
            _fetch(fetch, missing, folder)
    log(f"{folder}: all {len(files)} files have the hub's sizes and hashes")


def _refuse_ways_out(files: Sequence[HubFile], folder: Path) -> None:
    """Raise LeapError where a link in the folder would take files of the hub to a place outside."""
    parents = {folder / parent for file in files for parent in PurePosixPath(file.path).parents}
    for parent in sorted(parents - {folder}):
        if parent.is_symlink() and not parent.resolve().is_relative_to(folder.resolve()):
            raise LeapError(
                f"{parent}: a link that leads out of {folder}; nothing is downloaded through it. Put a folder in its "
                f"place, or make {folder} the link"
            )


def _amount(files: Sequence[HubFile]) -> str:
    return f"{len(files)} files, {decimal(sum(file.size for file in files))}"


def _missing(files: Sequence[HubFile], folder: Path) -> list[HubFile]:
    """The files that are not there, or not as the hub has them; the latter are reported."""
    there = [file for file in files if (folder / file.path).exists()]
    if taken := [file.path for file in there if (folder / file.path).is_dir()]:
        raise LeapError(f"{folder / taken[0]}: a folder lies where the hub has a file; move it away")
    damaged: list[HubFile] = []

    def checked() -> Iterator[int]:
        for file in there:
            if not file.is_at(folder / file.path):
                damaged.append(file)
            yield file.size

    if there:
        sum(track_bytes(checked(), "checking what is there", sum(file.size for file in there)))
    if damaged:
        log(f"not as the hub has them, to be replaced: {first_few([file.path for file in damaged])}")
    there_and_right = {file.path for file in there} - {file.path for file in damaged}
    return [file for file in files if file.path not in there_and_right]


def _fetch(fetch: Fetch, missing: Sequence[HubFile], folder: Path) -> None:
    left, free = sum(map(fetch.left, missing)), shutil.disk_usage(folder).free
    if left > free:
        raise LeapError(
            f"{folder}: {decimal(left)} are still to come, and {decimal(free)} of the disk are free; "
            "make room, choose less, or give another folder"
        )
    sum(track_bytes(fetch.run(missing), "downloading", left))
    if fetch.wrong:
        raise LeapError(
            f"{folder}: twice they came with another hash than the hub lists, and were left out: "
            f"{first_few(sorted(fetch.wrong))}; the same command tries them again"
        )


def add_retry_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that every download has."""
    add, standard = parser.add_argument, RetryPolicy()
    add("--max_workers", type=some_workers, default=standard.max_workers, help="files at once")
    add(
        "--initial_sleep",
        type=seconds,
        default=standard.initial_sleep,
        metavar="SECONDS",
        help="the first wait, at most, when the hub says 429 without Retry-After; it doubles",
    )
    add("--max_sleep", type=seconds, default=standard.max_sleep, metavar="SECONDS", help="the longest")
    add("--max_tries", type=count, default=standard.max_tries, help="in a row without a new byte")
    add("--dry_run", action="store_true", help="only say what would be fetched")


def retry_policy_of(arguments: argparse.Namespace) -> RetryPolicy:
    """What these flags say. Raises UsageError where the first wait is longer than the longest."""
    refuse_reversed(arguments, "initial_sleep", "max_sleep")
    return RetryPolicy(arguments.max_workers, arguments.initial_sleep, arguments.max_sleep, arguments.max_tries)
