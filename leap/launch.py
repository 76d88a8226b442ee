"""Start a training script on NUM_GPUS GPUs of this machine: torchrun, whose end is that of its ranks, in their words.

    NUM_GPUS=4 python -m leap.launch scripts/training/run-finetuning.py --fsdp

torchrun itself ends a wrong flag or Ctrl-C with tracebacks of its own, after the line that says what is wrong.
"""

import argparse
import logging
import os
import sys

import leap.interrupt  # noqa: F401  (before what takes time)
from leap.cli import FAILED, INTERRUPTED, WRONG_USAGE, run, some_workers
from leap.errors import Stopped, UsageError

_OWN_WORDS = (FAILED, WRONG_USAGE, INTERRUPTED, 143)  # exit codes of a script that has said why


def main() -> int | None:
    named = os.environ.get("NUM_GPUS") or "1"
    try:
        gpus = some_workers(named)
    except argparse.ArgumentTypeError as error:
        raise UsageError(f"NUM_GPUS: {error}") from error
    if gpus == 1:
        os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
    return _torchrun(torchrun_words(gpus, sys.argv[1:]))


def torchrun_words(gpus: int, command: list[str]) -> list[str]:
    """torchrun's arguments; without "--" it would take a script's `--start` for a short form of flags of its own."""
    return ["--standalone", "--nproc_per_node", str(gpus), "--", *command]


def _torchrun(words: list[str]) -> int | None:
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args
    from torch.distributed.run import run as start

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        start(parse_args(words))
    except SignalException as error:
        raise Stopped("stopped; the same command continues from here", int(error.sigval)) from error
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode in _OWN_WORDS:
            return failure.exitcode
        print(f"error: rank {rank} ended with exit code {failure.exitcode}, see above", file=sys.stderr)
        return FAILED
    return None


if __name__ == "__main__":
    run(main)
