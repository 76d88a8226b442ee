"""One image an episode, out of archives that are whole: whatever the kills, the broken archives, the second runs."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import REPOSITORY, Finished, run_script
from frame_archives import frames, image, pixels, tar_gz, write_archive
from test_crash_safety import killed_at

import leap.preparation.agibot
import leap.records
from leap import progress
from leap.preparation.agibot import archives
from leap.preparation.agibot.archive_tasks import Outcome, find_archives, prepare, survey
from leap.preparation.agibot.archives import GzipStream
from leap.preparation.agibot.first_frames import FirstFrames
from leap.records.locks import FolderLock

SCRIPT = "scripts/utils/prepare_love_agibot.py"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A workspace with the archives of three tasks."""
    for task, episodes in ((327, 4), (328, 3), (4, 2)):
        write_archive(tmp_path / "data" / "love_agibot" / "image", task, episodes)
    return tmp_path


def archive_of(root: Path, task: int) -> Path:
    return root / "data" / "love_agibot" / "image" / f"task_{task}.tar.gz"


def images_of(root: Path) -> Path:
    return root / "data" / "images"


def prepared(root: Path, processes: int = 1) -> list[Outcome]:
    outcomes: list[Outcome] = []
    prepare(find_archives(root / "data" / "love_agibot" / "image"), images_of(root), processes, outcomes)
    return sorted(outcomes, key=lambda outcome: int(outcome.archive.task))


def states(outcomes: list[Outcome]) -> list[tuple[str, int, int]]:
    return [(outcome.state, outcome.episodes, outcome.made) for outcome in outcomes]


def final_files(root: Path) -> dict[str, bytes]:
    """All that is there in the end, without what tells of time."""
    folder = images_of(root)
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for name in [name for name in found if name.endswith(".json")]:
        record = json.loads(found[name])
        for known in record["images"].values():
            del known["mtime_ns"]
        found[name] = json.dumps(record, sort_keys=True).encode()
    return found


# --- whole runs


def script(root: Path, *arguments: str) -> Finished:
    return run_script(SCRIPT, *arguments, root=root)


def test_each_episode_has_its_first_frame_and_a_second_run_reads_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dry = script(root, "--dry_run")
    assert dry.returncode == 0
    assert "3 to do" in dry.stdout
    assert not images_of(root).exists()
    done = script(root, "--num_workers", "2", "--tasks", "327", "4")
    assert (done.returncode, done.stderr) == (0, "")
    assert "archives: 2 done; 6 images, 6 of them new" in done.stdout
    done = script(root, "--num_workers", "1")
    assert "archives: 2 unchanged, 1 done; 9 images, 3 of them new" in done.stdout
    expected = {
        f"{task}-{640000 + episode}.png": image(task * 10000 + episode * 100 + 2)
        for task, episodes in ((327, 4), (328, 3), (4, 2))
        for episode in range(episodes)
    }
    assert {path.name for path in images_of(root).glob("*")} == {*expected, ".first_frames"}
    for name, frame in expected.items():
        assert np.array_equal(pixels(images_of(root) / name), pixels(frame))
    assert {path.name for path in (images_of(root) / ".first_frames").iterdir()} == {"327.json", "328.json", "4.json"}
    monkeypatch.setattr(GzipStream, "__enter__", lambda self: pytest.fail("an archive is read again"))
    done = script(root, "--num_workers", "1")
    assert "archives: 3 unchanged; 9 images, 0 of them new" in done.stdout


def test_only_what_is_missing_or_changed_is_made_again(root: Path) -> None:
    prepared(root)
    whole = final_files(root)
    (images_of(root) / "327-640001.png").unlink()
    (images_of(root) / "4-640000.png").write_bytes(b"half")
    assert states(prepared(root)) == [("done", 2, 1), ("done", 4, 1), ("unchanged", 3, 0)]
    assert final_files(root) == whole
    changed = [(name, image(9) if name == "328/640001/2.jpg" else data) for name, data in frames(328, 5)]
    archive_of(root, 328).write_bytes(tar_gz(changed))
    assert [found.state for found in survey(find_archives(archive_of(root, 4).parent), images_of(root))] == [
        "unchanged",
        "unchanged",
        "to do",
    ]
    assert states(prepared(root)) == [("unchanged", 2, 0), ("unchanged", 4, 0), ("done", 5, 3)]
    assert np.array_equal(pixels(images_of(root) / "328-640001.png"), pixels(image(9)))
    archive_of(root, 4).touch()
    assert states(prepared(root))[0] == ("done", 2, 0)


def test_a_broken_archive_gives_no_image_and_stops_no_other(root: Path) -> None:
    prepared(root)
    whole = final_files(root)
    shutil.rmtree(images_of(root))
    good = archive_of(root, 327).read_bytes()
    archive_of(root, 327).write_bytes(good[:-9])
    done = script(root)
    assert done.returncode == 1
    assert "1 failed, 2 done" in done.stdout
    assert done.stdout.count("FAILED") == 1
    assert f"FAILED {archive_of(root, 327)}: the file ends too early" in done.stdout
    assert final_files(root) == {name: data for name, data in whole.items() if "327" not in name}
    archive_of(root, 327).write_bytes(good)
    assert script(root).returncode == 0
    remade = final_files(root)
    assert remade.keys() == whole.keys()
    assert all(remade[name] == whole[name] for name in whole if name.endswith(".png"))


def test_old_images_outlive_a_broken_new_archive(root: Path) -> None:
    prepared(root)
    before = final_files(root)
    archive_of(root, 4).write_bytes(tar_gz(frames(4, 3))[:-1])
    assert states(prepared(root))[0][0] == "failed"
    assert final_files(root) == before


def test_the_hash_that_the_hub_names_must_hold(root: Path) -> None:
    metadata = root / "data/love_agibot/.cache/huggingface/download/image/task_4.tar.gz.metadata"
    metadata.parent.mkdir(parents=True)
    metadata.write_text(f"{'c' * 40}\n{'0' * 64}\n1700000000.0\n")
    outcome = prepared(root)[0]
    assert outcome.state == "failed"
    assert "the hub's is 000" in str(outcome.problem)
    assert not list(images_of(root).glob("4-*"))
    record = images_of(root) / ".first_frames" / "4.json"
    metadata.write_text(f"{'c' * 40}\n{'d' * 40}\n1700000000.0\n")  # a small file's ETag is no SHA-256
    assert states(prepared(root))[0] == ("done", 2, 2)
    found = json.loads(record.read_text())
    assert found["compared_with_hub"] is False
    metadata.write_text(f"{'c' * 40}\n{found['sha256']}\n1700000000.0\n")
    assert states(prepared(root))[0] == ("unchanged", 2, 0)
    record.unlink()
    assert states(prepared(root))[0] == ("done", 2, 2)
    assert json.loads(record.read_text())["compared_with_hub"] is True


def test_an_episode_without_a_readable_frame_is_named_and_the_others_are_made(root: Path) -> None:
    broken = [(name, data[:-200] if "640002/2" in name else data) for name, data in frames(327, 4)]
    archive_of(root, 327).write_bytes(tar_gz(broken))
    for made in (3, 0):
        outcome = prepared(root)[1]
        assert (outcome.state, outcome.episodes, outcome.made) == ("failed", 3, made)
        assert "1 episodes without an image (episode 640002, 2.jpg: cannot be decoded" in str(outcome.problem)
        assert len(list(images_of(root).glob("327-*"))) == 3


def test_wrong_calls_are_reported_in_one_line(root: Path) -> None:
    for arguments, code, message in (
        (("--tasks", "327", "9"), 1, "no archive of task 9"),
        (("--archives", "data"), 1, "no task_<number>.tar.gz here"),
        (("--num_workers", "0"), 2, "a whole number from 1 to"),
    ):
        done = script(root, *arguments)
        assert done.returncode == code
        assert message in done.stderr.splitlines()[-1]
    odd_things = ((os.mkfifo, "a named pipe"), (os.mkdir, "a folder"), (lambda path: path.symlink_to("x"), "a link"))
    for make, message in odd_things:
        path = archive_of(root, 99)
        make(path)
        done = script(root)
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
        assert f"{path}: {message}" in done.stderr
        path.rmdir() if path.is_dir() else path.unlink()
    (archive_of(root, 4).parent / "task_x.tar.gz").touch()
    assert "must be task_<number>.tar.gz" in script(root).stderr
    assert not images_of(root).exists()


def test_one_process_at_a_time(root: Path) -> None:
    with FolderLock(images_of(root) / ".first_frames"):
        done = script(root)
    assert done.returncode == 1
    assert f"another process writes here (process {os.getpid()}" in done.stderr


def test_a_full_disk_is_reported_and_keeps_what_is_ready(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import leap.preparation.agibot.frame_store as store

    write, written = store.write_atomic, []

    def full(path: Path, data: bytes) -> None:
        if len(written) == 2:
            raise OSError(28, "No space left on device", str(path))
        written.append(path)
        write(path, data)

    monkeypatch.setattr(store, "write_atomic", full)
    outcome = prepared(root)[1]
    assert outcome.state == "failed"
    assert "No space left on device" in str(outcome.problem)
    monkeypatch.undo()
    assert states(prepared(root)) == [("done", 2, 2), ("done", 4, 2), ("done", 3, 3)]


# --- stopped and killed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_in_good_order_and_the_same_command_continues(
    root: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared(root)
    whole = final_files(root)
    shutil.rmtree(images_of(root))
    whole_close, closed = FirstFrames._close, []

    def close(self: FirstFrames, episodes: int, size: int) -> None:
        whole_close(self, 0, size)
        closed.append(episodes)
        if len(closed) == 1:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(FirstFrames, "_close", close)
    monkeypatch.setattr(archives, "_CHUNK", 64)
    done = script(root, "--num_workers", "1")
    assert done.returncode == 128 + number
    assert "the same command continues from here" in done.stderr
    assert "3 stopped" in done.stdout
    handlers = [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)]
    assert not [handler for handler in handlers if "on_signals" in getattr(handler, "__qualname__", "")]
    assert not list(images_of(root).glob("*.png"))
    monkeypatch.undo()
    assert "begun before" in script(root, "--dry_run").stdout
    assert states(prepared(root)) == [("done", 2, 2), ("done", 4, 3), ("done", 3, 3)]
    assert final_files(root) == whole


LINES_OF = (*leap.preparation.agibot.__path__, *leap.records.__path__)


def test_killed_at_any_line_the_same_call_ends_as_an_unbroken_one(root: Path) -> None:
    prepared(root)
    whole = final_files(root)
    rng, killed = random.Random(7), 0
    for _ in range(10):
        shutil.rmtree(images_of(root))
        for _ in range(3):
            killed += killed_at(int(10 ** rng.uniform(2, 3.6)), lambda: prepared(root) and None, LINES_OF)
            shown = list(images_of(root).glob("*.png"))
            assert all(path.read_bytes() == whole[path.name] for path in shown)
        prepared(root)
        assert final_files(root) == whole
    assert killed > 15


def images_so_far(root: Path) -> int:
    """Those set aside too."""
    return sum(name.endswith(".png") for _, _, names in os.walk(images_of(root)) for name in names)


@pytest.mark.slow
def test_killed_and_stopped_at_random_moments(tmp_path: Path) -> None:
    """The real command with four processes, ended by SIGKILL, SIGTERM or Ctrl-C, ends as an unbroken one."""
    for task in range(1, 9):
        files = [
            (f"{task}/{episode}/{frame}.jpg", image(task * 10000 + episode * 100 + frame, size=(320, 240)))
            for episode in range(12)
            for frame in range(8)
        ]
        random.Random(task).shuffle(files)
        archive_of(tmp_path, task).parent.mkdir(parents=True, exist_ok=True)
        archive_of(tmp_path, task).write_bytes(tar_gz(files))
    command = [sys.executable, str(REPOSITORY / SCRIPT), "--num_workers", "4"]
    environment: dict[str, Any] = {**os.environ, "LEAP_ROOT": str(tmp_path), "PYTHONPATH": str(REPOSITORY)}
    subprocess.run(command, env=environment, check=True, capture_output=True)
    whole, rng, codes = final_files(tmp_path), random.Random(1), []
    for _ in range(4):
        shutil.rmtree(images_of(tmp_path))
        for ready in sorted(rng.sample(range(90), 3)):
            process = subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
            )
            while images_so_far(tmp_path) < ready and process.poll() is None:
                time.sleep(0.005)
            number = rng.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
            if number == signal.SIGKILL or rng.random() < 0.3:
                process.send_signal(number)
            elif process.poll() is None:
                os.killpg(process.pid, number)  # as a terminal and Slurm do
            process.communicate()
            codes.append(process.returncode)
            shown = list(images_of(tmp_path).glob("*.png"))
            assert all(path.read_bytes() == whole[path.name] for path in shown)
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert final_files(tmp_path) == whole
    orderly = {128 + signal.SIGTERM, 128 + signal.SIGINT}
    assert set(codes) <= {0, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, *orderly}  # minus: before it began
    assert orderly & set(codes)
    assert codes.count(0) < len(codes) / 2


# --- what is shown meanwhile


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_shows_bytes_episodes_and_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    monkeypatch.setattr(progress, "_LINE_EVERY", 0.0)
    with progress.show_bytes("first frames", 200_000_000, lambda: (50_000_000, "3 episodes")):
        pass
    shown = capsys.readouterr().err
    assert "first frames" in shown
    assert "50" in shown
    assert "200" in shown
    assert "3 episodes" in shown
