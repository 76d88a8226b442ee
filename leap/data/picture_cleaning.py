"""What is done with the outcome of a picture check: told, written down, and, if wanted, the bad pictures set aside."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from leap.data.picture_audit import Audit, audit_pictures
from leap.data.picture_facts import PictureStore
from leap.records.files import write_atomic, write_json
from leap.records.litter import listed
from leap.records.set_aside import set_aside

MISSING_TASKS = "missing_task_ids.txt"
_SHOWN = 3  # examples of each kind on the screen


@dataclass(frozen=True)
class Cleaning:
    """Which folder is checked, and what is done with what is found."""

    data: Path
    files: tuple[Path, ...]  # none: every JSONL file of the folder
    roots: tuple[Path, ...]  # where a row's relative picture paths start
    cache: Path
    decode: bool = True
    delete: bool = False
    keep_orphans: bool = False


def clean_pictures(work: Cleaning) -> bool:
    """Check, tell and write down, and with `delete` move away; whether all rows can be trained on.

    A picture is an orphan only if no JSONL file of the folder names it, whichever files are checked.
    """
    own = listed(work.data, "*.jsonl")
    store = PictureStore(work.cache) if work.decode else None
    others = [file for file in own if file not in work.files] if work.files else []
    audit = audit_pictures(work.data, work.files or own, work.roots, store, others)
    report = work.cache / "pictures" / "report.json"
    write_json(report, audit.to_dict())
    tasks = audit.incomplete_tasks()
    write_atomic(work.data / MISSING_TASKS, "".join(f"{task}\n" for task in tasks))
    _tell(audit, tasks, work, report)
    _set_aside(audit, work)
    return not audit.problems


def _tell(audit: Audit, tasks: Sequence[int], work: Cleaning, report: Path) -> None:
    names = ", ".join(file.name for file in audit.files) or "no JSONL file, so that nothing can be missing or orphaned"
    print(f"rows               {audit.rows:>9,}  ({names})")
    print(f"pictures named     {audit.pictures:>9,}")
    print(f"decoded now        {audit.decoded:>9,}  (the others are as they were)")
    for what, found in (
        ("missing", [f"{name}: {why}" for name, why in audit.missing.items()]),
        ("corrupt", list(audit.corrupt.values())),
        ("unreadable rows", [f"{place}: {why}" for place, why in audit.invalid.items()]),
        ("orphans", audit.orphans),
        ("incomplete tasks", [str(task) for task in tasks]),
    ):
        print(f"{what:18} {len(found):>9,}")
        for example in found[:_SHOWN]:
            print(f"    {example}")
        if len(found) > _SHOWN:
            print(f"    and {len(found) - _SHOWN:,} more")
    print(f"task ids in {work.data / MISSING_TASKS}, everything in {report}")


def _set_aside(audit: Audit, work: Cleaning) -> None:
    reasons = {Path(path): why for path, why in audit.corrupt.items() if Path(path).is_relative_to(work.data)}
    elsewhere = len(audit.corrupt) - len(reasons)
    if not work.keep_orphans:
        reasons = {**{Path(path): "no row names it" for path in audit.orphans}, **reasons}
    reasons = {path: why for path, why in reasons.items() if path.is_file()}
    if elsewhere:
        print(f"corrupt pictures outside {work.data}, which are never moved: {elsewhere:,}")
    if not reasons:
        return
    trash = work.data / "trash"
    if not work.delete:
        print(f"dry run: --delete would move {len(reasons):,} pictures to {trash}")
        return
    restore_file = set_aside(reasons, work.data, trash)
    print(f"moved {len(reasons):,} pictures; --restore {restore_file} puts them back")
