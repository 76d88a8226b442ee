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
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
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
from leap.inference.protocol import Decoding, Request, Response
from leap.jobs import ray_pool
from leap.jobs.ray_cluster import pick_cluster_device
from leap.models.checkpoints import small_files, weights_hash
from leap.records.training import Message
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
    """Requests to one model, one if not said otherwise."""

    model: EvaluatedModel
    requests: list[Request] = field(default_factory=lambda: [request(0)])
    failure: LeapError | None = None
    responses: list[Response] = field(default_factory=list)

    def open(self) -> None: ...

    def close(self) -> None: ...

    def record(self, response: Response, *given: Any, **named: Any) -> None:
        self.responses.append(response)

    def sync(self) -> None: ...

    def note_engine(self, *given: Any) -> None: ...


def request(number: int) -> Request:
    return Request(("dimension", "task", str(number)), (Message(role="user", content="Put the cup down."),), ())


@contextmanager
def own_ray(gpus: int = 0) -> Iterator[None]:
    """Not one that another process of tests has started."""
    import ray

    options = {"include_dashboard": False, "object_store_memory": 80_000_000, "logging_level": "ERROR"}
    options["log_to_driver"] = False
    ray.init("local", num_cpus=1, num_gpus=gpus, **options)
    try:
        yield
    finally:
        ray.shutdown()


def ask_all(questions: list[Question], log: Path) -> None:
    """Two workers, of which one finds no room."""

    def to_open(model: EvaluatedModel) -> ModelToOpen:
        assert model.folder
        return ModelToOpen(model.folder, None, ImageSize(4, 9), "cpu", "float32", None, log)

    with own_ray():
        pool = ray_pool.RayPool(EngineOptions("hf", {}), 0, 2)
        assert len(list(pool.answer(questions, Decoding(1), to_open))) == len(questions)


def ask(folder: Path, log: Path, weights: str = "") -> Question:
    question = Question(EvaluatedModel("m", folder, weights=weights, files={}))
    ask_all([question], log)
    return question


def test_a_request_that_no_worker_survives_is_given_up(
    bench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The others are answered; a model of which no request is survived is given up, too, and the next one asked."""

    class Mortal(ray_pool.ModelHolder):  # in here, so that Ray's processes need not find this file
        def answer(self, requests: Sequence[Request], decoding: Decoding) -> Iterator[Response]:
            for response in super().answer(requests, decoding):
                if response.key[-1] in ("2", "30") or response.key[0] == "deadly":
                    os.kill(os.getpid(), signal.SIGKILL)
                yield response

    monkeypatch.setattr(ray_pool, "ModelHolder", Mortal)
    monkeypatch.setattr(ray_pool, "LOSSES", 4)
    folder = bench / "models" / "tiny"
    weights, files = weights_hash(folder), small_files(folder)
    some, all_deadly, last = (
        Question(EvaluatedModel(name, folder, weights=weights, files=files), requests)
        for name, requests in {
            "some": [request(number) for number in range(40)],
            "deadly": [replace(request(number), key=("deadly", "task", str(number))) for number in range(40)],
            "last": [request(0)],
        }.items()
    )
    ask_all([some, all_deadly, last], tmp_path / "log")
    assert some.failure is None
    assert sorted(int(one.key[-1]) for one in some.responses) == list(range(40))
    errors = {one.key[-1]: one.error for one in some.responses if one.error}
    assert errors.keys() == {"2", "30"}
    assert all("given up, since 4 workers were lost with it: a worker died" in error for error in errors.values())
    assert "some: dimension/task/30: given up" in capsys.readouterr().err
    assert "deadly: no request is answered: a worker died" in str(all_deadly.failure)
    assert [one.error for one in last.responses] == [None]


def test_what_no_node_can_hold_is_refused_or_waited_for_so_long(tmp_path: Path) -> None:
    question = Question(EvaluatedModel("m", tmp_path))
    with own_ray(gpus=2):
        with pytest.raises(LeapError, match=r"no node has 4 GPU.* has 2 GPU\(s\) on 1 node\(s\), 2 at most on one"):
            pick_cluster_device("cuda", None, 4, None, 600)
        with pytest.raises(LeapError, match=r"no room for a worker \(4 GPU\(s\) of one node\) after 0.1 s \(--wait\)"):
            next(ray_pool.RayPool(EngineOptions("vllm", {}), 4, 1, 0.1).answer([question], Decoding(1), None))
    with own_ray(), pytest.raises(LeapError, match=r"no free GPU after 0.1 s .* has 0 GPU\(s\) on 1 node"):
        pick_cluster_device("cuda", None, 1, 2, 0.1)


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
