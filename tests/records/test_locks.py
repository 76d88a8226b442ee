"""File systems without flock (Lustre, NFS): a soft lock in its place, its holder named, and a way out of a dead one."""

import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY
from servers.faulty_openai import MODEL, FaultyServer
from servers.hub import HubServer
from servers.hub_store import Stored

from leap.errors import LeapError
from leap.records.files import LOCK
from leap.records.locks import FolderLock, is_alive, lock_holder, wait_until_free

NO_FLOCK = """
#include <errno.h>
#include <stdlib.h>
int flock(int file, int how) { (void)file; (void)how; errno = atoi(getenv("NO_FLOCK")); return -1; }
"""
HOLD = (
    "import sys; from pathlib import Path; from leap.records.locks import FolderLock\n"
    "with FolderLock(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
)
HOLD_AND_FORK = (
    "import os, sys, time; from pathlib import Path; from leap.records.locks import FolderLock\n"
    "with FolderLock(Path(sys.argv[1])):\n"
    "    if os.fork() == 0: print(os.getpid(), flush=True)\n"
    "    time.sleep(600)"
)
ERRORS = [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A C library whose flock fails, to be loaded before the system's."""
    folder, compiler = tmp_path_factory.mktemp("library"), shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    (folder / "flock.c").write_text(NO_FLOCK)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / "flock.so", folder / "flock.c"], check=True)
    return folder / "flock.so"


def without(library: Path, number: int) -> dict[str, str]:
    """The environment of a process that finds no flock."""
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "LD_PRELOAD": str(library), "NO_FLOCK": str(number)}


@pytest.fixture
def start() -> Iterator[Any]:
    """Start a process that takes a folder's lock, and holds it until its input ends."""
    started: list[subprocess.Popen[str]] = []

    def run(folder: Path, environment: dict[str, str]) -> subprocess.Popen[str]:
        pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        started.append(subprocess.Popen([sys.executable, "-c", HOLD, folder], env=environment, text=True, **pipes))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", ERRORS, ids=errno.errorcode.get)
def test_one_at_a_time_without_flock(tmp_path: Path, library: Path, start: Any, number: int) -> None:
    folder, bare = tmp_path / "a", without(library, number)
    first = start(folder, bare)
    assert first.stdout.readline() == "held\n"
    holder = f"process {first.pid} on {socket.gethostname()}"
    second = start(folder, bare).communicate(timeout=60)[1]
    assert f"{folder}: another process writes here ({holder})" in second
    assert f"if that process is gone, remove {folder / '.lock'}" in second
    with pytest.raises(LeapError, match=holder), FolderLock(folder):  # this process has flock there
        pass
    assert lock_holder(folder / ".lock") == holder
    assert first.communicate(timeout=60)[1] == ""
    assert not folder.exists()


@pytest.mark.parametrize("number", ERRORS, ids=errno.errorcode.get)
def test_a_killed_holder_of_this_machine_is_found_dead(tmp_path: Path, library: Path, start: Any, number: int) -> None:
    folder, bare = tmp_path / "a", without(library, number)
    for _ in range(2):
        killed = start(folder, bare)
        assert killed.stdout.readline() == "held\n"
        killed.kill()  # nobody waits for it, as in a container without an init
        os.waitid(os.P_PID, killed.pid, os.WEXITED | os.WNOWAIT)
        assert lock_holder(folder / ".lock") is None
    assert start(folder, bare).communicate(timeout=60) == ("held\n", "")
    assert not folder.exists()


def test_a_holder_by_flock_keeps_others_out(tmp_path: Path, library: Path, start: Any) -> None:
    bare = without(library, errno.ENOLCK)
    with FolderLock(tmp_path / "a"):
        assert f"(process {os.getpid()} on " in start(tmp_path / "a", bare).communicate(timeout=60)[1]
        assert lock_holder(tmp_path / "a" / ".lock") == f"process {os.getpid()} on {socket.gethostname()}"
    killed = start(tmp_path / "a", {**os.environ, "PYTHONPATH": str(REPOSITORY)})
    assert killed.stdout.readline() == "held\n"
    killed.kill()
    killed.wait()
    assert start(tmp_path / "a", bare).communicate(timeout=60) == ("held\n", "")


def test_a_worker_does_not_keep_the_lock_of_its_killed_parent(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD_AND_FORK, tmp_path]
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, stdout=subprocess.PIPE) as parent:
        assert parent.stdout
        worker = int(parent.stdout.readline())
        assert lock_holder(tmp_path / LOCK)
        parent.kill()
        parent.wait()
        try:
            assert is_alive(worker)
            assert lock_holder(tmp_path / LOCK) is None
        finally:
            os.kill(worker, signal.SIGKILL)


def test_a_holder_on_another_machine_is_removed_by_hand(tmp_path: Path, library: Path, start: Any) -> None:
    (tmp_path / ".lock").write_text("4242\nanother.host?pidns-f000001f\n77\n")
    for environment in (without(library, errno.ENOSYS), {**os.environ, "PYTHONPATH": str(REPOSITORY)}):
        message = start(tmp_path, environment).communicate(timeout=60)[1]
        assert "(process 4242 on another.host); wait until it is done, or stop it; there is no flock" in message
    assert lock_holder(tmp_path / ".lock") == "process 4242 on another.host"
    (tmp_path / ".lock").unlink()
    assert start(tmp_path, without(library, errno.ENOSYS)).communicate(timeout=60) == ("held\n", "")


def run(script: str, *arguments: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPOSITORY / script), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.slow
def test_evaluations_and_downloads_need_no_flock(workspace: Path, tmp_path: Path, library: Path) -> None:
    bare = without(library, errno.ENOLCK) | {"LEAP_ROOT": str(workspace), "NO_PROXY": "*"}
    script, flags = "scripts/evaluation/run_vlm_evaluation.py", ["--engine", "openai", "--dimension", "Spatial"]
    with FaultyServer(response=lambda body: "[]") as server:
        asked = [*flags, "--base_url", server.url, "--model", MODEL, "--output_dir", str(tmp_path / "results")]
        done = run(script, *asked, environment=bare)
    assert done.returncode == 0, done.stderr
    assert not list((tmp_path / "results").rglob(".lock*"))
    files = {"a.txt": b"a", "b/c.bin": bytes(5000)}
    with HubServer([Stored("someone/data", "model", files)]) as hub:
        wanted = ["someone/data", "--local_dir", str(tmp_path / "data")]
        online = bare | {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"}
        done = run("scripts/download/download_model.py", *wanted, environment=online)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "data" / "b" / "c.bin").read_bytes() == files["b/c.bin"]


def test_a_start_after_another_waits_for_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path / "run"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdin
    assert holder.stdout
    holder.stdout.readline()
    wait_until_free(tmp_path / "run")  # nobody has said that there may be an earlier one
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("LEAP_LOCK_WAIT", "60")
    threading.Timer(0.2, holder.stdin.close).start()
    wait_until_free(tmp_path / "run")
    assert f"process {holder.pid} on {socket.gethostname()} still writes here; waiting" in capsys.readouterr().err
    with FolderLock(tmp_path / "run"):
        assert holder.wait() == 0
