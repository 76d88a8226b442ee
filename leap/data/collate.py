"""Samples to one batch for Qwen3-VL."""

from collections.abc import Sequence
from typing import Any

import torch

from leap.data.chat import IGNORED
from leap.data.training_set import Sample


class Collator:
    """Pads samples on the right to the longest of the batch."""

    def __init__(self, pad_token_id: int, image_token_id: int) -> None:
        self._pad, self._image = pad_token_id, image_token_id

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """input_ids, labels, attention_mask, mm_token_type_ids [batch, tokens]; pixel_values, image_grid_thw; rows."""
        batch: dict[str, Any] = pad_ids([sample.input_ids for sample in samples], self._pad, self._image, left=False)
        width = batch["input_ids"].shape[1]
        batch["labels"] = torch.tensor([s.labels + [IGNORED] * (width - len(s.labels)) for s in samples])
        batch["rows"] = [sample.index for sample in samples]  # for an error that names them; no input of the model
        with_pictures = [sample for sample in samples if sample.pixel_values is not None]
        if with_pictures:
            batch["pixel_values"] = torch.cat([sample.pixel_values for sample in with_pictures])
            batch["image_grid_thw"] = torch.cat([sample.image_grid_thw for sample in with_pictures])
        return batch


def pad_ids(rows: Sequence[list[int]], pad: int, image: int, left: bool) -> dict[str, torch.Tensor]:
    """input_ids, attention_mask and mm_token_type_ids (1 on a picture's tokens) [batch, tokens] of the longest row."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), pad, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(0, len(row))
        ids[index, place] = torch.tensor(row, dtype=torch.long)
        mask[index, place] = 1
    pictures = ((ids == image) & (mask == 1)).to(torch.int32)
    return {"input_ids": ids, "attention_mask": mask, "mm_token_type_ids": pictures}
