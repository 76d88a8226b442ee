"""What tests share: a tiny model of the real architecture, and a tiny demo workspace, each made once a session."""

import argparse
import contextlib
import gc
import io
import os
import runpy
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from filelock import FileLock

hypothesis.settings.register_profile("any machine", deadline=None)  # a slow one fails no test
hypothesis.settings.load_profile("any machine")
os.environ.setdefault("MUJOCO_GL", "egl")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
REPOSITORY = Path(__file__).resolve().parent.parent
PYTHONPATH = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests")])  # of what a test starts as a process
# Tests lie in folders that mirror leap/ and share what they make: from every folder the others' modules are imported by
# name. pytest itself adds only the folder of the file that it reads.
sys.path.extend(str(folder) for folder in sorted((REPOSITORY / "tests").iterdir()) if folder.is_dir())
TEST_DATA = Path(__file__).resolve().parent / "data"
GOLDEN = TEST_DATA / "golden"
TINY_RECIPE = str(Path(__file__).resolve().parent / "tiny.yaml")


# Processes share the files in this order: a long one that begins last would leave the others waiting for it.
LONGEST_FIRST = [
    *("test_ray_pool", "test_checkpointing", "test_nodes", "test_killed_evaluation", "test_engine_of_sweep"),
    *("test_ablation", "test_sharding", "test_ray_torchrun", "test_vllm_adapter", "test_serve_planner", "test_grpo"),
    *("test_recipes", "test_pipeline", "test_openai_engine", "test_reproduction", "test_step_profile", "test_peers"),
    *("test_vllm_server", "test_workers", "test_export", "test_triton_adamw", "test_evaluation_scaling"),
    *("test_training_benchmark", "test_out_of_memory", "test_checkpoint_writer", "test_data_elsewhere"),
    *("test_training_data", "test_base_model", "test_report", "test_image_size", "test_crash_safety"),
]
PLACE = {name: place for place, name in enumerate(LONGEST_FIRST)}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: PLACE.get(item.path.stem, len(PLACE)))


_frozen = 0  # modules


def pytest_runtest_setup() -> None:
    """What is imported stays: each of LEAP's own collections, one a closed model, would go through all of it again."""
    global _frozen
    if len(sys.modules) > _frozen + 50:
        gc.collect()
        gc.freeze()
        _frozen = len(sys.modules)


@pytest.fixture(autouse=True)
def _kept_interrupts() -> Iterator[None]:
    """A script that begins or ends lets Ctrl-C end its process at once, which here is that of all tests.

    Under nohup what tests start would not hear a SIGHUP.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A demo workspace with one task a dimension, and a tiny model. Tests that write into it use names of their own."""
    root = tmp_path_factory.mktemp("workspace") / "demo"
    if worker_id == "master":  # no other process of this session
        _make_workspace(root)
        return root
    made = tmp_path_factory.getbasetemp().parent / "workspace"
    with FileLock(f"{made}.lock"):  # rendered once, by the first that needs it
        if not made.is_dir():
            _make_workspace(made)
    return Path(shutil.copytree(made, root))


def _make_workspace(root: Path) -> None:
    from leap.records.training import TextPart, TrainingSample
    from leap.tabletop.demo_workspace import DemoSize, make_workspace
    from leap.tabletop.tiny_model import save_new_model

    make_workspace(root, DemoSize(seed=3, tasks_per_dimension=1, examples_per_task=2, training_samples=24, size=64))
    lines = (root / "data" / "train_demo.jsonl").read_text().splitlines()
    samples = [TrainingSample.model_validate_json(line) for line in lines]
    parts = (part for sample in samples for message in sample.messages for part in message.parts())
    texts = [part.text for part in parts if isinstance(part, TextPart)]
    save_new_model(root / "models" / "tiny", [*texts, *(sample.target.steps for sample in samples)], seed=3)


@pytest.fixture(scope="session")
def model(workspace: Path) -> Path:
    return workspace / "models" / "tiny"


@dataclass(frozen=True)
class Finished:
    """What a script left behind."""

    returncode: int
    stdout: str
    stderr: str


def run_script(script: str, *arguments: str, root: Path | None = None, folder: Path = Path("/")) -> Finished:
    """A script as a user calls it, from another folder; in this process, since importing PyTorch takes seconds."""
    out, err = io.StringIO(), io.StringIO()
    kept = sys.argv, dict(os.environ), Path.cwd()
    os.chdir(folder)
    if root:
        os.environ["LEAP_ROOT"] = str(root)
    sys.argv = [script, *arguments]
    code: Any = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            runpy.run_path(str(REPOSITORY / script), run_name="__main__")
    except SystemExit as exit:
        code = exit.code or 0
    finally:
        sys.argv = kept[0]
        os.environ.clear()
        os.environ.update(kept[1])
        os.chdir(kept[2])
    return Finished(code, out.getvalue(), err.getvalue())


def run_script_apart(script: str, *arguments: str, root: Path) -> Finished:
    """The same in a fresh process, for results that are compared bit by bit with those of other fresh ones.

    Libraries that other tests have loaded into this one change how some CPUs round (bitsandbytes does).
    """
    command = [sys.executable, str(REPOSITORY / script), *arguments]
    environment = {**os.environ, "LEAP_ROOT": str(root)}
    done = subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, timeout=300, check=False)
    return Finished(done.returncode, done.stdout, done.stderr)


class Parsed(Exception):
    """Raised where a script has understood its command line, before it does anything."""


@pytest.fixture
def parse_only(monkeypatch: pytest.MonkeyPatch) -> None:
    original = argparse.ArgumentParser.parse_args

    def parse(self: argparse.ArgumentParser, *arguments: object) -> None:
        original(self, *arguments)  # type: ignore[call-overload]
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
