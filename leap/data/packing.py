"""Samples to one micro-batch for Qwen3-VL: a single row without padding, with all that the model needs computed on the
host.

Positions, the vision tower's interpolation and where segments end are worked out here, in the data loader's workers,
so that no step of training waits for the GPU to say them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from leap.data.chat_encoding import IGNORED
from leap.data.dataset import Sample


@dataclass(frozen=True)
class PackedLayout:
    """What a micro-batch must know of its model, and of the run: no sample has more tokens, no image more patches."""

    merge: int  # patches along the side of an image's token
    grid_side: int  # of the vision tower's table of positions
    patch_shape: tuple[int, int]  # channels and pixels of a patch
    image_token_id: int
    longest_sample: int
    largest_image: int
    equal_images: int  # the patches of every image of the run; 0 where they differ
    dummy_image: bool  # whether a micro-batch without images is given a black one, see `PackedCollator._images`

    @classmethod
    def of(cls, config: Any, samples: Any, world_size: int) -> "PackedLayout":
        """From a Qwen3-VL configuration, the run's samples (see `CheckedFile`) and how many ranks train together."""
        vision = config.vision_config
        sizes = set((samples.patches[samples.images > 0] / samples.images[samples.images > 0]).tolist())
        return cls(
            merge=vision.spatial_merge_size,
            grid_side=int(vision.num_position_embeddings**0.5),
            patch_shape=(vision.in_channels, vision.patch_size**2),
            image_token_id=config.image_token_id,
            longest_sample=int(samples.tokens.max()),
            # Of the samples, not of the bound that images are shrunk to: the processor rounds a small image's sides,
            # and the least number of tokens, upwards. A segment longer than the kernel is given is computed in part
            # only.
            largest_image=int(samples.largest_image.max()),
            equal_images=int(sizes.pop()) if len(sizes) == 1 and (samples.images <= 1).all() else 0,
            dummy_image=world_size > 1 and bool(samples.images.any()),
        )


class PackedCollator:
    """Samples one after the other: every tensor's first dimension counts tokens, patches, labels or segments."""

    def __init__(self, layout: PackedLayout) -> None:
        self._layout = layout

    def __call__(self, samples: Sequence[Sample], ignore_labels: bool = False) -> dict[str, Any]:
        """input_ids [tokens], position_ids [3, tokens], label_index and targets [labels], ends [samples + 1], and the
        images' patches (uint8), interpolation, positions and ends. `ignore_labels`: there are none, for a dummy
        micro-batch in place of an empty one.
        """
        lengths = [len(sample.input_ids) for sample in samples]
        ids = torch.tensor([token for sample in samples for token in sample.input_ids])
        labels = torch.tensor([label for sample in samples for label in sample.labels])
        grids = [sample.image_grid_thw for sample in samples]
        positions = [self._positions(s.input_ids, g) for s, g in zip(samples, grids, strict=True)]
        if ignore_labels:
            labels.fill_(IGNORED)
        # Position t predicts token t + 1; a sample's first token is never a label, so none is asked of its neighbour.
        label_index = (labels[1:] != IGNORED).nonzero().squeeze(1)
        return {
            "input_ids": ids,
            "position_ids": torch.cat(positions, dim=1),
            "label_index": label_index,
            "targets": labels[label_index + 1],
            "ends": _ends(lengths),
            "lengths": tuple(lengths),
            "longest": self._layout.longest_sample,
            **self._images(ids, samples),
        }

    def _positions(self, ids: Sequence[int], grids: Tensor | None) -> Tensor:
        """mRoPE positions [3, tokens] (time, height, width) of one sample, which starts at 0."""
        merge, parts, position, token = self._layout.merge, [], 0, 0
        for frames, height, width in [] if grids is None else grids.tolist():
            start = ids.index(self._layout.image_token_id, token)
            parts.append(torch.arange(position, position + start - token).expand(3, -1))
            position += start - token
            rows, columns = height // merge, width // merge
            place = torch.cartesian_prod(torch.arange(frames), torch.arange(rows), torch.arange(columns))
            parts.append(place.view(-1, 3).T + position)
            position += max(rows, columns)
            token = start + frames * rows * columns
        parts.append(torch.arange(position, position + len(ids) - token).expand(3, -1))
        return torch.cat(parts, dim=1)

    def _images(self, ids: Tensor, samples: Sequence[Sample]) -> dict[str, Any]:
        from transformers.vision_utils import get_vision_interpolation_indices_and_weights, get_vision_position_ids

        layout, shown = self._layout, [sample for sample in samples if sample.pixel_values is not None]
        if not shown and not layout.dummy_image:
            return {"pixels": None}
        if shown:
            pixels = torch.cat([sample.pixel_values for sample in shown])
            grid = torch.cat([sample.image_grid_thw for sample in shown])
        else:  # all ranks must use the same weights: the vision tower sees a black image that goes nowhere
            pixels = torch.zeros(layout.merge**2, *layout.patch_shape, dtype=torch.uint8)
            grid = torch.tensor([[1, layout.merge, layout.merge]])
        index, weight = get_vision_interpolation_indices_and_weights(
            grid, layout.grid_side, align_corners=True, spatial_merge_size=layout.merge
        )
        sizes = torch.repeat_interleave(grid[:, 1] * grid[:, 2], grid[:, 0]).tolist()
        return {
            "pixels": pixels,
            "pixels_index": (ids == layout.image_token_id).nonzero().squeeze(1),
            "interpolation_index": index,
            "interpolation_weight": weight,
            "patch_positions": get_vision_position_ids(grid, layout.merge),
            "image_ends": _ends(sizes),
            "image_lengths": tuple(sizes),
            "largest_image": layout.largest_image,
            "equal_images": layout.equal_images if shown else 0,
        }


def _ends(lengths: Sequence[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
