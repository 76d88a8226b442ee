"""A copy of a run's state in the host's memory, from which a checkpoint is written while training goes on."""

import mmap
import sys
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

_ALIGNED = 64  # bytes
_PORTABLE = 1  # cudaHostRegisterPortable
_PAGES = ("MADV_HUGEPAGE", "MADV_DONTFORK")


class HostCopy:
    """One piece of memory, taken at the first copy and used for all later ones.

    Not torch's pinned tensors: its allocator rounds each up to a power of two, a third more for the 2B, and cannot keep
    what is pinned from being copied into every worker that a data loader forks.
    """

    def __init__(self) -> None:
        self._memory: mmap.mmap | None = None
        self._device: torch.device | None = None  # the GPU that is copied from
        self._pinned = False

    @property
    def taken(self) -> bool:
        """Whether the memory is there."""
        return self._memory is not None

    def of(self, state: Any) -> Any:
        """The same dictionaries with equal tensors on the CPU. The next call overwrites them.

        Tensors that are one (tied weights) stay one. Waits until all is copied.
        """
        unique = {_identity(tensor): tensor for tensor in _tensors(state)}
        starts, end = {}, 0
        for key, tensor in unique.items():
            starts[key] = end
            end += -(-tensor.numel() * tensor.element_size() // _ALIGNED) * _ALIGNED
        if self._memory is None or len(self._memory) < end:
            self._take(max(end, 1))
        copies = {key: self._copy(tensor, starts[key]) for key, tensor in unique.items()}
        return _replaced(state, copies)

    def pin(self) -> None:
        """Let the GPU write to the memory by itself, several times as fast. Where it may not, copies stay slower.

        To be called in another thread than the one that trains: it takes seconds, and a refusal would be found by this
        thread's next kernel.
        """
        if self._memory is None or self._device is None or self._pinned:
            return
        torch.cuda.set_device(self._device)
        code = int(torch.cuda.cudart().cudaHostRegister(self._address(), len(self._memory), _PORTABLE))
        if code:
            print(f"the copy of checkpoints is not pinned (CUDA error {code}), so it takes longer", file=sys.stderr)
            self._device = None
        self._pinned = code == 0

    def close(self) -> None:
        """Give the memory back, once no copy is used any more."""
        if self._pinned:
            torch.cuda.cudart().cudaHostUnregister(self._address())
        self._memory, self._pinned = None, False

    def _take(self, size: int) -> None:
        self.close()
        self._memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        for advice in _PAGES:
            with suppress(OSError, AttributeError):  # a kernel without huge pages; another system than Linux
                self._memory.madvise(getattr(mmap, advice))

    def _copy(self, tensor: Tensor, start: int) -> Tensor:
        if tensor.is_cuda:
            self._device = self._device or tensor.device
        if not tensor.numel():
            return tensor.detach().cpu()
        assert self._memory is not None
        # Each has a storage of its own, as torch.save writes whole storages.
        place = torch.frombuffer(self._memory, dtype=tensor.dtype, count=tensor.numel(), offset=start)
        return place.view(tensor.shape).copy_(tensor.detach())

    def _address(self) -> int:
        assert self._memory is not None
        return torch.frombuffer(self._memory, dtype=torch.uint8).data_ptr()


def _identity(tensor: Tensor) -> tuple[Any, ...]:
    """The same for tensors that are the same numbers in the same memory."""
    return tensor.device, tensor.data_ptr() or id(tensor), tensor.dtype, tensor.shape, tensor.stride()


def _tensors(state: Any) -> list[Tensor]:
    if isinstance(state, Tensor):
        return [state]
    return [tensor for value in state.values() for tensor in _tensors(value)] if isinstance(state, dict) else []


def _replaced(state: Any, copies: dict[tuple[Any, ...], Tensor]) -> Any:
    if isinstance(state, Tensor):
        return copies[_identity(state)]
    return {key: _replaced(value, copies) for key, value in state.items()} if isinstance(state, dict) else state
