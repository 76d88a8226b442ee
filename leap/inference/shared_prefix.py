"""The opening that requests share, which a model reads once: its instructions stand before the images of every example.

A batch whose prompts begin alike gets a cache that holds the beginning's keys and values already, so that the model
reads what is each one's own and no more.
"""

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

import torch
from transformers import Cache, DynamicCache

_WORTH = 32  # tokens: reading fewer saves less than their copies cost


class SharedPrefix:
    """Of one model: the last opening that it has read. It is text alone, so the first `image` token ends it."""

    def __init__(self, model: Any, device: str, image: int) -> None:
        self._model, self._device, self._image = model, device, image
        self._ids: list[int] = []
        self._states: list[tuple[torch.Tensor, torch.Tensor]] = []  # of each layer [1, key heads, tokens, width]

    def find(self, prompts: Sequence[list[int]]) -> int:
        """How many tokens these prompts share from their first on, and read them where that is not done; 0 where it
        saves nothing. Each prompt keeps a token of its own, which the model goes on from.
        """
        known = len(self._ids)
        if known and all(len(ids) > known and ids[:known] == self._ids for ids in prompts):
            return known
        alike = _alike(prompts, self._image) if len(prompts) > 1 else 0
        if alike < _WORTH:
            return 0
        self._read(prompts[0][:alike])
        return alike

    def fill(self, cache: Cache, rows: int) -> None:
        """Put the opening into every row of an empty cache."""
        for layer, states in enumerate(self._states):
            cache.update(*(state.expand(rows, -1, -1, -1) for state in states), layer)

    def forget(self) -> None:
        self._ids, self._states = [], []

    def _read(self, ids: list[int]) -> None:
        cache = DynamicCache(config=self._model.config.get_text_config(decoder=True))
        tokens = torch.tensor([ids], device=self._device)
        self._model(input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
        self._ids, self._states = ids, [(layer.keys, layer.values) for layer in cache.layers]


def _alike(prompts: Sequence[list[int]], image: int) -> int:
    columns = zip(*(ids[:-1] for ids in prompts), strict=False)
    return sum(1 for _ in takewhile(lambda tokens: len({*tokens}) == 1 and tokens[0] != image, columns))
