"""One torchrun on each of several nodes of a Ray cluster, in a placement group.

Not Ray Train: it starts the ranks itself, in threads of its workers, where no signal reaches them, and brings a process
group, restarts and a place for checkpoints beside those that training has. Here Ray finds the nodes, and the script is
started as it is anywhere.
"""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from leap.cli import FAILED
from leap.errors import LeapError, first_line
from leap.jobs.ray_cluster import connected
from leap.redaction import is_secret_name
from leap.supervise import supervised

_SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "training" / "run-finetuning.py"
_CARRIED = re.compile(r"(LEAP|NCCL|GLOO)_\w+|HF_HOME|HF_HUB_CACHE|HF_HUB_OFFLINE|OMP_NUM_THREADS")
_LAST_WORDS = 60.0  # seconds for the other nodes to end, and to say why


def train_on_nodes(address: str, nodes: int, gpus: int, wait: float, flags: Sequence[str]) -> int:
    """0, or the exit code of the first node that does not end well. A cluster without GPUs has ranks on its CPUs.

    Raises LeapError where a node is lost, or where the cluster has not so many free GPUs within `wait` seconds.
    """
    with connected(address, show_workers=True):
        return _train(nodes, gpus, wait, flags)


def _train(nodes: int, gpus: int, wait: float, flags: Sequence[str]) -> int:
    import ray
    from ray.util import placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy as Place

    kind = "GPU" if ray.cluster_resources().get("GPU") else "CPU"
    group = placement_group([{"CPU": 1.0, kind: float(gpus)}] * nodes, strategy="STRICT_SPREAD")
    if not group.wait(wait):
        raise LeapError(f"the cluster has no {nodes} nodes with {gpus} free {kind}s each (see `ray status`)")

    def on(node: int, work: Any, *given: Any) -> Any:
        place = Place(group, placement_group_bundle_index=node)
        resources = {"num_cpus": 1, "num_gpus": gpus} if kind == "GPU" else {"num_cpus": gpus}
        return ray.remote(work).options(scheduling_strategy=place, max_retries=0, **resources).remote(*given)

    first, here = ray.get(on(0, _free_address)), carried(os.environ)
    print(f"variables   taken along to the nodes: {' '.join(sorted(here)) or 'none'}", flush=True)
    waiting = [on(node, _torchrun, nodes, gpus, node, first, here, list(flags)) for node in range(nodes)]
    while waiting:
        (ended,), waiting = ray.wait(waiting)
        lost: Exception | None = None
        try:
            code = int(ray.get(ended))
        except ray.exceptions.RayError as error:
            code, lost = FAILED, error
        if code and waiting:  # who starts again at once is to find nobody at work
            ray.wait(waiting, num_returns=len(waiting), timeout=_LAST_WORDS)
        if lost:
            raise LeapError(f"a node is lost ({first_line(lost)}); the same command goes on") from lost
        if code:
            return code
    return 0


def carried(environment: Mapping[str, str]) -> dict[str, str]:
    """What a command was given by variables and its nodes need too; credentials are each node's own."""
    return {name: value for name, value in environment.items() if _CARRIED.fullmatch(name) and not is_secret_name(name)}


def _free_address() -> tuple[str, int]:
    """Of the first node."""
    import ray

    with socket.socket() as probe:
        probe.bind(("", 0))
        return ray.util.get_node_ip_address(), probe.getsockname()[1]


def _torchrun(nodes: int, gpus: int, node: int, first: tuple[str, int], given: dict[str, str], flags: list[str]) -> int:
    """The exit code of one node's; it ends with this worker, however that ends."""
    own = {"NNODES": nodes, "NUM_GPUS": gpus, "NODE_RANK": node, "MASTER_ADDR": first[0], "MASTER_PORT": first[1]}
    launch = [sys.executable, "-m", "leap.launch", str(_SCRIPT), *flags]
    return subprocess.run(
        supervised(launch),
        env={**os.environ, **given, **{name: str(value) for name, value in own.items()}},
        cwd=_SCRIPT.parents[2],
        check=False,
    ).returncode
