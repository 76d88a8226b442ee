"""Which GPUs and cores a process may use, how full and how fast the GPUs are, without importing PyTorch."""

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from leap.errors import UsageError

# Peak of dense bfloat16 products with float32 sums, in FLOP/s, by a part of the name that the driver gives the GPU; the
# first part that fits counts. From NVIDIA's data sheets and architecture papers; figures with sparsity are halved.
_PEAKS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 NVL": 835e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,  # SXM
    "A100": 312e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "A10G": 70e12,
    "A10": 125e12,
    "RTX PRO 6000": 504e12,
    "RTX 6000 Ada": 364e12,
    "RTX A6000": 155e12,
    "RTX 5090": 210e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}
ALLOCATOR, SEGMENTS = "PYTORCH_ALLOC_CONF", "expandable_segments:True"
_OLDER_NAMES = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")  # still read, where the newer one is not set


@dataclass(frozen=True)
class GpuState:
    """One line of nvidia-smi. Memory in MiB, utilization in percent; None where the card does not say."""

    index: str
    name: str
    memory_used: int | None
    memory_total: int | None
    utilization: int | None


def visible_gpus() -> list[str]:
    """The GPUs of this process as CUDA_VISIBLE_DEVICES names them; empty where there is none."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        names = [name.strip() for name in allowed.split(",") if name.strip()]
        return names[: names.index("-1")] if "-1" in names else names  # CUDA ignores what follows -1
    return [index for (index,) in _nvidia_smi("index")]


def chosen_gpus(named: str | None) -> list[str]:
    """The GPUs that a user names as "0,1", or none of them ("none"), or all that are visible."""
    if named is None:
        return visible_gpus()
    names = [] if named == "none" else [name.strip() for name in named.split(",")]
    if "" in names or len(set(names)) < len(names):
        raise UsageError(f"--gpus {named}: give each GPU once, as in 0,1; or none")
    return names


def gpu_states() -> list[GpuState]:
    """Every NVIDIA GPU of the machine; empty where nvidia-smi is missing or does not work."""
    rows = _nvidia_smi("index", "name", "memory.used", "memory.total", "utilization.gpu")
    return [GpuState(index, name, *map(_number, numbers)) for index, name, *numbers in rows]


def _nvidia_smi(*fields: str) -> list[list[str]]:
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):  # no driver, or one that does not answer
        return []
    rows = ([cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines())
    return [row for row in rows if len(row) == len(fields)]


def _number(text: str) -> int | None:
    return int(text) if text.isdecimal() else None


def prepare_allocator() -> None:
    """Let PyTorch's memory on a GPU grow in segments, since batches are of many lengths. What the user has set stays.

    To be called before torch is imported: it may read the variable as it starts.
    """
    if not any(name in os.environ for name in (ALLOCATOR, *_OLDER_NAMES)):
        os.environ[ALLOCATOR] = SEGMENTS


def prepare_threads() -> None:
    """Let threads of CPU arithmetic sleep soon where they wait for each other. What the user has set stays.

    GNU's OpenMP, which PyTorch computes with on Linux, else spins for milliseconds: beside other processes on that
    for which it waits. To be called before torch is imported.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = "10000"


def peak_flops(device_name: str) -> float | None:
    """A GPU's peak of dense bfloat16 products in FLOP/s; None for one that is not in the table, and for a CPU."""
    return next((peak for part, peak in _PEAKS.items() if part in device_name), None)


def usable_cores() -> int:
    """CPU cores that this process may run on: fewer than the machine's in a container or a batch job."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_memory(system: Path = Path("/")) -> int | None:
    """Bytes of the host's memory that this process may still take; None where the system does not say.

    That is the least of what the machine has and what each control group around the process (a container's, a batch
    job's; version 1 or 2) leaves it. Caches of files count as free, as they make room. `system` is where /proc and /sys
    lie.
    """
    machine = _counts(system / "proc" / "meminfo").get("MemAvailable:")
    free = [] if machine is None else [machine * 1024]
    for group in _memory_groups(system):
        found = _counts(group / "memory.stat")
        for limit, used, of_tree in (
            ("memory.max", "memory.current", ""),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
        ):
            numbers = [_first_number(group / name) for name in (limit, used)]
            if numbers[0] is not None and numbers[1] is not None:  # a limit of "max" is none
                caches = sum(found.get(f"{of_tree}{kind}_file", 0) for kind in ("active", "inactive"))
                free.append(max(0, numbers[0] - numbers[1] + caches))
    return min(free, default=None)


def _memory_groups(system: Path) -> Iterator[Path]:
    """The control groups with a say in this process's memory: its own and those around it.

    A container sees its own group as the root, whatever the path that the kernel gives.
    """
    for line in _lines(system / "proc" / "self" / "cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers == "" or "memory" in controllers.split(","):
            root = system / "sys" / "fs" / "cgroup" / ("memory" if controllers else "")
            place = root / path.lstrip("/")
            yield from (folder for folder in (place, *place.parents) if folder.is_relative_to(root))


def _counts(file: Path) -> dict[str, int]:
    """Of lines such as "MemAvailable: 12 kB"."""
    words = (line.split() for line in _lines(file))
    return {name: int(value) for name, value, *_ in words if value.isdecimal()}


def _first_number(file: Path) -> int | None:
    return next((_number(line) for line in _lines(file)), None)


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:  # no Linux, or another version of control groups
        return []
