"""A run's checkpoint folders: whole or not there; once newer ones are whole, old ones are stripped, then removed."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from leap.errors import LeapError
from leap.models.checkpoints import ADAPTER, MARKER, checkpoint_step, find_checkpoints, is_resumable, read_marker
from leap.records.files import DISK_FULL, naming, share_weights, sync_folder, sync_tree
from leap.records.json_files import read_object, write_json
from leap.records.litter import listed
from leap.records.locks import FolderLock
from leap.training.memory import gigabytes

RESUMABLE_KEPT = 2  # the newest checkpoints that keep their optimiser state
_SMALL_FILES = 32 << 20  # bytes: processor, settings, logs
BEING_SENT = set[Path]()  # of this process's run: they stay as they are until they have been sent
# What only resuming reads; global_step* and latest are DeepSpeed's.
_TRAINING_STATE = (
    "optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state*.pth", "loss_since_log.json", "global_step*", "latest",
)  # fmt: skip


@contextmanager
def training_in(run: Path) -> Iterator[None]:
    """Keep other processes out of a run's folder, and remove what a killed one left half-written or half-removed.

    Raises LeapError where another process trains there.
    """
    with FolderLock(run):
        for leftover in run.glob(".checkpoint-*.partial"):
            _remove(leftover)
        yield


def partial_folder(place: Path) -> Path:
    """Where a checkpoint lies until it is whole, or while it is removed: under no checkpoint's name."""
    return place.with_name(f".{place.name}.partial")


def start_checkpoint(place: Path, needed: int) -> None:
    """Make the partial folder. Raises LeapError where `needed` bytes and some for small files are not free."""
    partial = partial_folder(place)
    _remove(partial)
    place.parent.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(place.parent).free < needed + _SMALL_FILES:
        raise LeapError(_no_room(place, "the disk is too full", needed))
    partial.mkdir()


def finish_checkpoint(place: Path, marker: dict[str, Any]) -> None:
    """The partial folder becomes the checkpoint, when all of it is on the disk."""
    partial = partial_folder(place)
    share_weights(partial)
    sync_tree(partial)
    write_json(partial / MARKER, marker)
    _remove(place)  # one that an older LEAP or another program left there half-written: see find_resume
    partial.rename(place)
    sync_folder(place.parent)


@contextmanager
def explaining_disk_errors(place: Path, needed: int) -> Iterator[None]:
    """A write that fails for want of room removes the partial folder and ends with one clear error."""
    try:
        with naming(place):
            yield
    except OSError as error:
        if (cause := DISK_FULL.get(error.errno or 0)) is None:
            raise
        shutil.rmtree(partial_folder(place), ignore_errors=True)
        raise LeapError(_no_room(place, cause, needed)) from error


def _no_room(place: Path, cause: str, needed: int) -> str:
    whole = [folder.name for folder in find_checkpoints(place.parent) if is_resumable(folder)]
    kept = f"{whole[-1]} is whole" if whole else "there is no whole checkpoint yet"
    needed, free = needed + _SMALL_FILES, shutil.disk_usage(place.parent).free
    return (
        f"{place.parent}: {cause}: {place.name} needs {gigabytes(needed)} and {gigabytes(free)} is free; {kept}. "
        "Make room, or keep fewer checkpoints (--save_total_limit); then the same command goes on"
    )


def whole_checkpoints(run: Path) -> list[Path]:
    """Those that LEAP finished, oldest first."""
    return [folder for folder in find_checkpoints(run) if (folder / MARKER).is_file()]


def remove_oldest(run: Path, keep: int | None, best: str | None = None) -> None:
    """Remove all whole checkpoints but the newest `keep`, `best` and those that wait to be sent. Call it when the
    newest is whole."""
    whole = whole_checkpoints(run)
    for old in whole[:-keep] if keep else []:
        if old in BEING_SENT:
            continue
        if best is None or old.resolve() != Path(best).resolve():
            _remove_whole(old)


def remove_newer(run: Path, step: int) -> None:
    """Remove whole checkpoints of later steps than `step`, which another node's disk has not. They are made anew, and
    what is saved on the way there would count as older."""
    for newer in whole_checkpoints(run):
        if step_of(newer) > step:
            _remove_whole(newer)


def _remove_whole(checkpoint: Path) -> None:
    checkpoint.rename(partial_folder(checkpoint))  # first, so that a kill leaves nothing that looks whole
    _remove(partial_folder(checkpoint))


def _remove(folder: Path) -> None:
    """A checkpoint's folder, or the link that stands for one which was moved to another disk, if anything is there."""
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)


def strip_older(run: Path) -> None:
    """Strip all whole checkpoints but the newest RESUMABLE_KEPT and those that wait to be sent; those that a kill left
    half-stripped included."""
    for old in whole_checkpoints(run)[:-RESUMABLE_KEPT]:
        if old not in BEING_SENT:
            _strip(old)


def _strip(folder: Path) -> None:
    """Only what evaluation and export need stays, a whole model's float32 weights as bf16 (an adapter's are small).

    In place, each file replaced whole, and the marker first: a kill at any point leaves a checkpoint that loads and
    says that it cannot be resumed. It needs no more room than it frees.
    """
    marker = read_marker(folder)
    if marker.get("resumable", True):
        marker["resumable"] = False
        write_json(folder / MARKER, marker)
    for state in (path for pattern in _TRAINING_STATE for path in folder.glob(pattern)):
        shutil.rmtree(state) if state.is_dir() else state.unlink()
    if marker.get("weights") != "float32" or (folder / ADAPTER).is_file():
        return
    for file in listed(folder, "*.safetensors"):
        _to_bf16(file)
    for file in (folder / "config.json", *listed(folder, "*.safetensors.index.json")):
        _describe_bf16(file)
    write_json(folder / MARKER, {**marker, "weights": "bfloat16"})  # last: until then the next call goes on


def _to_bf16(file: Path) -> None:
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(file, "pt") as stored:
        metadata, tensors = stored.metadata(), {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    stripped = {name: value.bfloat16() if value.dtype == torch.float32 else value for name, value in tensors.items()}
    temporary = file.with_name(f".{file.name}.partial")
    save_file(stripped, temporary, metadata)
    shutil.copymode(file, temporary)
    with temporary.open("rb") as written:
        os.fsync(written.fileno())
    temporary.replace(file)
    sync_folder(file.parent)


def _describe_bf16(file: Path) -> None:
    """The dtype in a model's settings, its parts' included, and the size in a list of weight files."""
    if not file.is_file():
        return
    settings = _as_bf16(read_object(file))
    if "weight_map" in settings:
        size = sum(path.stat().st_size for path in listed(file.parent, "*.safetensors"))
        settings["metadata"] = {**(settings.get("metadata") or {}), "total_size": size}
    write_json(file, settings)


def _as_bf16(settings: dict[str, Any]) -> dict[str, Any]:
    return {
        key: "bfloat16"
        if key in ("dtype", "torch_dtype") and value == "float32"
        else _as_bf16(value)
        if isinstance(value, dict)
        else value
        for key, value in settings.items()
    }


def resume_point(run: Path) -> Path | None:
    """The newest whole checkpoint; None where there is none. Raises LeapError where it was stripped."""
    whole = whole_checkpoints(run)
    if whole and not is_resumable(whole[-1]):
        raise LeapError(
            f"{whole[-1]}: training cannot go on from it: it was stripped to its weights (only the newest "
            f"{RESUMABLE_KEPT} of a run keep the optimiser's state). Start a run of its own from these weights "
            f"(--model_name_or_path {whole[-1]} --output_dir output/NAME)"
        )
    return whole[-1] if whole else None


def step_of(folder: Path | str | None) -> int:
    """The optimiser steps behind a checkpoint; 0 for none."""
    return (checkpoint_step(Path(folder)) or 0) if folder else 0
