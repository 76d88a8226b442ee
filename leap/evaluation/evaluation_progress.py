"""How far evaluations are, read from their result files alone; nothing is written."""

import os
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from leap.errors import LeapError
from leap.evaluation.manifest import MANIFEST, asked_for, read_manifest
from leap.evaluation.result_folder import PREDICTIONS
from leap.records.benchmark import Prediction
from leap.records.files import LOCK, is_file
from leap.records.json_files import first_problem, read_record
from leap.records.litter import listed
from leap.records.locks import lock_holder
from leap.vlabench.diagnosis import without_plan
from leap.vlabench.dimensions import DIMENSIONS
from leap.vlabench.parsing import parse_plan

Status = Literal["running", "stopped", "incomplete", "complete", "unreadable"]
_WINDOW, _TRUSTED = 120.0, 15.0  # seconds that a live rate looks back at most, and at least: answers come in batches


@dataclass(frozen=True)
class Progress:
    """One model on one dimension.

    `done` counts answers; examples whose inference failed are apart, and tried again by the next run. `format_errors`
    are answers without a plan; `refused`, `filtered` and `empty` ones are counted apart. `rate` is in examples a
    second: what a live reader saw of late, or else the mean while this dimension was answered, without pauses and the
    time of others. `left` is in seconds. None: unknown.
    """

    model: str
    dimension: str
    status: Status
    done: int
    total: int | None
    rate: float | None
    left: float | None
    format_errors: int
    inference_errors: int
    refused: int = 0
    filtered: int = 0
    empty: int = 0
    process: str | None = None  # "PID host" of the one that runs it
    problem: str | None = None


@dataclass
class _Folder:
    """What is known of one result folder; predictions are read on from where the last reading ended."""

    path: Path
    offset: int = 0
    lines: int = 0
    inode: int = 0
    answered: dict[tuple[str, str, int], str] = field(default_factory=dict)  # "plan", or why the answer is none
    failed: set[tuple[str, str, int]] = field(default_factory=set)
    seen: deque[tuple[float, int]] = field(default_factory=deque)  # (clock, lines): how the file grew

    def read_on(self) -> None:
        """Take in the whole lines that were added. Raises LeapError for a line that is no prediction."""
        path = self.path / PREDICTIONS
        if not is_file(path):
            self._forget(0)
            return
        with path.open("rb") as file:
            state = os.fstat(file.fileno())
            if state.st_ino != self.inode or state.st_size < self.offset:  # a new evaluation in this folder
                self._forget(state.st_ino)
            file.seek(self.offset)
            added = file.read()
        whole = added[: added.rfind(b"\n") + 1]  # a line without its end is still being written
        for line in whole.split(b"\n")[:-1]:
            self._take(line)
        self.offset += len(whole)

    def _take(self, line: bytes) -> None:
        self.lines += 1
        if not line.strip():
            return
        try:
            record = read_record(line, Prediction)
        except ValidationError as error:
            place = f"{self.path / PREDICTIONS}:{self.lines}"
            self._forget(0)  # somebody may mend it: read all of it the next time
            raise LeapError(f"{place}: {first_problem(error)}; mend or remove this line") from error
        key = record.task, record.example, record.repeat
        self.answered.pop(key, None)
        self.failed.discard(key)
        if record.error is not None:
            self.failed.add(key)
        else:
            parsed = parse_plan(record.text or "", "official").error is None
            self.answered[key] = without_plan(record) or ("plan" if parsed else "format_error")

    def _forget(self, inode: int) -> None:
        self.offset = self.lines = 0
        self.inode = inode
        self.answered, self.failed, self.seen = {}, set(), deque()

    def recent_rate(self, now: float) -> float | None:
        """Answers a second in the last minutes; None until they were watched for long enough."""
        self.seen.append((now, self.lines))
        while len(self.seen) > 2 and now - self.seen[1][0] >= _WINDOW:
            self.seen.popleft()
        first, before = self.seen[0]
        return (self.lines - before) / (now - first) if now - first >= _TRUSTED else None


class Monitor:
    """Reads a results folder again and again."""

    def __init__(self, results: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.results, self._clock = results, clock
        self._folders: dict[tuple[str, str], _Folder] = {}

    def read(self) -> list[Progress]:
        """Every model and dimension, by dimension and name. Raises LeapError where there is no results folder."""
        if not self.results.is_dir():
            raise LeapError(f"{self.results}: there is no such results folder; run an evaluation or set --results")
        found = []
        for dimension in DIMENSIONS:
            for path in listed(self.results / dimension.name, "*/"):
                if any((path / name).exists() for name in (MANIFEST, PREDICTIONS, LOCK)):
                    folder = self._folders.setdefault((dimension.name, path.name), _Folder(path))
                    found.append(self._progress(dimension.name, folder))
        return found

    def _progress(self, dimension: str, folder: _Folder) -> Progress:
        holder, problem = None, None
        manifest: dict[str, Any] = {}
        try:
            holder = lock_holder(folder.path / LOCK)
            manifest = read_manifest(folder.path)
            folder.read_on()
        except LeapError as error:
            problem = str(error)
        status: Status = "unreadable" if problem else _status(manifest, holder)
        recent = folder.recent_rate(self._clock())
        kinds = Counter(folder.answered.values())
        done, total = len(folder.answered), asked_for(manifest)
        rate = None if problem else _mean_rate(manifest)
        if status == "running" and recent is not None:
            rate = recent
        return Progress(
            model=folder.path.name,
            dimension=dimension,
            status=status,
            done=done,
            total=total,
            rate=rate,
            left=(total - done) / rate if status == "running" and rate and total is not None else None,
            format_errors=kinds["format_error"],
            inference_errors=len(folder.failed),
            refused=kinds["refused"],
            filtered=kinds["filtered"],
            empty=kinds["empty"],
            process=holder,
            problem=problem,
        )


def _status(manifest: dict[str, Any], holder: str | None) -> Status:
    if holder is not None:
        return "running"
    status = manifest.get("status")
    return status if status in ("complete", "incomplete") else "stopped"


def _mean_rate(manifest: dict[str, Any]) -> float | None:
    """Answers a second of the time that the manifest counts for them."""
    notes = manifest.get("inference", [])
    seconds = sum(note.get("seconds", 0.0) for note in notes)
    return sum(note.get("answers", 0) for note in notes) / seconds if seconds > 0 else None
