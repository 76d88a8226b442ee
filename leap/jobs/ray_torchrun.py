"""One torchrun on each of several nodes of a Ray cluster, in a placement group.

Not Ray Train: it starts the ranks itself, in threads of its workers, where no signal reaches them, and brings a process
group, restarts and a place for checkpoints beside those that training has. Here Ray finds the nodes, and the script is
started as it is anywhere.
"""

import os
import re
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from leap.cli import FAILED, INTERRUPTED
from leap.errors import LeapError, first_line
from leap.jobs.process import StopRequest, after_predecessor, was_stopped
from leap.jobs.ray_cluster import SAY_EVERY, WaitForRoom, connected
from leap.launch import TO_SAVE
from leap.redaction import is_secret_name
from leap.supervise import start

_SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "training" / "run-finetuning.py"
_CARRIED = re.compile(r"(LEAP|(TORCH_)?NCCL|GLOO)_\w+|HF_HOME|HF_HUB_CACHE|HF_HUB_OFFLINE|OMP_NUM_THREADS")
_LOOK_EVERY = 0.5  # seconds between two looks for a signal
_LAST_WORDS = 60.0  # seconds for the other nodes to end, and to say why


def train_on_nodes(
    address: str,
    nodes: int,
    gpus: int,
    wait: float,
    flags: Sequence[str],
    on_cpus: bool = False,
    grace: float = TO_SAVE,
) -> int:
    """0, or the exit code of the first node that does not end well. `gpus` are CPUs with `on_cpus`.

    Raises LeapError where a node is lost, or where the cluster has not so many free GPUs within `wait` seconds, and
    KeyboardInterrupt after a signal, once the nodes have ended: they have `grace` seconds to save a checkpoint, also
    where this process is killed. A second signal does not wait for them.
    """
    with connected(address, show_workers=True):
        return _train(nodes, gpus, "CPU" if on_cpus else "GPU", wait, flags, grace)


def _train(nodes: int, gpus: int, kind: str, wait: float, flags: Sequence[str], grace: float) -> int:
    import ray
    from ray.util import placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy as Place

    own = {"CPU": float(gpus)} if kind == "CPU" else {"CPU": 1.0, kind: float(gpus)}
    group = placement_group([own] * nodes, strategy="STRICT_SPREAD")
    instead = "; --on_cpus trains on CPUs" if kind == "GPU" else ""
    room = WaitForRoom(f"{nodes} node(s) with {gpus} free {kind}(s) each", kind, wait, instead)
    while not group.wait(min(SAY_EVERY, wait)):
        room.look()

    def on(node: int, work: Any, *given: Any) -> Any:
        place = Place(group, placement_group_bundle_index=node)
        resources = {"num_cpus": own["CPU"], "num_gpus": own.get("GPU", 0)}
        return ray.remote(work).options(scheduling_strategy=place, max_retries=0, **resources).remote(*given)

    first, here = ray.get(on(0, _free_address)), carried(os.environ)
    print(f"variables   taken along to the nodes: {' '.join(sorted(here)) or 'none'}", flush=True)
    here |= {**after_predecessor(grace), "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(round(grace))}
    stop = StopRequest()
    with stop.on_signals():
        calls = [on(node, _torchrun, nodes, gpus, node, first, here, grace, list(flags)) for node in range(nodes)]
        return _end_of(calls, stop)


def _end_of(waiting: list[Any], stop: StopRequest) -> int:
    import ray

    asked = False
    while waiting:
        if stop.level and not asked:
            asked = True
            for call in waiting:
                ray.cancel(call)
        if stop.level > 1:
            raise KeyboardInterrupt
        ended, waiting = ray.wait(waiting, timeout=_LOOK_EVERY)
        for call in ended:
            if code := _code(call, waiting, asked):
                return code
    if asked:
        raise KeyboardInterrupt
    return 0


def _code(ended: Any, others: list[Any], asked: bool) -> int:
    """A node's exit code; 0 of one that was interrupted as it was `asked`, and not by anybody else."""
    import ray

    code, lost = FAILED, None
    try:
        code = int(ray.get(ended))
    except ray.exceptions.TaskCancelledError:
        code = INTERRUPTED
    except ray.exceptions.RayError as error:
        lost = error
    if asked and code == INTERRUPTED:
        return 0
    if code and others:  # who starts again at once is to find nobody at work
        ray.wait(others, num_returns=len(others), timeout=_LAST_WORDS)
    if lost:
        raise LeapError(f"a node is lost ({first_line(lost)}); the same command goes on") from lost
    return code


def carried(environment: Mapping[str, str]) -> dict[str, str]:
    """What a command was given by variables and its nodes need too; credentials are each node's own."""
    return {name: value for name, value in environment.items() if _CARRIED.fullmatch(name) and not is_secret_name(name)}


def _free_address() -> tuple[str, int]:
    """Of the first node."""
    import ray

    with socket.socket() as probe:
        probe.bind(("", 0))
        return ray.util.get_node_ip_address(), probe.getsockname()[1]


def _torchrun(
    nodes: int, gpus: int, node: int, first: tuple[str, int], given: dict[str, str], grace: float, flags: list[str]
) -> int:
    """The exit code of one node's; it ends with this worker, however that ends."""
    own = {"NNODES": nodes, "NUM_GPUS": gpus, "NODE_RANK": node, "MASTER_ADDR": first[0], "MASTER_PORT": first[1]}
    launch = [sys.executable, "-m", "leap.launch", str(_SCRIPT), *flags]
    process = start(
        launch,
        grace,
        env={**os.environ, **given, **{name: str(value) for name, value in own.items()}},
        cwd=_SCRIPT.parents[2],
    )
    return INTERRUPTED if was_stopped(process, StopRequest()) else process.returncode
