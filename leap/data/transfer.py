"""Batches on their way from a data loader's worker processes, which needs no shared memory.

PyTorch would put their tensors into /dev/shm, of which a container often has 64 MB (Docker's default). A worker that
finds no room there loses its batch, and the training waits for it for ever. numpy arrays go through a pipe instead.
"""

from typing import Any

import numpy as np
import torch


class Arrays:
    """A batch whose tensors are numpy arrays; whatever else it holds stays."""

    def __init__(self, batch: dict[str, Any]) -> None:
        self._values = {
            name: value.numpy() if isinstance(value, torch.Tensor) else value for name, value in batch.items()
        }

    def tensors(self) -> dict[str, Any]:
        """The batch as it was, without a copy."""
        return {
            name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
            for name, value in self._values.items()
        }

    def pin_memory(self) -> dict[str, Any]:
        """The batch in page-locked memory: a data loader that pins its batches calls this in a thread of its own."""
        return {
            name: value.pin_memory() if isinstance(value, torch.Tensor) else value
            for name, value in self.tensors().items()
        }


def tensors_of(batch: Arrays | dict[str, Any]) -> dict[str, Any]:
    """What a data loader gives, as tensors: it is an `Arrays` still where nothing pinned it."""
    return batch.tensors() if isinstance(batch, Arrays) else batch
