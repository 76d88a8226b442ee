"""A real evaluation killed at 30 random moments of its life ends as one that nobody touched."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY

from leap.evaluation.evaluation_progress import Monitor

pytestmark = pytest.mark.slow
COMMAND = [
    sys.executable,
    "scripts/evaluation/run_vlm_evaluation.py",
    # Preparing images in a worker process, as on a GPU: it outlives a killed parent for some seconds.
    *"--checkpoint models/tiny --model_name m --image_tokens_min 4 --image_tokens_max 9".split(),
    *"--max_new_tokens 3 --batch_size 2 --workers 1 --device cpu".split(),
]
EXAMPLES = 8  # a dimension
KILLS = 30
# What tells of a run and not of its result.
OF_THE_RUN = ("start", "end", "inference", "command", "code")
_started: list[int] = []  # process groups; a killed run leaves its worker behind


@pytest.fixture(scope="module")
def bench(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The tiny workspace with more examples: the same scenes under other instructions."""
    root = tmp_path_factory.mktemp("killed")
    for part in ("dataset", "models/tiny"):
        shutil.copytree(workspace / part, root / part)
    for first in sorted(root.glob("dataset/*/*/*/example0")):
        for number in range(2, EXAMPLES):
            copy = shutil.copytree(first, first.with_name(f"example{number}"))
            instruction = copy / "input" / "instruction.txt"
            instruction.write_text(f"{instruction.read_text().strip()} This is request {number}.")
    yield root
    end_all_but(0)


@dataclass
class Whole:
    """What an unbroken run left, and when its first answer came after its start, in seconds."""

    files: dict[str, bytes]
    first_response: float


@pytest.fixture(scope="module")
def whole(bench: Path) -> Whole:
    started = time.monotonic()
    with start(bench) as process:
        wait_until(process, lambda: line_count(bench) > 0)
        first = time.monotonic() - started
        assert process.wait() == 0, (bench / "log").read_text()
    shutil.copytree(bench / "eva_results", bench / "reference")
    return Whole(final_files(bench), first)


@pytest.fixture
def empty(bench: Path, whole: Whole) -> Path:
    """The workspace without results."""
    for name in ("eva_results", "backup_eva_results", "log"):
        path = bench / name
        path.unlink(missing_ok=True) if path.is_file() else shutil.rmtree(path, ignore_errors=True)
    return bench


def start(root: Path, *options: str) -> subprocess.Popen[bytes]:
    """Beside the worker that the last killed run left; older ones are ended."""
    end_all_but(1)
    environment = {**os.environ, "LEAP_ROOT": str(root)}
    with (root / "log").open("ab") as log:
        process = subprocess.Popen(
            [*COMMAND, *options], env=environment, cwd=REPOSITORY, stdout=log, stderr=log, start_new_session=True
        )
    _started.append(process.pid)
    return process


def end_all_but(number: int) -> None:
    while len(_started) > number:
        with suppress(ProcessLookupError):
            os.killpg(_started.pop(0), signal.SIGKILL)


def finish(root: Path, *options: str) -> None:
    with start(root, *options) as process:
        assert process.wait() == 0, (root / "log").read_text()


def wait_until(process: subprocess.Popen[bytes], reached: Callable[[], bool]) -> None:
    """Return when it is reached, or when the process has ended by itself."""
    while process.poll() is None and not reached():
        time.sleep(0.005)


def kill(process: subprocess.Popen[bytes]) -> bool:
    """Whether the kill came before the process ended by itself, which must then have been well."""
    process.kill()
    code = process.wait()
    assert code in (0, -signal.SIGKILL)
    return code != 0


def final_files(root: Path) -> dict[str, bytes]:
    """All that lies in the result folders, manifests without what tells of the run."""
    results = root / "eva_results"
    files = {str(path.relative_to(results)): path.read_bytes() for path in results.glob("*/*/*")}
    for name in [name for name in files if name.endswith("manifest.json")]:
        manifest = json.loads(files[name])
        files[name] = json.dumps({key: value for key, value in manifest.items() if key not in OF_THE_RUN}).encode()
    return files


def line_count(root: Path, name: str = "m") -> int:
    return sum(path.read_bytes().count(b"\n") for path in root.glob(f"eva_results/*/{name}/predictions.jsonl"))


def whole_lines(root: Path) -> dict[tuple[str, ...], bytes]:
    """The answers in whole lines, by example. One that stands there twice was asked twice."""
    found: dict[tuple[str, ...], bytes] = {}
    for path in root.glob("eva_results/*/m/predictions.jsonl"):
        for line in path.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n"):
                record: dict[str, Any] = json.loads(line)
                key = path.parts[-3], record["task"], record["example"]
                assert key not in found
                assert record["text"] is not None
                found[key] = line
    return found


def state(root: Path) -> frozenset[tuple[str, int, int]]:
    """Changes with every file that comes, goes, grows or is replaced."""
    found = set()
    for path in root.glob("eva_results/*/m/*"):
        with suppress(FileNotFoundError):
            status = path.stat()
            found.add((str(path), status.st_ino, status.st_size))
    return frozenset(found)


def kill_in(phase: str, root: Path, rng: random.Random, first_response: float) -> bool:
    before, lines, wanted = state(root), line_count(root), rng.randint(1, 3)
    with start(root) as process:
        if phase == "start":
            time.sleep(rng.uniform(0, first_response))
        elif phase == "answers":
            wait_until(process, lambda: line_count(root) >= lines + wanted)
            time.sleep(rng.choice((0, rng.uniform(0, 0.1))))
        elif lines < 6 * EXAMPLES:  # the last answer, and the end that follows it
            wait_until(process, lambda: line_count(root) == 6 * EXAMPLES)
            time.sleep(rng.uniform(0, 0.05))
        else:  # nothing is left to ask: from the first lock to the summary
            wait_until(process, lambda: state(root) != before)
            time.sleep(rng.uniform(0, 0.5))
        return kill(process)


def statuses(root: Path) -> set[str]:
    results = root / "eva_results"
    return {found.status for found in Monitor(results).read()} if results.exists() else set()


def test_thirty_kills(empty: Path, whole: Whole) -> None:
    rng = random.Random(30)
    phases = ["start"] * 8 + ["answers"] * 14
    rng.shuffle(phases)
    phases += ["finish"] * (KILLS - len(phases))
    killed = 0
    for phase in [*phases, *["finish"] * 20]:  # some may come too late
        before = whole_lines(empty)
        killed += killed < KILLS and kill_in(phase, empty, rng, whole.first_response)
        assert before.items() <= whole_lines(empty).items()
        # A worker that was just being forked has the lock until it lets go: at most as long as a start waits for one.
        deadline = time.monotonic() + 0.5
        while not (found := statuses(empty)) <= {"stopped", "complete"}:
            assert time.monotonic() < deadline, found
            time.sleep(0.01)
    assert killed == KILLS
    before = whole_lines(empty)
    finish(empty)
    assert before.items() <= whole_lines(empty).items()
    assert len(whole_lines(empty)) == 6 * EXAMPLES
    assert final_files(empty) == whole.files


def test_killed_while_asking_again(empty: Path) -> None:
    """Sampled responses, in batches of other make-up after each kill: what is drawn is the same."""
    options = "--repeats 2 --temperature 1".split()
    for lines in (3, 90):
        with start(empty, *options) as process:
            wait_until(process, lambda lines=lines: line_count(empty, "m_T1") >= lines)  # type: ignore[misc]
            assert kill(process)
    finish(empty, *options)
    broken = final_files(empty)
    assert line_count(empty, "m_T1") == 2 * 6 * EXAMPLES
    shutil.rmtree(empty / "eva_results")
    finish(empty, *options)
    assert final_files(empty) == broken


def test_killed_while_fresh_archives(empty: Path, whole: Whole) -> None:
    shutil.copytree(empty / "reference", empty / "eva_results")
    backup = empty / "backup_eva_results"
    with start(empty, "--fresh") as process:
        wait_until(process, lambda: len(list(backup.glob("*/*/m"))) >= 3)
        assert kill(process)
    finish(empty, "--fresh")
    assert final_files(empty) == whole.files
    for dimension in {name.partition("/")[0] for name in whole.files}:
        kept = [path.read_bytes() for path in backup.glob(f"*/{dimension}/m/predictions.jsonl")]
        assert whole.files[f"{dimension}/m/predictions.jsonl"] in kept


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_interrupted_and_continued(empty: Path, whole: Whole, sent: signal.Signals, code: int) -> None:
    with start(empty) as process:
        wait_until(process, lambda: line_count(empty) >= 5)
        process.send_signal(sent)
        assert process.wait() == code
    assert all(
        path.read_bytes().endswith(b"\n") for path in empty.glob("eva_results/*/m/*.jsonl") if path.stat().st_size
    )
    before = whole_lines(empty)
    assert 5 <= len(before) < 6 * EXAMPLES
    if sent == signal.SIGINT:
        assert (empty / "log").read_text().splitlines()[-1] == "interrupted; the same command continues from here"
        assert not list(empty.glob("eva_results/*/m/.*"))
    finish(empty)
    assert before.items() <= whole_lines(empty).items()
    assert final_files(empty) == whole.files
