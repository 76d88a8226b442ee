"""What a run needs before it starts: bytes of weights, gradients and optimiser states, of checkpoints, and hours."""

import math
from dataclasses import dataclass
from pathlib import Path

from leap.hardware import peak_flops
from leap.models.checkpoints import weight_files
from leap.training.optimizers import OPTIMIZERS

_CAST = 2  # autocast's bfloat16 copy of a float32 weight, kept until its backward pass
_STRIPPED = 2  # a weight in a checkpoint that is kept without its optimiser's state, in bfloat16
_COPY_SHARE = 0.6  # of the host's free memory; the rest is for workers, and for files that wait for the disk
ASSUMED_DISK = 0.7e9  # bytes a second that a disk takes
ASSUMED_UTILISATION = 0.35  # of the GPU's peak, where none was measured


def state_bytes(trained: int, frozen: int, optim: str, bf16: bool, frozen_bytes: float = 4) -> int:
    """On every GPU (DDP), for so many trained and frozen weights: all that training holds but activations and what the
    allocator wastes. `frozen_bytes` is what a frozen weight takes (0.5 and a bit in 4 bit)."""
    of = OPTIMIZERS[optim]
    casts = _CAST * ((trained if of.weight_bytes == 4 else 0) + (frozen if frozen_bytes == 4 else 0)) if bf16 else 0
    return int((of.weight_bytes + of.gradient_bytes + of.moments_bytes) * trained + frozen_bytes * frozen) + casts


@dataclass(frozen=True)
class CheckpointSize:
    """Bytes on disk: of a checkpoint that training can go on from, and of one that is only to be used."""

    whole: int
    stripped: int

    def of_run(self, checkpoints: int) -> int:
        """So many checkpoints, the newest two of which keep their state."""
        return min(checkpoints, 2) * self.whole + max(0, checkpoints - 2) * self.stripped


def checkpoint_size(trained: int, frozen: int, optim: str, adapter: bool) -> CheckpointSize:
    """Of a model with all its weights, or (`adapter`) of the trained ones alone."""
    saved = trained if adapter else trained + frozen
    whole = OPTIMIZERS[optim].weight_bytes * saved + OPTIMIZERS[optim].moments_bytes * trained
    return CheckpointSize(whole, stripped=_STRIPPED * saved)


def count_weights(model: Path) -> int:
    """All weights of a model folder, from the heads of its safetensors files alone."""
    from safetensors import safe_open

    total = 0
    for path in weight_files(model):
        if path.suffix != ".safetensors":  # only loading shows what is in another format; it is half bytes, mostly
            total += path.stat().st_size // 2
            continue
        with safe_open(path, framework="numpy") as file:
            total += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118 (no dict)
    return total


def assumed_rate(device_name: str) -> float | None:
    """Operations a second that training is taken to reach on a GPU; None for one whose peak is not known."""
    peak = peak_flops(device_name)
    return peak * ASSUMED_UTILISATION if peak else None


def gigabytes(size: float) -> str:
    """Bytes as a person says them."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size / 1e6:,.1f} MB"


def saving_seconds(size: CheckpointSize, checkpoints: int, between: float, beside: bool) -> float:
    """How long checkpoints keep training waiting, on a disk of ASSUMED_DISK.

    Each is written whole, and an older one stripped. `beside`: while training goes on, so that it waits for the last
    one and for what of another takes longer than the `between` seconds of steps until the next.
    """
    writing = (size.whole + size.stripped) / ASSUMED_DISK
    return writing + (checkpoints - 1) * (max(0.0, writing - between) if beside else writing)


def has_room_for_copy(size: int, available: int | None) -> bool:
    """Whether a copy of a checkpoint's state fits into the `available` host memory (None: not known)."""
    return available is None or size <= _COPY_SHARE * available
