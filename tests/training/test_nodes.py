"""Two nodes train as one machine does. When one is lost, the other ends with a line, and the command goes on.

A node is a network namespace with a host name and a disk for its output of its own, joined to the other by a cable.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import PYTHONPATH, REPOSITORY, TINY_RECIPE
from safetensors.torch import load_file
from test_checkpointing import assert_close, history
from test_sharding import ALONE, CLOSE, STEPS, all_done, nodes_of_one_machine, torchrun
from two_hosts import NOT_HERE, TwoHosts

from leap.models.checkpoints import MARKER, find_checkpoints
from leap.records.json_files import write_json
from leap.training.ranks import Ranks
from leap.training.recipe import read_recipe
from leap.training.resume import ranks_of_step

FINETUNE = "scripts/training/run-finetuning.py"
TWELVE = [*STEPS, *"--max_steps 12 --save_steps 2 --per_device_train_batch_size 4".split()]
LIMIT = 300  # seconds for any start of a node, in which all of them have ended


class Nodes(TwoHosts):
    """Two nodes; `start` gives a training command to one of them."""

    def __init__(self, workspace: Path, folder: Path) -> None:
        super().__init__("leap", "10.77.0")
        self.workspace, self.folder = workspace, folder
        self._started: list[subprocess.Popen[str]] = []

    def disk(self, number: int, run: str) -> Path:
        """A node's own folder that all nodes see as output/RUN."""
        own = self.folder / f"{run}-disk-{number}"
        for folder in (own, self.workspace / "output" / f"nodes-{run}"):
            folder.mkdir(parents=True, exist_ok=True)
        return own

    def start(self, number: int, run: str, *options: str, gpus: int = 1, nodes: int = 2) -> subprocess.Popen[str]:
        output = self.workspace / "output" / f"nodes-{run}"
        variables = {"NNODES": nodes, "NUM_GPUS": gpus, "NODE_RANK": number, "MASTER_ADDR": self.addresses[0]}
        environment = {**os.environ, **{name: str(value) for name, value in variables.items()}}
        environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": PYTHONPATH, "LEAP_ROOT": str(self.workspace)}
        launch = [sys.executable, "-m", "leap.launch", FINETUNE, *TWELVE, "--output_dir", str(output), *options]
        entry = self.inside(number, f"mount --bind {self.disk(number, run)} {output}")
        node = subprocess.Popen(
            [*entry, *launch], env=environment, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True,
        )  # fmt: skip
        self._started.append(node)
        return node

    def close(self) -> None:
        super().close()
        for node in self._started:
            node.communicate(timeout=LIMIT)


@pytest.fixture
def nodes(workspace: Path, tmp_path: Path) -> Iterator[Nodes]:
    made = Nodes(workspace, tmp_path)
    try:
        if not made.connect():
            pytest.skip(NOT_HERE)
        yield made
    finally:
        made.close()


def wait_until(happened: Callable[[], bool], *running: subprocess.Popen[str]) -> None:
    while not happened():
        assert all(node.poll() is None for node in running), [node.communicate()[0] for node in running]
        time.sleep(0.01)


def ended(node: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = node.communicate(timeout=LIMIT)
    return node.returncode, output


def weights(disk: Path) -> dict[str, torch.Tensor]:
    return load_file(disk / "checkpoint-12" / "model.safetensors")


def losses_of(disk: Path) -> list[float]:
    return [entry["loss"] for entry in history(disk) if "loss" in entry]


def equal(one: Path, other: Path) -> bool:
    left, right = weights(one), weights(other)
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def errors(output: str) -> list[str]:
    return [line for line in output.splitlines() if line.startswith("error: ")]


@pytest.mark.slow
def test_ranks_find_out_who_writes_and_what_they_have(tmp_path: Path) -> None:
    all_done(torchrun(ALONE, "agreeing_ranks.py", str(tmp_path)))


@pytest.mark.parametrize(
    ("values", "counted"),
    [
        ({}, 4),
        ({"gradient_accumulation_steps": 3}, 1),  # divided by the user, for the ranks that there are
        ({"deepspeed": "zero.json"}, 1),
    ],
)
def test_a_step_keeps_its_samples_on_other_ranks(tmp_path: Path, values: dict[str, Any], counted: int) -> None:
    recipe = read_recipe(Path(TINY_RECIPE), {"per_device_train_batch_size": 2})
    assert ranks_of_step(recipe, tmp_path, Ranks()) == 1
    write_json(tmp_path / MARKER, {"recipe": {**recipe.identity(), "processes": 4}})
    assert ranks_of_step(recipe.model_copy(update=values), tmp_path, Ranks()) == counted


@pytest.mark.slow
def test_a_run_goes_on_when_the_first_node_is_lost(nodes: Nodes) -> None:
    """With disks of their own: what is left has all checkpoints, and comes to the weights of an undisturbed run."""
    undisturbed = [nodes.start(number, "undisturbed") for number in range(2)]
    assert [ended(node)[0] for node in undisturbed] == [0, 0]
    whole = [nodes.disk(number, "undisturbed") for number in range(2)]
    assert equal(*whole)

    running = [nodes.start(number, "lost") for number in range(2)]
    disks = [nodes.disk(number, "lost") for number in range(2)]
    wait_until(lambda: all((disk / "checkpoint-4" / MARKER).is_file() for disk in disks), *running)
    nodes.kill(0)
    code, output = ended(running[1])
    assert code == 1, output
    (line,) = errors(output)
    assert line.startswith("error: rank 1 on node-1: another rank has ended")
    assert "ddp_timeout" in line
    assert "Traceback" not in output
    steps = [folder.name for folder in find_checkpoints(disks[1])]
    assert "checkpoint-12" not in steps

    shutil.copytree(disks[1], nodes.folder / "fewer-disk-1")
    for run, gpus in (("lost", 2), ("fewer", 1)):
        code, output = ended(nodes.start(1, run, nodes=1, gpus=gpus))
        assert code == 0, output
        assert ("2 that it began with: its steps keep their samples" in output) == (gpus == 1)
    assert equal(disks[1], whole[0])
    assert history(disks[1]) == history(whole[0])
    fewer = nodes.disk(1, "fewer")
    assert_close(weights(fewer), weights(whole[0]))
    assert losses_of(fewer) == pytest.approx(losses_of(whole[0]), rel=CLOSE)

    for number in range(2):  # one node was ended while it wrote the last checkpoint, which the other has
        shutil.copytree(whole[number], nodes.folder / f"unequal-disk-{number}")
    shutil.rmtree(nodes.disk(1, "unequal") / "checkpoint-12")
    again = [nodes.start(number, "unequal") for number in range(2)]
    assert [ended(node)[0] for node in again] == [0, 0]
    assert equal(nodes.disk(1, "unequal"), whole[0])


@pytest.mark.slow
def test_a_node_that_falls_silent_ends_the_run(nodes: Nodes) -> None:
    """Nothing says that it is gone, as when its cable is pulled."""
    running = [nodes.start(number, "silent", "--ddp_timeout", "20", "--max_steps", "2000") for number in range(2)]
    disks = [nodes.disk(number, "silent") for number in range(2)]
    wait_until(lambda: all((disk / "checkpoint-2" / MARKER).is_file() for disk in disks), *running)
    nodes.unplug()
    for number, node in enumerate(running):
        code, output = ended(node)
        assert code == 1, output
        assert errors(output)[0].startswith(
            f"error: rank {number} on node-{number}: another rank has ended, or has not"
        )
        assert "for 20 s (ddp_timeout)" in errors(output)[0]


@pytest.mark.slow
def test_what_nodes_do_not_agree_on_is_named(nodes: Nodes) -> None:
    rates = ("1e-3", "2e-3")
    for node in [nodes.start(number, "unlike", "--learning_rate", rate) for number, rate in enumerate(rates)]:
        code, output = ended(node)
        assert code == 1, output
        line, *more = errors(output)
        assert not more, output
        named = "error: recipe: learning_rate: rank 0 on node-0 has 0.001, rank 1 on node-1 has 0.002"
        assert line.startswith(named)


@pytest.mark.slow
@pytest.mark.parametrize("ending", [0, 1])
def test_a_node_that_ends_before_the_ranks_have_met_is_named(workspace: Path, tmp_path: Path, ending: int) -> None:
    (*_, port, _, _), _ = nodes_of_one_machine()
    common = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": PYTHONPATH, "LEAP_ROOT": str(workspace)}
    common |= {"NNODES": "2", "NUM_GPUS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    launch = [sys.executable, "-m", "leap.launch", FINETUNE, *TWELVE, "--output_dir", str(tmp_path)]
    nodes = [
        subprocess.Popen(
            [*launch, *(["--train_file", "nowhere.jsonl"] * (number == ending))],
            env={**common, "NODE_RANK": str(number)}, cwd=REPOSITORY, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )
        for number in range(2)
    ]  # fmt: skip
    outputs = [ended(node) for node in nodes]
    assert outputs[ending][0] == 1, outputs
    code, output = outputs[1 - ending]
    assert code == 1, output
    host = socket.gethostname() if ending else "127.0.0.1"
    assert f"error: node {ending} ({host}) has ended before all ranks had met" in output


# In the place of Slurm's: two tasks on this machine, each with its node's number, and the name of the first node.
SRUN = """#!/usr/bin/env bash
while [[ $1 == --* ]]; do shift; done
SLURM_NODEID=0 "$@" & first=$!
SLURM_NODEID=1 "$@" & second=$!
wait $first && wait $second
"""


@pytest.mark.slow
def test_the_slurm_script_starts_what_trains_together(workspace: Path, tmp_path: Path) -> None:
    for name, content in {"srun": SRUN, "scontrol": "#!/bin/sh\nprintf '127.0.0.1\\nother\\n'\n"}.items():
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(0o755)
    job = {"SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "1", "SLURM_JOB_ID": "77", "SLURM_JOB_NODELIST": "node[1-2]"}
    search = f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, **job, "PATH": search, "LEAP_ROOT": str(workspace), "OMP_NUM_THREADS": "1"}
    run = tmp_path / "a run"
    script = ["bash", "scripts/cluster/slurm.sh", *TWELVE, "--max_steps", "2", "--output_dir", str(run)]
    done = subprocess.run(
        script, env=environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (run / "checkpoint-2" / "rng_state_1.pth").is_file()
