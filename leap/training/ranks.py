"""What ranks exchange on the CPU, beside the traffic between their accelerators."""

import os
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from leap.environment import DDP_TIMEOUT, ENDED, ended_early, rank, world_size
from leap.errors import LeapError, first_line

_DAY = timedelta(days=1)
_LOOK_EVERY = 0.5  # seconds
_CONNECT = timedelta(seconds=15)  # a try of PyTorch's, which makes two; a store of many ranks may answer late
# In the messages of what ranks speak by: gloo on CPUs, NCCL between GPUs, the store in which they find each other.
_TRANSPORTS = ("gloo", "NCCL", "TCPStore")


def join(timeout: int = DDP_TIMEOUT) -> None:
    """Let the ranks that torchrun started find each other, as the Trainer would later. Alone, nothing happens.

    `timeout`, in seconds, is for the traffic between accelerators too.
    """
    if world_size() == 1:
        return
    from accelerate import PartialState

    with _finding_each_other():
        _meet(timeout)
        PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(seconds=timeout))


def _meet(timeout: int) -> None:
    """Until all ranks are here. Raises LeapError once the launcher of a node has ended: PyTorch waits for the whole
    timeout, and does not say for whom."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return  # no launcher has the store
    address, port, deadline = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), time.monotonic() + timeout
    names = [f"leap/rank-{number}" for number in range(world_size())]
    try:
        store = distributed.TCPStore(address, port, is_master=False, timeout=min(timedelta(seconds=timeout), _CONNECT))
        store.set(names[rank()], "")
        while not store.check(names):
            if store.check([ENDED]):
                raise LeapError(store.get(ENDED).decode())
            if time.monotonic() > deadline:
                missing = [str(number) for number, name in enumerate(names) if not store.check([name])]
                raise TimeoutError(f"after {timeout} s (ddp_timeout) without rank {', '.join(missing)}")
            time.sleep(_LOOK_EVERY)
    except distributed.DistNetworkError as error:  # its launcher had the store before any rank was started
        raise LeapError(f"{ended_early(0, address)} ({first_line(error)})") from error


@contextmanager
def _finding_each_other() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError, OSError) as error:  # an address that nobody has, a port that is taken
        place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise LeapError(
            f"the {world_size()} ranks do not find each other at {place} ({first_line(error)}); on several nodes "
            "GLOO_SOCKET_IFNAME names the network interface between them"
        ) from error


@contextmanager
def naming_lost_ranks(timeout: int) -> Iterator[None]:
    """Raises LeapError where another rank has ended, or has not answered for so many seconds."""
    try:
        yield
    except RuntimeError as error:
        if world_size() == 1 or not any(name in str(error) for name in _TRANSPORTS):
            raise
        raise LeapError(
            f"{_this_rank()}: another rank has ended, or has not answered for {timeout} s (ddp_timeout); if none says "
            f"why, its node is lost ({first_line(error)}). The same command goes on, with fewer or more GPUs too"
        ) from error


class Ranks:
    """Agreement of all ranks; alone, each call answers at once. All ranks make the same calls in one order.

    `timeout`, in seconds, is how long a rank that does not answer is waited for; one whose process ends is noticed at
    once. `writes`: this rank writes what the run keeps (see `share`).
    """

    def __init__(self, timeout: int = DDP_TIMEOUT) -> None:
        together = distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
        self._group: Any = None
        if together:
            with _finding_each_other():
                # gloo: its messages are between CPUs, so that nothing waits for a GPU's queue of work.
                self._group = distributed.new_group(backend="gloo", timeout=timedelta(seconds=timeout))
        self._asked: tuple[Any, torch.Tensor] | None = None
        self.writes = rank() == 0

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, in the order of their ranks. Waits for all."""
        if self._group is None:
            return [value]
        values: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(values, value, group=self._group)
        return values

    def wait(self) -> None:
        """Until all are here, for a day: one may check 150,000 samples while another finds them checked."""
        if self._group is not None:
            distributed.monitored_barrier(self._group, timeout=_DAY)

    def first(self, value: Any) -> Any:
        """The value of rank 0, in every rank."""
        return self.gather(value)[0]

    def same(self, what: str, value: Any) -> None:
        """Raises LeapError in every rank where `value`, which decides a run's shape, is not the same in all of them.

        Ranks that divide a step differently would train some samples twice and others never, without an error.
        """
        (first_host, first), *others = self.gather((socket.gethostname(), value))
        for number, (host, other) in enumerate(others, start=1):
            if other != first:
                field, one, two = _difference(first, other)
                raise LeapError(
                    f"{what}{field}: rank 0 on {first_host} has {one}, rank {number} on {host} has {two}: all ranks "
                    "need the same files, code and recipe; look at both machines"
                )

    def share(self, folder: Path) -> int:
        """Find out who writes into a run's folder, which is made: the first of all ranks that see the same one.

        Of nodes with disks of their own each has one that writes. Returns how many do.
        """
        folder.mkdir(parents=True, exist_ok=True)
        # New names, so that no network file system answers from what it knew before.
        with tempfile.NamedTemporaryFile(dir=folder, prefix=f".rank-{rank()}-") as mine:
            names = self.gather(Path(mine.name).name)
            first = next(number for number, name in enumerate(names) if (folder / name).exists())
            firsts = self.gather(first)  # nobody removes his before all have looked
        self.writes = first == rank()
        return len(set(firsts))

    def largest(self, value: int) -> int:
        """The largest of all ranks' values; of several ranks, of those given at the last call.

        So nobody waits: the answer to the last call has come while the step between was computed.
        """
        if self._group is None:
            return value
        known = self._answer()
        mine = torch.tensor([value])
        work = distributed.all_reduce(mine, distributed.ReduceOp.MAX, group=self._group, async_op=True)
        self._asked = (work, mine)
        return known

    def _answer(self) -> int:
        if self._asked is None:
            return 0
        (work, value), self._asked = self._asked, None
        work.wait()
        return int(value)

    def close(self) -> None:
        """Let the last question be answered before a rank ends."""
        self._answer()


def _this_rank() -> str:
    return f"rank {rank()} on {socket.gethostname()}"


def _difference(one: Any, other: Any, name: str = "") -> tuple[str, Any, Any]:
    """The first entry in which two values differ, by its name in them, and both sides of it."""
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return name, one, other
    pairs = ((key, one.get(key, "nothing"), other.get(key, "nothing")) for key in sorted(one.keys() | other.keys()))
    key, left, right = next((key, left, right) for key, left, right in pairs if left != right)
    return _difference(left, right, f"{name}, {key}" if name else f": {key}")
