"""Environment variables that libraries read as they are imported, where a wrong one ends in a traceback of theirs."""

import os
import re

from leap.errors import UsageError

ENDED = "leap/ended"  # key in torchrun's store: `ended_early`
LOCK_WAIT = "LEAP_LOCK_WAIT"  # seconds until a training run's folder must be free, as who starts it again says
# Of torchrun, accelerate and huggingface_hub: the least value of each.
_WHOLE = {
    "WORLD_SIZE": 1,
    "LOCAL_WORLD_SIZE": 1,
    "RANK": 0,
    "LOCAL_RANK": 0,
    "MASTER_PORT": 1,
    "HF_HUB_DOWNLOAD_TIMEOUT": 1,
    "HF_HUB_ETAG_TIMEOUT": 1,
    LOCK_WAIT: 0,
}

DDP_TIMEOUT = 1800  # seconds until a rank that does not answer is lost: the Trainer's default for `ddp_timeout`


def check_environment() -> None:
    """Raise UsageError for a variable that must be a whole number and is none, and for a rank without its ranks."""
    for name, least in _WHOLE.items():
        value = os.environ.get(name, str(least))
        if not re.fullmatch(r"[0-9]{1,9}", value) or int(value) < least:
            raise UsageError(f"{name}={value}: a whole number from {least} is needed; correct it, or unset it")
    if world_size() > 1 and (missing := [name for name in ("RANK", "MASTER_ADDR") if not os.environ.get(name)]):
        raise UsageError(f"WORLD_SIZE={world_size()} without {' and '.join(missing)}: start with torchrun, or unset it")
    if rank() >= world_size():
        raise UsageError(f"RANK={rank()} of WORLD_SIZE={world_size()}: ranks count from 0; start with torchrun")
    # All figures here are files. A notebook names a backend of its own, which other Pythons do not have.
    os.environ["MPLBACKEND"] = "agg"


def ended_early(node: int, host: str) -> str:
    """What ranks are told that wait for those of a node."""
    return f"node {node} ({host}) has ended before all ranks had met, and says why there"


def world_size() -> int:
    """How many processes train together, as torchrun says."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_world_size() -> int:
    """How many of them are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def rank() -> int:
    """Which of them this one is, from 0."""
    return int(os.environ.get("RANK", "0"))
