"""Jobs over GPUs: real processes, one after the other and through Ray, failing ones and interrupted ones."""

import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from io import StringIO
from pathlib import Path

import pytest
from conftest import REPOSITORY
from rich.console import Console

from leap.errors import LeapError, UsageError
from leap.hardware import gpu_states, visible_gpus
from leap.jobs.job_runner import ray_flags, run_jobs, slots_for
from leap.jobs.process import Job
from leap.jobs.show import log_tail, print_outcome


def has_ray() -> bool:
    try:
        version("ray")
    except PackageNotFoundError:
        return False
    return True


needs_ray = pytest.mark.skipif(
    not has_ray(), reason='Ray is an optional extra: pip install -c constraints.txt ".[jobs]"'
)
# A job with a child of its own; both refuse SIGTERM, so that only SIGKILL ends them.
STUBBORN = 'trap "" TERM; (trap "" TERM; while true; do sleep 0.1; done) & echo $! > child; touch started; wait'
PATIENT = 'trap "touch told; exit 3" TERM; echo $$ > child; touch started; while true; do sleep 0.1; done'
DRIVER = """
import sys
from pathlib import Path
from leap.cli import run
from leap.jobs.process import Job
from leap.jobs.job_runner import run_jobs
folder = Path(sys.argv[1])
scripts = sys.argv[4:]
jobs = [Job(f"job-{n}", ["bash", "-c", f"cd {folder}; mkdir {n}; cd {n}; {text}"]) for n, text in enumerate(scripts)]
run(lambda: run_jobs(jobs, folder, at_once=int(sys.argv[2]), grace=0.5, address=sys.argv[3] or None) and 0)
"""


def shell(name: str, text: str, **environment: str) -> Job:
    return Job(name, ["bash", "-c", text], environment)


def wait_for(*paths: Path) -> None:
    deadline = time.monotonic() + 60
    while not all(path.exists() for path in paths):
        assert time.monotonic() < deadline, paths
        time.sleep(0.02)


def is_ended(pid: int, seconds: float = 10) -> bool:
    """Whether a process ends soon: a killed one is still there for a moment."""
    deadline = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not alive(pid)


def alive(pid: int) -> bool:
    """Whether a process runs; a dead one that nobody has reaped yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_failing_job_does_not_stop_the_others(tmp_path: Path) -> None:
    jobs = [shell("bad", "echo some words; exit 7"), shell("good", "echo fine"), Job("none", ["/no/such/program"])]
    bad, good, none = run_jobs(jobs, tmp_path)
    assert (bad.state, good.state, none.state) == ("failed", "done", "failed")
    assert bad.reason == "exit code 7"
    assert none.reason == "exit code 127"
    assert log_tail(none.log, 1) == ["cannot start /no/such/program: No such file or directory"]
    assert log_tail(good.log, 5) == ["fine"]
    screen = StringIO()
    assert print_outcome([bad, good, none], Console(file=screen, width=60)) is False
    assert "some words" in screen.getvalue()
    assert str(none.log) in screen.getvalue()  # not cut, however narrow
    assert print_outcome([good], Console(file=screen)) is True
    screen = StringIO()
    print_outcome([replace(good, name="evaluation_" + "long" * 20)], Console(file=screen, width=60))
    assert max(map(len, screen.getvalue().splitlines())) <= 60


def test_a_job_whose_log_cannot_be_written_is_failed(tmp_path: Path) -> None:
    (tmp_path / "first.log").mkdir()
    first, second = run_jobs([shell("first", "true"), shell("second", "true")], tmp_path)
    assert (first.state, second.state) == ("failed", "done")
    assert first.reason == f"cannot start: {tmp_path / 'first.log'}: Is a directory"
    print_outcome([first], Console(file=StringIO()))


def test_a_killed_job_is_reported_by_its_signal(tmp_path: Path) -> None:
    killed, own = run_jobs([shell("killed", "kill -9 $$"), shell("own", "exit 255")], tmp_path)
    assert killed.reason == "killed by signal SIGKILL"
    assert own.reason == "exit code 255"  # no signal's, though above 128


def test_what_a_job_leaves_running_is_ended(tmp_path: Path) -> None:
    (result,) = run_jobs([shell("parent", "sleep 60 & echo $!")], tmp_path)
    assert result.state == "done"
    assert is_ended(int(log_tail(result.log, 1)[0]))


def test_logs_are_appended_and_each_run_has_a_header(tmp_path: Path) -> None:
    for word in ("first", "second"):
        run_jobs([shell("log", f"echo {word}; echo error >&2")], tmp_path)
    text = (tmp_path / "log.log").read_text()
    assert [line for line in text.splitlines() if not line.startswith("==== ")] == ["first", "error", "second", "error"]
    assert text.count("bash -c 'echo") == 2
    assert log_tail(tmp_path / "log.log", 9) == ["second", "error"]


def test_names_that_would_share_a_log_or_leave_the_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LeapError, match="two jobs have the name a"):
        run_jobs([shell("a", "true"), shell("a", "true")], tmp_path)
    with pytest.raises(LeapError, match="names the log"):
        shell("../a", "true")


def test_a_job_sees_one_gpu_and_its_own_environment(tmp_path: Path) -> None:
    job = shell("gpu", "echo $CUDA_VISIBLE_DEVICES $WORD", WORD="hello")
    (result,) = run_jobs([job], tmp_path, ["3", "5"])
    assert log_tail(result.log, 1) == ["3 hello"]
    (hidden,) = run_jobs([job], tmp_path, [])
    assert log_tail(hidden.log, 1) == ["hello"]


def test_slots() -> None:
    assert slots_for(None, None) == 1
    assert slots_for([], 3) == 3
    assert slots_for(["0", "1"], None) == 2
    assert slots_for(["0", "1"], 3) == 3
    with pytest.raises(UsageError, match="2 GPU"):
        ray_flags(None, ["0", "1"], 3)
    assert ray_flags(None, ["0"], 1) == []


def test_visible_gpus_are_those_that_cuda_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, names in (("2,GPU-7", ["2", "GPU-7"]), ("", []), ("-1", []), ("0,-1,1", ["0"])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", text)
        assert visible_gpus() == names
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("PATH", "/nonexistent")
    assert visible_gpus() == []
    assert gpu_states() == []


def start_driver(folder: Path, at_once: int, *scripts: str, address: str = "") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", DRIVER, str(folder), str(at_once), address, *scripts]
    return subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_ends_the_job_and_starts_no_other(tmp_path: Path, number: int) -> None:
    with start_driver(tmp_path, 1, PATIENT, "true") as driver:
        wait_for(tmp_path / "0" / "started")
        driver.send_signal(number)
        out, err = driver.communicate(timeout=30)
    assert driver.returncode == 130, err
    assert (tmp_path / "0" / "told").exists()  # it had its time to finish
    assert is_ended(int((tmp_path / "0" / "child").read_text()))
    assert not (tmp_path / "1").exists()
    assert "job-1, 0.0 s: not started" in out


def test_a_job_that_will_not_end_is_killed_with_its_children(tmp_path: Path) -> None:
    with start_driver(tmp_path, 1, STUBBORN) as driver:
        wait_for(tmp_path / "0" / "started")
        driver.send_signal(signal.SIGTERM)
        _, err = driver.communicate(timeout=30)
    assert driver.returncode == 130, err
    assert is_ended(int((tmp_path / "0" / "child").read_text()))


@pytest.mark.parametrize(("gpus", "shown"), [(["4", "6", "7"], {"4", "6"}), (["5"], {"5"})])
def test_jobs_at_once_have_gpus_of_their_own_or_share_them(tmp_path: Path, gpus: list[str], shown: set[str]) -> None:
    """Two jobs that wait for each other; a third fails. GPUs are names here, so none is needed."""
    text = "touch {mine}; until [ -e {other} ]; do sleep 0.05; done; echo $CUDA_VISIBLE_DEVICES $OMP_NUM_THREADS"
    pair = [(tmp_path / "a", tmp_path / "b"), (tmp_path / "b", tmp_path / "a")]
    jobs = [shell(f"job-{mine.name}", text.format(mine=mine, other=other)) for mine, other in pair]
    first, second, bad = run_jobs([*jobs, shell("bad", "exit 2")], tmp_path, gpus, at_once=2)
    assert (first.state, second.state, bad.state) == ("done", "done", "failed")
    assert bad.reason == "exit code 2"
    seen = {log_tail(result.log, 1)[0].split()[0] for result in (first, second)}
    assert seen == shown


@pytest.mark.parametrize(
    ("address", "number"),
    [
        ("", signal.SIGINT),
        ("", signal.SIGTERM),
        pytest.param("local", signal.SIGINT, marks=[needs_ray, pytest.mark.slow]),
        pytest.param("local", signal.SIGTERM, marks=[needs_ray, pytest.mark.slow]),
    ],
)
def test_an_interrupt_ends_all_that_run(tmp_path: Path, number: int, address: str) -> None:
    with start_driver(tmp_path, 2, PATIENT, STUBBORN, "true", address=address) as driver:
        wait_for(*(tmp_path / name / "started" for name in "01"))
        driver.send_signal(number)
        out, err = driver.communicate(timeout=60)
    assert driver.returncode == 130, err
    assert "job-2, 0.0 s: not started" in out
    assert (tmp_path / "0" / "told").exists()
    assert all(is_ended(int((tmp_path / name / "child").read_text())) for name in "01")


@needs_ray
@pytest.mark.slow
def test_a_job_whose_worker_died_is_ended_and_run_again(tmp_path: Path) -> None:
    """Above a job are its supervisor and the stand-in for that, and above them Ray's worker."""
    kill = "kill -9 $(awk '{print $4}' /proc/$(awk '{print $4}' /proc/$PPID/stat)/stat); sleep 60"
    text = f"[ -e {tmp_path}/child ] && exit 0; echo $$ > {tmp_path}/child; {kill}"
    lost, good = run_jobs([shell("lost", text), shell("good", "true")], tmp_path, at_once=2, address="local")
    assert (lost.state, good.state) == ("done", "done")
    assert is_ended(int((tmp_path / "child").read_text()))
    assert (tmp_path / "lost.log").read_text().count("==== ") == 2
