"""Where a result comes from: code, command, libraries, machine."""

import hashlib
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from leap.redaction import hide

_LIBRARIES = ("leap-planning", "torch", "torchvision", "transformers", "accelerate", "peft", "pillow", "numpy")


def git_state(repository: Path) -> dict[str, Any]:
    """{"commit": hash, "dirty": whether tracked files differ from it}; None for both outside a checkout."""
    commit = _git(repository, "rev-parse", "HEAD")
    changes = _git(repository, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit or None, "dirty": bool(changes) if commit else None}


def own_commit(folder: Path) -> str | None:
    """The commit of a checkout whose top is `folder` itself; None for a folder inside another checkout."""
    top = _git(folder, "rev-parse", "--show-toplevel")
    return _git(folder, "rev-parse", "HEAD") if top and Path(top) == folder.resolve() else None


def _git(repository: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(repository), *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:  # no git on this machine
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def versions() -> dict[str, str]:
    """Python's version and those of the libraries that a number depends on."""
    found = {"python": platform.python_version(), **{name: _version(name) for name in _LIBRARIES}}
    return {name: number for name, number in found.items() if number}


@cache  # reading a library's metadata takes a millisecond, and a sweep has a manifest for each model and dimension
def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


@cache
def code_hash() -> str:
    """sha256 over LEAP's modules as they are here, in a checkout or installed."""
    package, digest = Path(__file__).parent, hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(str(path.relative_to(package)).encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def device_name(device: str) -> str:
    """What a person calls the device: the GPU's name, or the processor and its cores."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


_running_code = cache(git_state)  # of a checkout that changes meanwhile, what was loaded stays what it was


def origin(repository: Path) -> dict[str, Any]:
    """What makes a result now: code, command, versions, and when it began."""
    return {"code": _running_code(repository), "command": command(), "versions": versions(), "start": now()}


def command() -> str:
    """The command line that is running, without secrets."""
    return hide(shlex.join([Path(sys.executable).name, *sys.argv]))


def now() -> str:
    """The time, in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
