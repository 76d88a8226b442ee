"""Ctrl-C at any time of a script's start: one line, exit code 130, nothing begun."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY
from test_cli import BENCHMARKS, SCRIPTS

# Ctrl-C comes while a module is looked for; what is imported before it is real, the script too.
DRIVER = """
import os, runpy, signal, sys
module, *sys.argv = sys.argv[1:]

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def interrupted(module: str, script: str, *words: str, root: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", DRIVER, module, str(REPOSITORY / script), *words]
    environment = {**os.environ, "LEAP_ROOT": str(root)}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("script", [*SCRIPTS, *BENCHMARKS])
def test_while_its_modules_are_loaded(script: str, tmp_path: Path) -> None:
    done = interrupted("leap.errors", script, root=tmp_path)
    assert (done.returncode, done.stderr) == (130, "interrupted before anything was done\n")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("torch", "scripts/training/run-finetuning.py --recipe demo --output_dir output/interrupted"),
        ("transformers", "scripts/evaluation/plan_one.py --model_path models/tiny --image IMAGE --instruction b"),
        ("pandas", "scripts/evaluation/compare_models.py a b"),
        ("huggingface_hub", "scripts/download/download_model.py"),
        ("leap.preparation.agibot.archive_tasks", "scripts/utils/prepare_love_agibot.py"),
    ],
)
def test_while_libraries_are_loaded(module: str, line: str, workspace: Path) -> None:
    image, before = next((workspace / "data" / "images").iterdir()), sorted(workspace.rglob("*"))
    done = interrupted(module, *line.replace("IMAGE", str(image)).split(), root=workspace)
    assert done.returncode == 130
    assert done.stderr == "interrupted; the same command continues from here\n"
    assert sorted(workspace.rglob("*")) == before


@pytest.mark.parametrize(
    "script", ["quickstart.sh", "reproduce.sh", "run-tests.sh", "scripts/utils/make_vllm_environment.sh"]
)
def test_a_shell_script_ends_and_begins_nothing_else(script: str, tmp_path: Path) -> None:
    """In the place of Python, a program that has to be interrupted too."""
    for name in ("python", "python3"):
        (tmp_path / name).write_text(f"#!/bin/sh\necho x >> {tmp_path}/started\nexec sleep 60\n")
        (tmp_path / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "VIRTUAL_ENV": str(tmp_path)}
    command = ["bash", str(REPOSITORY / script), *([str(tmp_path / "folder")] if "vllm" in script else [])]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not (tmp_path / "started").is_file():
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "error" not in said
    assert (tmp_path / "started").read_text() == "x\n"


@pytest.mark.slow
def test_several_ranks_end_in_their_own_words(tmp_path: Path) -> None:
    environment = {**os.environ, "LEAP_ROOT": str(tmp_path), "NUM_GPUS": "2"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    command = ["bash", str(REPOSITORY / "scripts/training/run-training.sh"), "--recipe", "nothing"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "there is no such recipe" in done.stderr  # once or twice: torchrun ends the other rank with the first
