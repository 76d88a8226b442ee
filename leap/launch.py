"""Start a training script on NUM_GPUS GPUs of this machine: torchrun, whose end is that of its ranks, in their words.

    NUM_GPUS=4 python -m leap.launch scripts/training/run-finetuning.py --fsdp
    NUM_GPUS=8 NNODES=2 NODE_RANK=0 MASTER_ADDR=10.0.0.1 python -m leap.launch scripts/training/run-finetuning.py

The second line is for the first of two nodes, whose address all are given; on the other one NODE_RANK is 1.
torchrun itself ends a wrong flag or Ctrl-C with tracebacks of its own, after the line that says what is wrong.
"""

import argparse
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from datetime import timedelta

import leap.interrupt  # noqa: F401  (before what takes time)
from leap.cli import FAILED, INTERRUPTED, WRONG_USAGE, count, run, some_workers, whole
from leap.environment import ENDED, ended_early
from leap.errors import LeapError, Stopped, UsageError, first_line

_OWN_WORDS = (FAILED, WRONG_USAGE, INTERRUPTED, 143)  # exit codes of a script that has said why
TO_SAVE = 240  # seconds that ranks have to save a checkpoint when they are to end: one of the 2B model took 28 s
_PORT = "29500"  # torchrun's
_TELLING = 3  # seconds
_HERE = ["--standalone", "--local_addr", "127.0.0.1"]  # else it is the machine's name, which not every one can resolve


def main() -> int | None:
    gpus, nodes = _variable("NUM_GPUS", some_workers, "1"), _variable("NNODES", some_workers, "1")
    if gpus == nodes == 1:
        os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
    return _torchrun(torchrun_words(gpus, _rendezvous(nodes) if nodes > 1 else _HERE, sys.argv[1:]))


def _variable(name: str, kind: Callable[[str], int], default: str) -> int:
    try:
        return kind(os.environ.get(name) or default)
    except argparse.ArgumentTypeError as error:
        raise UsageError(f"{name}: {error}") from error


def torchrun_words(gpus: int, where: list[str], command: list[str]) -> list[str]:
    """torchrun's arguments; without "--" it would take a script's `--start` for a short form of flags of its own."""
    return [*where, "--nproc_per_node", str(gpus), "--", *command]


def _rendezvous(nodes: int) -> list[str]:
    """Where torchrun's agents meet. Not by c10d: the first node then is the one that NODE_RANK says, and is reached by
    the address that was given, whatever it calls itself."""
    if missing := [name for name in ("NODE_RANK", "MASTER_ADDR") if not os.environ.get(name)]:
        raise UsageError(f"NNODES={nodes} needs {' and '.join(missing)}: which node this is, the first one's address")
    number, port = _variable("NODE_RANK", whole, "0"), _variable("MASTER_PORT", count, _PORT)
    if number >= nodes:
        raise UsageError(f"NODE_RANK={number} of NNODES={nodes}: nodes count from 0")
    address = os.environ["MASTER_ADDR"]
    if "GLOO_SOCKET_IFNAME" not in os.environ and (name := interface_to(address)):
        os.environ["GLOO_SOCKET_IFNAME"] = name
    print(f"node        {number} of {nodes} (from 0), which meet at {address}:{port}", file=sys.stderr, flush=True)
    return ["--nnodes", str(nodes), "--node_rank", str(number), "--master_addr", address, "--master_port", str(port)]


def interface_to(host: str) -> str | None:
    """The network interface through which this machine reaches a host, or has its address; None for loopback.

    gloo's own choice is the one of this machine's name, which in many an /etc/hosts is loopback.
    """
    import psutil

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, int(_PORT)))  # which sends nothing
        except OSError as error:
            raise LeapError(f"MASTER_ADDR={host}: this machine does not reach it ({first_line(error)})") from error
        address = probe.getsockname()[0]
    found = (name for name, own in psutil.net_if_addrs().items() if any(one.address == address for one in own))
    return None if address.startswith("127.") else next(found, None)


def _torchrun(words: list[str]) -> int | None:
    from torch.distributed import DistError
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args
    from torch.distributed.run import run as start

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(TO_SAVE))  # after a signal, until SIGKILL
    try:
        start(parse_args(words))
    except SignalException as error:
        _tell_other_nodes()
        raise Stopped("stopped; the same command continues from here", int(error.sigval)) from error
    except DistError as error:  # of torchrun itself: its ranks are other processes
        raise LeapError(
            f"the nodes do not find each other ({first_line(error)}): give the same command on each of NNODES nodes "
            "within ten minutes, with the address of the first as MASTER_ADDR"
        ) from error
    except ChildFailedError as error:
        _tell_other_nodes()
        rank, failure = error.get_first_failure()
        if failure.exitcode in _OWN_WORDS:
            return failure.exitcode
        ended = f"ended with exit code {failure.exitcode}"
        if failure.exitcode < 0:  # SIGABRT is NCCL's end where another rank is lost
            ended = f"was ended by {signal.Signals(-failure.exitcode).name}"
        print(f"error: rank {rank} {ended}, see above", file=sys.stderr)
        return FAILED
    return None


def _tell_other_nodes() -> None:
    """That this one has ended, for ranks that wait for its own. The first one's store says it by ending."""
    node = _variable("NODE_RANK", whole, "0")
    if _variable("NNODES", some_workers, "1") == 1 or node == 0:
        return
    from torch.distributed import TCPStore

    with contextlib.suppress(RuntimeError):  # the first node has ended
        port, timeout = _variable("MASTER_PORT", count, _PORT), timedelta(seconds=_TELLING)
        store = TCPStore(os.environ["MASTER_ADDR"], port, is_master=False, timeout=timeout)
        store.set(ENDED, ended_early(node, socket.gethostname()))


if __name__ == "__main__":
    run(main)
