"""The monitor: progress from result files as an evaluation leaves them at any moment, without touching them."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from conftest import REPOSITORY, run_script

from leap.errors import LeapError
from leap.evaluation.evaluation_progress import Monitor, Progress

MONITOR = "scripts/utils/monitor_evaluation.py"
PLAN = '```json\n[{"name": "lift"}]\n```'
HOLD = """
import fcntl, os, sys, time
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
file.write(f"{os.getpid()} somehost")
file.flush()
print("held", flush=True)
time.sleep(60)
"""


class Folder:
    """A result folder, written as an evaluation writes it."""

    def __init__(self, results: Path, dimension: str = "Spatial", model: str = "checkpoint-9", total: int = 10) -> None:
        self.path = results / dimension / model
        self.path.mkdir(parents=True)
        self.manifest(status="running", start=datetime.now(UTC), examples=total)

    def manifest(self, status: str, start: datetime, examples: int = 10, **more: object) -> None:
        value = {"status": status, "start": start.isoformat(), "data": {"examples": examples}, **more}
        (self.path / "manifest.json").write_text(json.dumps(value))

    def append(self, example: int, text: str | None = PLAN, error: str | None = None) -> None:
        record = {"task": "t", "example": str(example), "text": text, "error": error}
        with (self.path / "predictions.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")

    def hold(self) -> "subprocess.Popen[str]":
        """A process that holds the folder's lock."""
        command = [sys.executable, "-c", HOLD, str(self.path / ".lock")]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        return process


def only(found: list[Progress]) -> Progress:
    (progress,) = found
    return progress


def test_it_counts_answers_format_errors_and_failures(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.append(0)
    folder.append(1, text="no plan at all")
    folder.append(2, text=None, error="out of memory")
    folder.append(3, text=None, error="out of memory")
    folder.append(3)  # asked again
    seen = only(Monitor(tmp_path).read())
    assert (seen.model, seen.dimension, seen.status) == ("checkpoint-9", "Spatial", "stopped")
    assert (seen.done, seen.total, seen.format_errors, seen.inference_errors) == (3, 10, 1, 1)
    assert seen.left is None


def test_a_line_that_is_still_being_written_waits_for_its_end(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.append(0)
    path = folder.path / "predictions.jsonl"
    whole = path.read_bytes()
    half = json.dumps({"task": "t", "example": "1", "text": PLAN}).encode() + b"\n"
    monitor = Monitor(tmp_path)
    path.write_bytes(whole + half[:20])
    assert only(monitor.read()).done == 1
    assert path.read_bytes() == whole + half[:20]
    with path.open("ab") as file:
        file.write(half[20:])
    assert only(monitor.read()).done == 2
    folder.append(2)
    assert only(monitor.read()).done == 3


def test_a_fresh_start_in_the_same_folder_forgets_the_old_answers(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    for example in range(4):
        folder.append(example)
    monitor = Monitor(tmp_path)
    assert only(monitor.read()).done == 4
    path = folder.path / "predictions.jsonl"
    path.rename(tmp_path / "archived")
    assert only(monitor.read()).done == 0
    for example in range(5):
        folder.append(example)
    assert only(monitor.read()).done == 5


def test_it_runs_while_the_lock_is_held(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.append(0)
    monitor = Monitor(tmp_path)
    holder = folder.hold()
    seen = only(monitor.read())
    assert (seen.status, seen.process) == ("running", f"{holder.pid} somehost")
    holder.kill()
    holder.wait()
    assert (folder.path / ".lock").exists()
    seen = only(monitor.read())
    assert (seen.status, seen.process, seen.left) == ("stopped", None, None)


@pytest.mark.parametrize("status", ["complete", "incomplete"])
def test_the_end_is_reported_by_the_manifest_and_so_is_the_mean_rate(tmp_path: Path, status: str) -> None:
    folder = Folder(tmp_path)
    for example in range(10):
        folder.append(example)
    start = datetime(2026, 1, 1, tzinfo=UTC)
    folder.manifest(status, start, inference=[{"answers": 4, "seconds": 10.0}, {"answers": 6, "seconds": 30.0}])
    seen = only(Monitor(tmp_path).read())
    assert (seen.status, seen.done, seen.rate, seen.left) == (status, 10, 0.25, None)


def test_a_live_rate_is_the_growth_that_was_seen(tmp_path: Path) -> None:
    """The evaluation began a day ago and was stopped meanwhile: the mean since then would say nothing of its end."""
    folder = Folder(tmp_path, total=100)
    counted = [{"answers": 20, "seconds": 80.0}]
    folder.manifest("running", datetime.now(UTC) - timedelta(days=1), examples=100, inference=counted)
    for example in range(20):
        folder.append(example)
    now = [1000.0]
    monitor = Monitor(tmp_path, clock=lambda: now[0])
    holder = folder.hold()
    first = only(monitor.read())
    assert first.rate == 0.25
    for example in range(20, 60):
        folder.append(example)
    now[0] += 20
    seen = only(monitor.read())
    assert (seen.done, seen.rate, seen.left) == (60, 2.0, 20.0)
    for _ in range(10):  # nothing comes any more
        now[0] += 20
        seen = only(monitor.read())
    assert (seen.rate, seen.left) == (0.0, None)
    holder.kill()
    holder.wait()


@pytest.mark.parametrize("width", [80, 100])
def test_one_look_fits_the_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    folder = Folder(tmp_path, "PhysicsLaw", "lora_standard-checkpoint-5000_3shot_CoT", total=123456)
    for example in range(3):
        folder.append(example)
    folder.append(3, text="")
    note = {"answers": 4, "seconds": 1000}
    folder.manifest("running", datetime.now(UTC), examples=123456, inference=[note])
    shown = run_script(MONITOR, "--once", "--results", str(tmp_path)).stdout
    table = [line for line in shown.splitlines() if str(tmp_path) not in line]
    assert max(map(len, table)) <= width
    for whole in ("PhysicsLaw", "stopped", "4/123456", "< 0.01/s"):
        assert whole in shown


def test_what_is_broken_is_reported_and_the_others_are_shown(tmp_path: Path) -> None:
    good, bad = Folder(tmp_path, model="good"), Folder(tmp_path, model="bad")
    for folder in (good, bad):
        folder.append(0)
        folder.append(1)
    path = bad.path / "predictions.jsonl"
    kept = path.read_bytes()
    path.write_bytes(kept.replace(b'"example": "1"', b'"example": 1'))
    monitor = Monitor(tmp_path)
    broken, whole = monitor.read()
    assert (broken.status, whole.status, whole.done) == ("unreadable", "stopped", 2)
    assert f"{path}:2: example: " in (broken.problem or "")
    path.write_bytes(kept)
    assert [seen.done for seen in monitor.read()] == [2, 2]
    (bad.path / "manifest.json").write_text("{")
    shown = run_script(MONITOR, "--once", "--results", str(tmp_path))
    assert shown.returncode == 1
    assert f"{bad.path / 'manifest.json'}:1: not valid JSON" in shown.stdout
    assert "2/10" in shown.stdout


def test_a_model_without_answers_says_so(tmp_path: Path) -> None:
    Folder(tmp_path, model="early")
    (tmp_path / "Spatial" / "no-evaluation").mkdir()
    shown = run_script(MONITOR, "--once", "--results", str(tmp_path))
    assert shown.returncode == 0
    (line,) = [line for line in shown.stdout.splitlines() if "early" in line]
    assert line.split() == ["early", "Spatial", "nothing", "yet", "0/10", "-", "-", "0", "0"]
    assert "no-evaluation" not in shown.stdout


def test_an_empty_or_missing_folder_is_a_clear_error(tmp_path: Path) -> None:
    for folder, message in ((tmp_path, "no evaluation has begun there"), (tmp_path / "lost", "no such results folder")):
        shown = run_script(MONITOR, "--once", "--results", str(folder))
        assert shown.returncode == 1
        (line,) = shown.stderr.splitlines()
        assert line.startswith(f"error: {folder}: ")
        assert message in line
    with pytest.raises(LeapError):
        Monitor(tmp_path / "lost").read()


def test_gpu_memory_is_shown_where_nvidia_smi_shows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """nvidia-smi's output for an H100, and for a MIG card that tells no utilization, printed by a script."""
    program = tmp_path / "nvidia-smi"
    lines = ("0, NVIDIA H100 80GB HBM3, 40960, 81559, 97", "1, NVIDIA H100 80GB HBM3, 12, 81559, [N/A]")
    program.write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in lines))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    Folder(tmp_path / "results").append(0)
    shown = run_script(MONITOR, "--once", "--results", str(tmp_path / "results"))
    assert "GPU 0 NVIDIA H100 80GB HBM3, 40.0 of 79.6 GiB, 97 % busy\n" in shown.stdout
    assert "GPU 1 NVIDIA H100 80GB HBM3, 0.0 of 79.6 GiB\n" in shown.stdout
    as_json = run_script(MONITOR, "--once", "--json", "--results", str(tmp_path / "results"))
    assert json.loads(as_json.stdout)["gpus"][0]["memory_used"] == 40960
    program.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'\nexit 9\n")
    assert (
        json.loads(run_script(MONITOR, "--once", "--json", "--results", str(tmp_path / "results")).stdout)["gpus"] == []
    )


class Terminal:
    """A script on a terminal of its own, whose screen is read to the end: a full terminal would stop it."""

    def __init__(self, *words: str, lines: int) -> None:
        self.ours, theirs = pty.openpty()
        environment = {**os.environ, "COLUMNS": "100", "LINES": str(lines), "TERM": "xterm"}
        command = [sys.executable, str(REPOSITORY / MONITOR), *words]
        self.process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
        os.close(theirs)
        self.text = ""

    def read_until(self, words: str | None) -> None:
        """Read until `words` were shown since the last call, or to the end."""
        self.text = ""
        deadline = time.monotonic() + 60
        while words is None or words not in self.text:
            assert time.monotonic() < deadline, self.text[-1000:]
            if select.select([self.ours], [], [], 1)[0]:
                try:
                    self.text += os.read(self.ours, 4096).decode(errors="replace")
                except OSError:  # the other side is closed
                    assert words is None, self.text[-1000:]
                    break

    def leave(self) -> int:
        self.process.send_signal(signal.SIGINT)
        self.read_until(None)
        os.close(self.ours)
        return self.process.wait()


def test_the_live_screen_follows_the_files_until_it_is_left(tmp_path: Path) -> None:
    folder = Folder(tmp_path, model="live")
    folder.append(0)
    terminal = Terminal("--interval", "0.1", "--results", str(tmp_path), lines=20)
    terminal.read_until("1/10")
    folder.append(1)
    terminal.read_until("2/10")
    assert terminal.leave() == 0
    assert "Traceback" not in terminal.text


def test_the_ones_in_work_come_first_where_the_screen_is_small(tmp_path: Path) -> None:
    for number in range(12):
        Folder(tmp_path, model=f"checkpoint-{number}").manifest("complete", datetime.now(UTC))
    holder = Folder(tmp_path, model="checkpoint-99").hold()
    terminal = Terminal("--interval", "5", "--results", str(tmp_path), lines=14)
    terminal.read_until("more; --once shows all")
    assert "checkpoint-99" in terminal.text
    assert terminal.leave() == 0
    holder.kill()
    holder.wait()
