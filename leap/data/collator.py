"""Samples to one padded batch: for families without a packed forward (see `leap.data.packing`), and on demand."""

from collections.abc import Sequence
from typing import Any

import torch

from leap.data.chat_encoding import IGNORED
from leap.data.dataset import Sample
from leap.data.image import ImageEncoder


class Collator:
    """Pads samples on the right to the longest of the batch, and scales their images' bytes.

    With `dummy_image`, a batch without images gets a sample more, which has one and no labels: ranks that train
    together must all use the same weights, or one would wait for ever for the others' gradients.
    """

    def __init__(
        self, pad_token_id: int, image_token_id: int, encoder: ImageEncoder, dummy_image: bool = False
    ) -> None:
        self._pad, self._image, self._encoder = pad_token_id, image_token_id, encoder
        self._dummy_image = dummy_image

    def __call__(self, samples: Sequence[Sample], ignore_labels: bool = False) -> dict[str, Any]:
        """input_ids, labels, attention_mask, mm_token_type_ids [batch, tokens]; pixel_values, image_grid_thw.

        `ignore_labels`: all are IGNORED, for a dummy batch in place of an empty one.
        """
        samples = list(samples)
        if self._dummy_image and all(sample.pixel_values is None for sample in samples):
            samples.append(Sample([self._image], [IGNORED], *self._encoder.dummy()))
        batch = pad_ids([sample.input_ids for sample in samples], self._pad, self._image, left=False)
        width = batch["input_ids"].shape[1]
        labels = torch.tensor([s.labels + [IGNORED] * (width - len(s.labels)) for s in samples])
        batch["labels"] = torch.full_like(labels, IGNORED) if ignore_labels else labels
        with_images = [sample for sample in samples if sample.pixel_values is not None]
        if with_images:
            patches = torch.cat([sample.pixel_values for sample in with_images])
            batch["pixel_values"] = self._encoder.scale(patches)
            batch["image_grid_thw"] = torch.cat([sample.image_grid_thw for sample in with_images])
        return batch


def pad_ids(samples: Sequence[list[int]], pad: int, image: int, left: bool) -> dict[str, torch.Tensor]:
    """input_ids, attention_mask and mm_token_type_ids (1 on an image's tokens) [batch, tokens] of the longest."""
    width = max(map(len, samples))
    ids = torch.full((len(samples), width), pad, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for index, sample in enumerate(samples):
        place = slice(width - len(sample), width) if left else slice(0, len(sample))
        ids[index, place] = torch.tensor(sample, dtype=torch.long)
        mask[index, place] = 1
    images = ((ids == image) & (mask == 1)).to(torch.int32)
    return {"input_ids": ids, "attention_mask": mask, "mm_token_type_ids": images}
