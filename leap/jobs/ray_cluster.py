"""A Ray cluster: connecting to one, or starting one of our own on this machine; what there is room for in it."""

import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version

from leap.errors import LeapError, UsageError, first_line
from leap.hardware import usable_cores, visible_gpus

INSTALL_RAY = 'pip install -c constraints.txt -e ".[jobs]"'
_CONNECT = 10.0  # seconds
SAY_EVERY = 20.0  # seconds between two lines that there is no room
WAIT = 600.0  # seconds for room, where nobody says how many: an autoscaler's node takes minutes
LOSSES = 8  # workers lost with one job, request or model to load, until it is given up: more are no accident
LOCAL = "local"  # the address of a Ray of our own, on this machine


def ray_installed() -> bool:
    try:
        version("ray")
    except PackageNotFoundError:
        return False
    return True


@contextmanager
def connected(
    address: str, places: int | None = None, gpus: Sequence[str] | None = None, show_workers: bool = False
) -> Iterator[None]:
    """Ray at an address ("auto": this machine's cluster), or one of our own (LOCAL) on our cores, `places` at least,
    and `gpus`, or all that are visible. What workers print is shown here with `show_workers`."""
    if not ray_installed():
        raise UsageError(f"--ray_address {address}: Ray is not installed ({INSTALL_RAY})")
    if "://" in address:
        raise UsageError(
            f"--ray_address {address}: give auto, or a head node's HOST:PORT, and run this on a node of the cluster "
            "(ray job submit, kubectl exec)"
        )
    _refuse_unreachable(address)
    import ray

    own, kept = {}, signal.getsignal(signal.SIGTERM)
    if address == LOCAL:
        gpus = visible_gpus() if gpus is None else gpus
        cores = max(usable_cores(), places or 1)
        own = {"num_cpus": cores, "num_gpus": len(gpus), "include_dashboard": False, "object_store_memory": 100 * 2**20}
        # Ray's memory guard would kill the small worker that watches a job, never the job itself.
        os.environ.update({"RAY_USAGE_STATS_ENABLED": "0", "RAY_memory_monitor_refresh_ms": "0"})
        if gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    try:
        ray.init(address=address, logging_level="ERROR", log_to_driver=show_workers, **own)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise LeapError(f"--ray_address {address}: no Ray cluster answers there ({first_line(error)})") from error
    signal.signal(signal.SIGTERM, kept)  # Ray has set its own
    try:
        yield
    finally:
        ray.shutdown()


def _refuse_unreachable(address: str) -> None:
    """Ray itself would try for minutes."""
    host, colon, port = address.rpartition(":")
    try:
        if colon:
            socket.create_connection((host, int(port)), _CONNECT).close()
    except (OSError, ValueError) as error:
        raise LeapError(f"--ray_address {address}: nothing answers there ({first_line(error)})") from error


def room_for(gpus: int, at_once: int | None) -> tuple[int, int]:
    """(CPUs of each, how many) for models or jobs with so many GPUs each, in the cluster as it is now.

    Without GPUs they share the cores: `at_once` of them, or one a node. With GPUs they have half of their share of a
    node's cores: others may use it, too. What is more than there is room for waits for it. 0 where no node has so many.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    cores = [int(node["CPU"]) for node in nodes]
    if not gpus:
        room = at_once or max(1, len(nodes))
        return max(1, min(min(cores, default=1), sum(cores) // room)), room
    places = [int(node.get("GPU", 0) // gpus) for node in nodes]
    shares = [number // place // 2 for number, place in zip(cores, places, strict=True) if place]
    return max(1, min(shares, default=1)), at_once or sum(places)


def stock(kind: str) -> str:
    """How many CPUs or GPUs there are, and how many are free, in words."""
    import ray

    each = [node["Resources"].get(kind, 0) for node in ray.nodes() if node["Alive"]]
    free = ray.available_resources().get(kind, 0)
    return f"{sum(each):g} {kind}(s) on {len(each)} node(s), {max(each, default=0):g} at most on one, {free:g} free"


class WaitForRoom:
    """For `what`, of a cluster's CPUs or GPUs (`kind`): a line now and then, and an end after `limit` seconds."""

    def __init__(self, what: str, kind: str, limit: float, instead: str = "") -> None:
        self._what, self._kind, self._limit, self._instead = what, kind, limit, instead
        self.begin()

    def begin(self) -> None:
        self._since = self._said = time.monotonic()

    def look(self) -> None:
        """Call it while there is none. Raises LeapError at the end."""
        now = time.monotonic()
        if now - self._since >= self._limit:
            has = stock(self._kind)
            raise LeapError(f"no {self._what} after {self._limit:g} s (--wait); the cluster has {has}{self._instead}")
        if now - self._said >= SAY_EVERY:
            self._said = now
            text = f"waiting up to {self._limit:g} s (--wait) for {self._what}; the cluster has {stock(self._kind)}"
            print(text, file=sys.stderr, flush=True)


def pick_cluster_device(
    wanted: str | None, dtype: str | None, gpus_per_model: int, at_once: int | None, wait: float
) -> tuple[str, str]:
    """`pick_device` and `pick_dtype` for the cluster's workers, who are asked: this machine may have no GPU.

    Raises LeapError where no node can hold a model (with `at_once`, an autoscaler may bring one), or no GPU is free
    within `wait` seconds.
    """
    import ray

    from leap.models.loading import pick_dtype

    if wanted and ":" in wanted:
        raise UsageError(f"--device {wanted}: Ray chooses among a node's GPUs; give cuda")
    device = wanted if wanted not in (None, "auto") else "cuda" if ray.cluster_resources().get("GPU") else "cpu"
    if device == "cpu":
        return device, pick_dtype(dtype, device)
    if not room_for(gpus_per_model, at_once)[1]:
        raise LeapError(
            f"no node has {gpus_per_model} GPU(s), which a model is to have (--gpus_per_model): the cluster has "
            f"{stock('GPU')}; with --jobs N this waits for an autoscaler's nodes"
        )
    asked = ray.remote(num_gpus=1, num_cpus=0)(pick_dtype).remote(dtype, device)
    room = WaitForRoom("free GPU", "GPU", wait)
    while not ray.wait([asked], timeout=min(SAY_EVERY, wait))[0]:
        room.look()
    try:
        return device, ray.get(asked)
    except ray.exceptions.RayTaskError as error:
        raise (error.cause if isinstance(error.cause, LeapError) else error) from None
