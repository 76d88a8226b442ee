"""Ending a command ends all that it started, also what has left its process group."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from leap import supervise
from leap.jobs.process import Job, StopRequest, run_job
from leap.jobs.ray_cluster import INSTALL_RAY, ray_installed

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="descendants are found in /proc")

# Has a child in a session of its own, as daemons have, and that one a child in one more.
LEAVER = """
import os, signal, sys, time
folder, stays, deaf = sys.argv[1], "stays" in sys.argv, "deaf" in sys.argv

def leave(name, then):
    if os.fork() == 0:
        os.setsid()
        if deaf:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        then()
        with open(f"{folder}/{name}.new", "w") as file:
            file.write(str(os.getpid()))
        os.rename(f"{folder}/{name}.new", f"{folder}/{name}")
        time.sleep(600)

leave("child", lambda: leave("grandchild", lambda: None))
while not all(os.path.exists(f"{folder}/{name}") for name in ("child", "grandchild")):
    time.sleep(0.01)
time.sleep(600 if stays else 0)
sys.exit(3)
"""

RUNS = "touch {0}/runs; while true; do sleep 0.1; done"  # in bash

RAY_DRIVER = """
import os, signal, sys, time
import ray
from leap.supervise import start
ray.init(num_cpus=1, num_gpus=0, include_dashboard=False, object_store_memory=80_000_000, logging_level="ERROR")
end, *command = sys.argv[1:]
call = ray.remote(max_retries=0)(lambda: start(command).wait()).remote()
while not os.path.exists(f"{command[4]}/grandchild"):
    time.sleep(0.1)
if end == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
ray.shutdown() if end == "shutdown" else ray.cancel(call, force=True)
time.sleep(600)
"""


def leaver(folder: Path, *words: str) -> list[str]:
    return [sys.executable, "-I", "-c", LEAVER, str(folder), *words]


def left(folder: Path) -> list[int]:
    """The processes that have left, once they are there."""
    files = [folder / "child", folder / "grandchild"]
    while not all(file.is_file() for file in files):
        time.sleep(0.01)
    return [int(file.read_text()) for file in files]


def is_gone(process: int) -> bool:
    """A process that has ended is gone, also where nobody reaps it."""
    try:
        return psutil.Process(process).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def supervised(parent: str, folder: Path, *words: str) -> list[str]:
    return [sys.executable, "-I", supervise.__file__, parent, "10", *leaver(folder, *words)]


def test_a_command_that_ends_leaves_nothing(tmp_path: Path) -> None:
    done = subprocess.run(supervised(str(os.getpid()), tmp_path, "deaf"), timeout=60, check=False)
    assert done.returncode == 3
    assert all(map(is_gone, left(tmp_path)))


def test_a_command_that_is_reported_to_end_leaves_nothing(tmp_path: Path) -> None:
    process = subprocess.Popen(supervised(str(os.getpid()), tmp_path, "stays", "deaf"))
    processes = left(tmp_path)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    assert all(map(is_gone, processes))


def test_a_command_whose_parent_is_killed_leaves_nothing(tmp_path: Path) -> None:
    command = supervised("PARENT", tmp_path, "stays", "deaf")
    start = "import os, subprocess, sys; sys.argv[4] = str(os.getpid()); sys.exit(subprocess.call(sys.argv[1:]))"
    parent = subprocess.Popen([sys.executable, "-I", "-c", start, *command])
    processes = left(tmp_path)
    (stand_in,) = psutil.Process(parent.pid).children()
    (keeper,) = stand_in.children()
    parent.kill()
    parent.wait()
    psutil.wait_procs([keeper], timeout=60)
    assert all(map(is_gone, processes))


@pytest.mark.slow
def test_a_command_whose_parent_is_killed_has_its_grace(tmp_path: Path) -> None:
    """A checkpoint takes longer than the ten seconds that others have."""
    save = f"trap 'sleep 11; touch {tmp_path}/saved; exit' TERM; {RUNS.format(tmp_path)}"
    start = "import sys; from leap.supervise import start; start(sys.argv[1:], 60).wait()"
    parent = subprocess.Popen([sys.executable, "-c", start, "bash", "-c", save])
    while not (tmp_path / "runs").exists():
        time.sleep(0.01)
    found = [keeper for stand_in in psutil.Process(parent.pid).children() for keeper in stand_in.children()]
    parent.kill()
    parent.wait()
    psutil.wait_procs(found, timeout=60)
    assert (tmp_path / "saved").exists()


PASSES_ON = """
import signal, sys, time
from leap.supervise import start
process = start(sys.argv[1:], 60)
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
try:
    while True:
        time.sleep(0.1)
finally:
    time.sleep(0.5)
    process.terminate()
    sys.exit(process.wait())
"""


@pytest.mark.parametrize("whole", ["group", "job"])
def test_a_signal_to_all_that_is_passed_on_too_counts_once(tmp_path: Path, whole: str) -> None:
    """As Ray ends a worker's group, and Slurm every process of a job."""
    save = f"trap 'sleep 1.5; touch {tmp_path}/saved; exit 0' TERM; {RUNS.format(tmp_path)}"
    parent = subprocess.Popen([sys.executable, "-c", PASSES_ON, "bash", "-c", save], start_new_session=True)
    while not (tmp_path / "runs").exists():
        time.sleep(0.01)
    if whole == "job":
        for process in psutil.Process(parent.pid).children(recursive=True):
            process.terminate()
    os.killpg(parent.pid, signal.SIGTERM)
    try:
        assert parent.wait(60) == 0
    finally:
        parent.kill()
    assert (tmp_path / "saved").exists()


def test_a_second_request_does_not_wait(tmp_path: Path) -> None:
    """However soon it comes after the first."""
    stop = StopRequest()
    command = ["bash", "-c", f"trap 'touch {tmp_path}/asked' TERM; {RUNS.format(tmp_path)}"]

    def ask_twice() -> None:
        while not (tmp_path / "runs").exists():
            time.sleep(0.01)
        stop.ask()
        stop.ask()

    threading.Thread(target=ask_twice).start()
    ended = run_job(Job("deaf", command), tmp_path, {}, stop, grace=600)
    assert ended.state == "stopped"
    assert (tmp_path / "asked").exists()


@pytest.mark.slow
@pytest.mark.skipif(not ray_installed(), reason=INSTALL_RAY)
@pytest.mark.parametrize("end", ["shutdown", "cancel", "kill"])
def test_a_command_of_a_ray_worker_leaves_nothing(tmp_path: Path, end: str) -> None:
    """Ray kills the children of a worker that it ends, which the command is not."""
    driver = subprocess.Popen([sys.executable, "-c", RAY_DRIVER, end, *leaver(tmp_path, "stays", "deaf")])
    try:
        processes = left(tmp_path)
        deadline = time.monotonic() + 60
        while not all(map(is_gone, processes)):
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        driver.kill()
        driver.wait()


def test_a_job_that_is_stopped_leaves_nothing(tmp_path: Path) -> None:
    stop = StopRequest()
    threading.Thread(target=lambda: left(tmp_path) and stop.ask()).start()
    ended = run_job(Job("leaver", leaver(tmp_path, "stays")), tmp_path, {}, stop, grace=30)
    assert ended.state == "stopped"
    assert all(map(is_gone, left(tmp_path)))


def test_another_process_with_the_id_of_one_that_ended_is_left_alone() -> None:
    process = subprocess.Popen([sys.executable, "-I", "-c", "import time; time.sleep(600)"])
    try:
        (found,) = [one for one in supervise.descendants(os.getpid()) if one[0] == process.pid]
        supervise.send((process.pid, f"{found[1]}0"), signal.SIGKILL)
        assert process.poll() is None
        supervise.send(found, signal.SIGTERM)
        assert process.wait(60) == -signal.SIGTERM
    finally:
        process.kill()
