"""What reproduce.sh downloads, and the disk and hours that it takes, as far as they are known before it begins."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from leap.errors import LeapError
from leap.hardware import gpu_states, peak_flops
from leap.hub.client import Hub
from leap.hub.download import Choice, log
from leap.hub.file_listing import HubFile, Repository
from leap.hub.resume_download import Retries, RetryPolicy

_MODELS = 2


def needs(hub: Hub, wanted: Sequence[tuple[Repository, Path, Choice]], root: Path, measured: Path) -> str:
    """In words, for downloads into folders below `root`; `measured` is a benchmark of evaluation's speed.

    Raises LeapError where the hub refuses, and where the disk is too small.
    """
    lines, left, examples = [], 0, 0
    for repository, folder, choice in wanted:
        files = _listed(hub, repository)
        paths = choice([file.path for file in files])
        missing = [file for file in files if file.path in paths and not _there(file, folder)]
        size = sum(file.size for file in missing)
        lines.append(f"{repository.name}: {len(missing)} of {len(paths)} files to download, {decimal(size)}")
        left += size
        examples += sum(path.endswith("/output/operation_sequence.json") for path in paths)
    free = shutil.disk_usage(root).free
    if left > free:
        raise LeapError(f"{root}: {decimal(left)} are to be downloaded, and {decimal(free)} of the disk are free")
    lines.append(f"disk: {decimal(left)} in all, of {decimal(free)} that are free in {root}")
    return "\n".join([*lines, _hours(examples, json.loads(measured.read_text()))])


def _listed(hub: Hub, repository: Repository) -> Sequence[HubFile]:
    return Retries(RetryPolicy(), log).persist(lambda: hub.snapshot(repository)).files


def _there(file: HubFile, folder: Path) -> bool:
    """By its size, which is quick; the download itself compares hashes."""
    path = folder / file.path
    return path.is_file() and path.stat().st_size == file.size


def _hours(examples: int, measured: dict[str, Any]) -> str:
    """At the measured rate, by the peak of this GPU's arithmetic to that GPU's."""
    device, hours = measured["device"], _MODELS * examples / measured["ours"] / 3600
    rate = f"{measured['ours']:.1f} examples a second, measured with {measured['settings']['new_tokens']} new tokens"
    known = f"{hours:.1f} on one {device} ({rate})"
    asked, gpus = f"hours: {_MODELS} x {examples} examples", gpu_states()
    if not gpus:
        return f"{asked}, {known}; no GPU is visible here"
    peak, measured_peak = peak_flops(gpus[0].name), peak_flops(device)
    if not peak or not measured_peak:
        return f"{asked}, {known}; how fast {gpus[0].name} is, is not known"
    return f"{asked}, about {hours * measured_peak / peak:.1f} on {gpus[0].name}; {known}"
