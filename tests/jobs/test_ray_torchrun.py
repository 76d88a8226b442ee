"""Two nodes of a Ray cluster train together, each by a torchrun of its own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import PYTHONPATH, REPOSITORY
from test_sharding import STEPS

from leap.cli import INTERRUPTED
from leap.errors import LeapError
from leap.jobs.ray_torchrun import _code, carried, train_on_nodes
from leap.models.checkpoints import MARKER, checkpoint_step, find_checkpoints

ray = pytest.importorskip("ray")


def test_variables_of_a_command_go_along_and_credentials_do_not() -> None:
    given = {
        "LEAP_ROOT": "/x",
        "NCCL_DEBUG": "INFO",
        "TORCH_NCCL_DUMP_ON_TIMEOUT": "1",
        "HF_HOME": "/y",
        "LEAP_API_KEY": "k",
        "HF_TOKEN": "t",
        "PATH": "/bin",
    }
    named = ("LEAP_ROOT", "NCCL_DEBUG", "TORCH_NCCL_DUMP_ON_TIMEOUT", "HF_HOME")
    assert carried(given) == {name: given[name] for name in named}


@pytest.fixture
def cluster(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", PYTHONPATH)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    made = Cluster()
    try:
        for _ in range(2):
            made.add_node(num_cpus=1, num_gpus=0, object_store_memory=80_000_000, include_dashboard=False)
        made.wait_for_nodes()
        monkeypatch.setenv("LEAP_ROOT", str(workspace))  # now: the nodes have it from the command
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


@pytest.mark.slow
def test_nodes_of_a_cluster_train_together(cluster: Any, tmp_path: Path) -> None:
    steps = [*STEPS, "--max_steps", "2", "--output_dir", str(tmp_path)]
    with pytest.raises(LeapError, match=r"no 2 node\(s\) with 1 free GPU.* has 0 GPU\(s\) on 2 node.*--on_cpus"):
        train_on_nodes(cluster.address, 2, 1, 0.1, steps)
    assert train_on_nodes(cluster.address, 2, 1, 60.0, steps, on_cpus=True) == 0
    assert (tmp_path / "checkpoint-2" / MARKER).is_file()
    assert (tmp_path / "checkpoint-2" / "rng_state_1.pth").is_file()
    assert train_on_nodes(cluster.address, 2, 1, 60.0, ["--no_such_flag"], on_cpus=True) == 2


@pytest.mark.slow
def test_an_ended_command_saves_a_checkpoint(cluster: Any, tmp_path: Path) -> None:
    """However it is ended; who gives it again at once waits for what the nodes still save."""
    script, run = REPOSITORY / "scripts/cluster/train_on_ray.py", tmp_path / "run"
    words = ["--num_nodes", "2", "--num_gpus", "1", "--on_cpus", "--ray_address", cluster.address, "--"]
    words += [*STEPS, *f"--max_steps 9000 --save_steps 9000 --output_dir {run}".split()]
    newest = 0
    for number, (end, code) in enumerate({signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 130}.items()):
        path = tmp_path / f"{number}.log"
        with path.open("wb") as log:
            command = subprocess.Popen([sys.executable, script, *words], env=os.environ, stdout=log, stderr=log)
        while "loss" not in path.read_text():
            assert command.poll() is None, path.read_text()
            time.sleep(0.1)
        command.send_signal(end)
        assert command.wait(timeout=200) == code, path.read_text()
        earlier, deadline = newest, time.monotonic() + 200
        while newest == earlier:
            assert time.monotonic() < deadline, path.read_text()
            newest = max([earlier, *(checkpoint_step(folder) or 0 for folder in find_checkpoints(run))])
            time.sleep(0.1)
    assert "goes on" in path.read_text() or f"checkpoint-{earlier}" in path.read_text()


@pytest.mark.slow
def test_a_node_that_somebody_else_interrupts_has_not_ended_well(cluster: Any) -> None:
    ray.init(cluster.address)
    try:
        call = ray.remote(lambda: time.sleep(600)).remote()
        ray.cancel(call)
        assert _code(call, [], asked=False) == INTERRUPTED
        assert _code(call, [], asked=True) == 0
    finally:
        ray.shutdown()
