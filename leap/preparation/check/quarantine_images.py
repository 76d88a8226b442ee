"""The outcome of an image check: reported, written down, and, if asked for, the bad images quarantined."""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from leap.data.formats.stored_images import ImageFolder
from leap.preparation.check.image_audit import Audit, audit_images
from leap.preparation.check.image_facts import FactStore
from leap.preparation.check.orphans import Places
from leap.records.files import cache_in_use, write_atomic
from leap.records.json_files import write_json
from leap.records.litter import listed
from leap.records.locks import FolderLock
from leap.records.quarantine import move_to_quarantine

MISSING_TASKS = "missing_task_ids.txt"
_SHOWN = 3  # examples of each kind on the screen


@dataclass(frozen=True)
class Cleaning:
    """What is checked, and what is done with what is found."""

    places: Places
    files: tuple[Path, ...]  # none: every JSONL file of the data folder
    roots: tuple[Path, ...]  # where a sample's relative image paths start
    cache: Path
    decode: bool = True
    write: bool = True  # a report, the ids of incomplete tasks, and what is known of images
    move: bool = False  # bad images to the quarantine
    keep_orphans: bool = False

    @property
    def quarantine(self) -> Path:
        return self.places.home / "quarantine"


def clean_images(work: Cleaning) -> bool:
    """Check, report and write down, and with `move` quarantine; whether all samples can be trained on.

    Raises LeapError where another process moves images away.
    """
    with ExitStack() as held:
        if work.move:
            held.enter_context(FolderLock(work.quarantine))
        cache = held.enter_context(cache_in_use(work.cache, work.write))
        files = list(dict.fromkeys(work.files)) or listed(work.places.data, "*.jsonl")
        store = FactStore(cache) if work.decode else None
        stored = ImageFolder(cache / "training" / "images")  # where a training run has them, too
        audit = audit_images(files, work.roots, work.places, store, stored)
        tasks = audit.incomplete_tasks()
        _log(audit, tasks)
        if work.write:
            _write_down(audit, tasks, work)
        _move_to_quarantine(audit, work)
    return not audit.problems


def _write_down(audit: Audit, tasks: Sequence[int], work: Cleaning) -> None:
    report = work.cache / "images" / "report.json"
    write_json(report, audit.to_dict())
    print(f"everything in {report}")
    if work.places.in_data:
        write_atomic(work.places.data / MISSING_TASKS, "".join(f"{task}\n" for task in tasks))
        print(f"task ids in {work.places.data / MISSING_TASKS}")


def _log(audit: Audit, tasks: Sequence[int]) -> None:
    names = ", ".join(file.name for file in audit.files) or "no JSONL file, so that nothing can be missing or orphaned"
    print(f"{'samples':18} {audit.samples:>9,}  ({names})")
    print(f"{'images named':18} {audit.images:>9,}")
    print(f"{'decoded now':18} {audit.decoded:>9,}  (the others are as they were)")
    for what, found in (
        ("missing", [f"{name}: {why}" for name, why in audit.missing.items()]),
        ("corrupt", list(audit.corrupt.values())),
        ("unreadable samples", [f"{place}: {why}" for place, why in audit.invalid.items()]),
        ("orphans", audit.orphans),
        ("incomplete tasks", [str(task) for task in tasks]),
    ):
        print(f"{what:18} {len(found):>9,}")
        for example in found[:_SHOWN]:
            print(f"    {example}")
        if len(found) > _SHOWN:
            print(f"    and {len(found) - _SHOWN:,} more")
    if audit.vanished:
        print(f"images that went away meanwhile (does another command move them? check again): {len(audit.vanished):,}")


def _move_to_quarantine(audit: Audit, work: Cleaning) -> None:
    home = work.places.home
    corrupt = {path: why for name, why in audit.corrupt.items() if (path := _inside(home, name))}
    own = (path for name in audit.orphans if (path := _inside(home, name)) and _is_own(home, path))
    orphans = dict.fromkeys(own, "no sample names it")
    reasons = corrupt if work.keep_orphans else {**orphans, **corrupt}
    for what, elsewhere in (
        ("corrupt images", len(audit.corrupt) - len(corrupt)),
        ("orphans", len(audit.orphans) - len(orphans)),
    ):
        if elsewhere:
            print(f"{what} outside {home}, which are never moved: {elsewhere:,}")
    if not reasons:
        return
    if not work.move:
        print(f"dry run: --quarantine would move {len(reasons):,} images to {work.quarantine}")
        return
    restore_file = move_to_quarantine(reasons, home, work.quarantine)
    print(f"moved {len(reasons):,} images; --restore {restore_file} puts them back")


def _inside(home: Path, name: str) -> Path | None:
    """A file that is still there by its plain path in a folder, whatever `..` it was named with; None outside."""
    path = Path(os.path.normpath(name))
    return path if path.is_relative_to(home) and path.is_file() and path.samefile(name) else None


def _is_own(home: Path, path: Path) -> bool:
    """Whether no link leads out of the folder: what lies elsewhere may be named by files that are not known here."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(home))
