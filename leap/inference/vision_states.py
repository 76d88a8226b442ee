"""The vision tower on a CPU: a few images at once, each of them once, and once for all models that have the same tower.

Checkpoints of a run that leaves the tower as it is (`freeze_vision`, adapters of the LLM) differ behind it. Kept of an
image is what the mergers read, since such a run may train them.
"""

import hashlib
from collections.abc import Iterator, Sequence
from types import MethodType
from typing import Any

import torch

_PATCHES = 2048  # at once: the states of more do not stay in a core's cache from one operation to the next
_States = list[torch.Tensor]  # one image's, as each of the mergers reads them: [patches, width]


class VisionStates:
    """Takes the place of a Qwen3-VL tower's forward. Up to `room` bytes of states stay for other models."""

    def __init__(self, tower: Any, room: int) -> None:
        mergers = [*tower.deepstack_merger_list, tower.merger]
        self._tower, self._room = tower, room
        self._blocks, *self._mergers = (_own_forward(module) for module in (tower, *mergers))
        for merger in mergers:
            merger.forward = _as_they_are
        tower.forward = self._see
        self.forget()

    def forget(self) -> None:
        self._kept: dict[bytes, _States] = {}
        self._free, self._weights = self._room, self._digest()

    def load(self) -> None:
        """To be called where weights may have changed."""
        if self._weights != self._digest():
            self.forget()

    def _digest(self) -> bytes:
        """Of the weights that states come from."""
        digest = hashlib.sha256()
        if self._room:
            for name, tensor in self._tower.state_dict().items():
                if not name.startswith(("merger.", "deepstack_merger_list.")):
                    digest.update(_bytes(tensor))
        return digest.digest()

    def _see(self, hidden_states: torch.Tensor, grid_thw: torch.Tensor, **options: Any) -> Any:
        """The library's forward. hidden_states [patches, values], those of one image after the other's."""
        from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

        lengths = grid_thw.prod(-1).tolist()
        images = hidden_states.split(lengths)
        names = [_name(*shown) for shown in zip(images, grid_thw, strict=True)]
        first = {name: index for index, name in reversed(list(enumerate(names)))}
        found = {name: self._kept[name] for name in first if name in self._kept}
        for part in _parts([index for name, index in first.items() if name not in found], lengths):
            pixels = torch.cat([images[index] for index in part])
            output = self._blocks(pixels, grid_thw=grid_thw[part], **options)
            levels = [*output.deepstack_features, output.pooler_output]
            split = zip(*(level.split([lengths[index] for index in part]) for level in levels), strict=True)
            for index, states in zip(part, split, strict=True):
                found[names[index]] = self._keep(names[index], states)
        read = zip(*(found[name] for name in names), strict=True)
        merged = [merge(torch.cat(level)) for merge, level in zip(self._mergers, read, strict=True)]
        return BaseModelOutputWithDeepstackFeatures(pooler_output=merged.pop(), deepstack_features=merged)

    def _keep(self, name: bytes, states: Sequence[torch.Tensor]) -> _States:
        size = sum(state.nbytes for state in states)
        if size > self._free:
            return list(states)
        self._free -= size
        self._kept[name] = [state.clone() for state in states]  # not a view, which would hold all of its part
        return self._kept[name]


def _own_forward(module: Any) -> Any:
    """Its class's, whether or not an engine before this one has replaced it."""
    return MethodType(type(module).forward, module)


def _as_they_are(states: torch.Tensor) -> torch.Tensor:
    return states


def _name(pixels: torch.Tensor, grid: torch.Tensor) -> bytes:
    """The same for the same image at the same size."""
    digest = hashlib.sha256(repr(grid.tolist()).encode())
    digest.update(_bytes(pixels))
    return digest.digest()


def _bytes(tensor: torch.Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _parts(indices: Sequence[int], lengths: Sequence[int]) -> Iterator[list[int]]:
    """In turn, as many images as are worth seeing at once; one that is larger by itself."""
    part: list[int] = []
    for index in indices:
        if part and sum(lengths[other] for other in part) + lengths[index] > _PATCHES:
            yield part
            part = []
        part.append(index)
    if part:
        yield part
