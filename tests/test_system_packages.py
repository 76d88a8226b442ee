"""What pip cannot bring: root gets Debian's packages, anybody else the command; tried on a bare system by hand.

Here apt-get is a stand-in that writes down what it is asked for, since the real one would change the machine.
"""

import os
import subprocess
from pathlib import Path

import pytest
from conftest import REPOSITORY

PACKAGES = "libegl1 libgl1-mesa-dri"


def check(folder: Path, user: int, apt: str) -> subprocess.CompletedProcess[str]:
    """`leap_check_system` with a Python that has libEGL once apt-get has been run."""
    commands = {
        "id": f"echo {user}",
        "apt-get": apt.format(done=folder / "done"),
        "lacking": f'case "$2" in *EGL*) [ -e {folder / "done"} ];; esac',
    }
    for name, line in commands.items():
        (folder / name).write_text(f"#!/bin/bash\n{line}\n")
        (folder / name).chmod(0o755)
    return subprocess.run(
        ["bash", "-c", "source scripts/utils/environment.sh; leap_check_system lacking; echo $MUJOCO_GL"],
        env={"PATH": f"{folder}:{os.environ['PATH']}"}, cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip


# A fresh system knows no package before `apt-get update`.
FRESH = 'case "$1" in update) touch {done}.lists;; *) [ -e {done}.lists ] && echo "$@" > {done};; esac'


@pytest.mark.parametrize("apt", ['echo "$@" > {done}', FRESH])
def test_root_gets_what_is_missing_after_one_line(tmp_path: Path, apt: str) -> None:
    done = check(tmp_path, 0, apt)
    line, egl = done.stdout.splitlines()
    assert (done.returncode, done.stderr, egl) == (0, "", "egl")
    assert line.startswith("MuJoCo renders through libEGL, which is missing")
    assert line.endswith(PACKAGES)
    assert (tmp_path / "done").read_text() == f"install -y -qq {PACKAGES}\n"


def test_others_are_given_the_command(tmp_path: Path) -> None:
    done = check(tmp_path, 1000, "touch {done}")
    (line,) = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (1, "")
    assert line.startswith("error: MuJoCo renders")
    assert line.endswith(f"sudo apt-get install {PACKAGES}")
    assert not (tmp_path / "done").exists()


def test_a_failed_installation_ends_the_set_up(tmp_path: Path) -> None:
    done = check(tmp_path, 0, "echo 'E: no network' >&2; exit 100")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"error: apt-get could not install {PACKAGES}, see above"
