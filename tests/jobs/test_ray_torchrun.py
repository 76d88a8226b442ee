"""Two nodes of a Ray cluster train together, each by a torchrun of its own."""

from pathlib import Path

import pytest
from conftest import PYTHONPATH
from test_sharding import STEPS

from leap.jobs.ray_torchrun import carried, train_on_nodes
from leap.models.checkpoints import MARKER

ray = pytest.importorskip("ray")


def test_variables_of_a_command_go_along_and_credentials_do_not() -> None:
    given = {
        "LEAP_ROOT": "/x",
        "NCCL_DEBUG": "INFO",
        "HF_HOME": "/y",
        "LEAP_API_KEY": "k",
        "HF_TOKEN": "t",
        "PATH": "/bin",
    }
    assert carried(given) == {"LEAP_ROOT": "/x", "NCCL_DEBUG": "INFO", "HF_HOME": "/y"}


@pytest.mark.slow
def test_nodes_of_a_cluster_train_together(workspace: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", PYTHONPATH)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    cluster = Cluster()
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1, num_gpus=0, object_store_memory=80_000_000, include_dashboard=False)
        cluster.wait_for_nodes()
        monkeypatch.setenv("LEAP_ROOT", str(workspace))  # now: the nodes have it from the command
        steps = [*STEPS, "--max_steps", "2", "--output_dir", str(tmp_path)]
        assert train_on_nodes(cluster.address, 2, 1, 60.0, steps) == 0
        assert (tmp_path / "checkpoint-2" / MARKER).is_file()
        assert (tmp_path / "checkpoint-2" / "rng_state_1.pth").is_file()
        ray.shutdown()
        assert train_on_nodes(cluster.address, 2, 1, 60.0, ["--no_such_flag"]) == 2
    finally:
        ray.shutdown()
        cluster.shutdown()
