"""Evaluations over Ray: what workers, nodes and drivers that are killed leave is what one process leaves."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY
from ray_nodes import RayNodes
from safetensors.torch import load_file, save_file
from test_jobs import needs_ray
from test_killed_evaluation import EXAMPLES, bench, final_files, line_count
from two_hosts import NOT_HERE

from leap.data.image import ImageSize
from leap.errors import LeapError
from leap.evaluation.settings import EvaluatedModel
from leap.inference.engines import EngineOptions, ModelToOpen
from leap.inference.protocol import Decoding, Request
from leap.jobs import ray_pool
from leap.supervise import descendants

pytestmark = [pytest.mark.slow, needs_ray]
__all__ = ["bench"]  # a fixture
REPEATS, KILLS = 10, 20
TOTAL = 6 * EXAMPLES * REPEATS
COMMAND = [
    sys.executable,
    "scripts/evaluation/run_vlm_evaluation.py",
    *"--checkpoint models/tiny --image_tokens_min 4 --image_tokens_max 9 --device cpu".split(),
    *f"--max_new_tokens 3 --batch_size 2 --workers 0 --repeats {REPEATS} --temperature 1".split(),
]
NAME = "tiny_T1"
LOCAL = "--ray_address local --jobs 2".split()


@pytest.fixture(scope="module")
def alone(bench: Path) -> dict[str, bytes]:
    """What one process leaves."""
    evaluate = start(bench, "alone")
    assert evaluate.wait() == 0, log(bench, "alone")
    return files(bench, "alone")


def start(root: Path, run: str, *options: str, nodes: RayNodes | None = None) -> subprocess.Popen[bytes]:
    """The evaluation into results of its own."""
    command = [*COMMAND, "--output_dir", str(root / run / "eva_results"), *options]
    own = {"LEAP_ROOT": str(root), "OMP_NUM_THREADS": "1"}
    if nodes:
        return nodes.start(0, command, **own)
    with (root / f"{run}.log").open("ab") as output:
        return subprocess.Popen(command, env={**os.environ, **own}, cwd=REPOSITORY, stdout=output, stderr=output)


def log(root: Path, run: str) -> str:
    return (root / f"{run}.log").read_text()


def files(root: Path, run: str) -> dict[str, bytes]:
    return final_files(root / run)


def lines(root: Path, run: str) -> int:
    return line_count(root / run, NAME)


def answers(root: Path, run: str) -> int:
    """How many were recorded, each time that one was."""
    manifests = (root / run).glob(f"eva_results/*/{NAME}/manifest.json")
    return sum(note["answers"] for path in manifests for note in json.loads(path.read_text())["inference"])


def wait_until(process: subprocess.Popen[bytes], reached: Callable[[], bool]) -> None:
    while process.poll() is None and not reached():
        time.sleep(0.005)


def workers(driver: subprocess.Popen[bytes]) -> list[int]:
    """Processes of the driver's own Ray that hold a model, or will."""
    return models([pid for pid, _ in descendants(driver.pid)])


def models(processes: Iterable[int]) -> list[int]:
    found = []
    for pid in processes:
        try:
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::ModelHolder"):
                found.append(pid)
        except OSError:  # it has just ended
            continue
    return found


def test_twenty_killed_workers(bench: Path, alone: dict[str, bytes]) -> None:
    """None lost, none doubled."""
    rng, killed, seen = random.Random(22), 0, 0
    with start(bench, "chaos", *LOCAL) as driver:
        while killed < KILLS and driver.poll() is None:
            wait_until(driver, lambda seen=seen: lines(bench, "chaos") > seen)  # type: ignore[misc]
            time.sleep(rng.uniform(0, 0.2))
            seen = lines(bench, "chaos")
            if found := workers(driver):
                os.kill(rng.choice(found), signal.SIGKILL)
                killed += 1
        assert driver.wait() == 0, log(bench, "chaos")
    assert killed == KILLS
    assert answers(bench, "chaos") == TOTAL
    assert files(bench, "chaos") == alone


def test_a_killed_driver_goes_on_with_the_same_command(bench: Path, alone: dict[str, bytes]) -> None:
    with start(bench, "driver", *LOCAL) as driver:
        wait_until(driver, lambda: lines(bench, "driver") > TOTAL / 4)
        held = workers(driver)
        driver.kill()
    kept = lines(bench, "driver")
    assert 0 < kept < TOTAL
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in held):  # its workers end with it
        assert time.monotonic() < deadline
        time.sleep(0.1)
    with start(bench, "driver", *LOCAL) as driver:
        assert driver.wait() == 0, log(bench, "driver")
    assert files(bench, "driver") == alone


def test_a_worker_goes_from_one_model_to_the_next(bench: Path) -> None:
    other = shutil.copytree(bench / "models" / "tiny", bench / "models" / "other") / "model.safetensors"
    save_file({name: 1.05 * tensor for name, tensor in load_file(other).items()}, other, {"format": "pt"})
    asked = (
        "--checkpoint models/tiny models/other --num_episodes 2 --max_new_tokens 9 --repeats 1 --temperature 0".split()
    )
    for run, places in (("one", []), ("worker", ["--ray_address", "local", "--jobs", "1"])):
        evaluate = start(bench, run, *asked, *places)
        assert evaluate.wait() == 0, log(bench, run)
    found = files(bench, "worker")
    assert found == files(bench, "one")
    assert found["Spatial/tiny/predictions.jsonl"] != found["Spatial/other/predictions.jsonl"]


@pytest.fixture
def nodes() -> Iterator[RayNodes]:
    made = RayNodes()
    try:
        if not made.connect():
            pytest.skip(NOT_HERE)
        yield made
    finally:
        made.close()


def test_a_node_that_is_lost(bench: Path, alone: dict[str, bytes], nodes: RayNodes) -> None:
    """Two nodes with addresses of their own; the power of one goes in the middle. The other has room for its worker."""
    nodes.add(0, cpus=2)
    nodes.add(1, cpus=1)
    evaluate = start(bench, "nodes", "--ray_address", nodes.address, "--jobs", "2", nodes=nodes)
    wait_until(evaluate, lambda: lines(bench, "nodes") > TOTAL / 4)
    assert models(nodes.processes(1))
    nodes.kill(1)
    assert lines(bench, "nodes") < TOTAL
    assert evaluate.wait() == 0, nodes.log(0)
    assert answers(bench, "nodes") == TOTAL
    assert files(bench, "nodes") == alone


@dataclass
class Question:
    """One request to one model."""

    model: EvaluatedModel
    failure: LeapError | None = None

    def open(self) -> None: ...

    def close(self) -> None: ...

    def record(self, *given: Any) -> None: ...

    def note_engine(self, *given: Any) -> None: ...

    @property
    def requests(self) -> list[Request]:
        return [Request(("dimension", "task", "0"), (), ())]


def ask(folder: Path, log: Path, weights: str = "") -> Question:
    """Two workers, of which one finds no room."""
    import ray

    def to_open(model: EvaluatedModel) -> ModelToOpen:
        return ModelToOpen(folder, None, ImageSize(4, 9), "cpu", "float32", None, log)

    options = {"include_dashboard": False, "object_store_memory": 80_000_000, "logging_level": "ERROR"}
    ray.init("local", num_cpus=1, num_gpus=0, **options)  # not one that another process of tests has started
    try:
        pool = ray_pool.RayPool(EngineOptions("hf", {}), 0, 2)
        question = Question(EvaluatedModel("m", folder, weights=weights, files={}))
        (asked,) = pool.answer([question], Decoding(1), to_open)
    finally:
        ray.shutdown()
    return asked


def test_a_model_is_not_kept_for_a_worker_that_finds_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ray_pool, "_REFUSED_FOR", 1.0)
    assert "is not there" in str(ask(tmp_path / "gone", tmp_path / "log").failure)
    assert "m: refused by every worker that is up; waiting 1 s" in capsys.readouterr().err


def test_an_error_of_a_workers_machine_is_a_refusal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The worker ends, and so the other finds room."""
    asked = ask(tmp_path / ("n" * 300), tmp_path / "log")
    assert "File name too long" in str(asked.failure)
    assert "worker 0: OSError: " in capsys.readouterr().err


def test_a_worker_with_other_weights_is_refused(bench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends this model alone, and so does a folder of results that cannot be opened."""
    monkeypatch.setattr(ray_pool, "_REFUSED_FOR", 1.0)
    asked = ask(bench / "models" / "tiny", tmp_path / "log", "other")
    assert re.search(r"models/tiny: weights [0-9a-f]{64}, and this one other", str(asked.failure))

    def refuse(_: Question) -> None:
        raise LeapError("results: no room")

    monkeypatch.setattr(Question, "open", refuse)
    assert str(ask(bench / "models" / "tiny", tmp_path / "log").failure) == "results: no room"


@pytest.mark.parametrize(
    ("takers", "left", "batch", "sizes"),
    [(1, 768, 64, [384, 192, 64, 64, 64]), (2, 400, 64, [64] * 6 + [16]), (2, 10_000, 32, [512]), (2, 20, 32, [20])],
)
def test_shards_are_whole_batches_and_become_smaller(takers: int, left: int, batch: int, sizes: list[int]) -> None:
    """What two workers are given of 400 on a GPU are six batches, and not 100, 75, 56, ... in two each."""
    for size in sizes:
        assert ray_pool._shard_size(left, takers, batch) == size
        left -= size
