"""A Qwen3-VL that is shown a bank's scenes: the packed forward behind it, and the head that learns what it looks at."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from leap.data.image import ImageEncoder
from leap.models.qwen3_vl import packed_forward
from leap.tabletop.numbering import NumberedImages, patches
from leap.tabletop.scene_bank import CELLS, KIND_NAMES, SIDE
from leap.tabletop.tasks.episode import MAX_OBJECTS
from leap.tabletop.tiny_model import MERGE, PATCH
from leap.training.loop import cross_entropy

HEAD_FILE = "scene_head.safetensors"
_SCENE_WEIGHT, _POSITIVE_WEIGHT, _PAIR_WEIGHT, _SPOT_WEIGHT = 5.0, 4.0, 1.0, 2.0
_REACH = 0.3  # metres: about how far from the table's middle things stand
_KINDS = len(KIND_NAMES)


class SceneHead(nn.Linear):
    """Merged vision tokens [..., width] to what each cell shows.

    Logits of the kinds and numbers in it, of the kind that each number names, and where on the table that stands. It
    has no part in a saved model: `state_dict` leaves it out, and a callback keeps it.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width, _KINDS + MAX_OBJECTS + MAX_OBJECTS * _KINDS + MAX_OBJECTS * 2)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        """Nothing."""

    def _load_from_state_dict(self, *_: Any) -> None:
        """Nothing."""

    def loss(self, features: Tensor, images: NumberedImages, scenes: Tensor, numbers: Tensor, spots: Tensor) -> Tensor:
        """The mean loss of features [n * cells, width] of n images.

        Binary ones for the kinds and numbers that a cell shows, and two for each number: its kind (in a cell with two
        objects nothing else says which number is whose), and `spots` [n, slots, 2], its place in metres.
        """
        logits = self(features).view(len(scenes), CELLS * CELLS, -1).float()
        shows, says, pairs, places = logits.split([_KINDS, MAX_OBJECTS, MAX_OBJECTS * _KINDS, MAX_OBJECTS * 2], dim=2)
        kinds = images.kinds[scenes].long()  # [n, slots]
        target_shows, target_says = shown_kinds(images, scenes), torch.zeros_like(says)
        image, slot, column, row = images.discs(scenes, numbers)
        cell = _cell(column, row)
        number = numbers[image, slot].long() - 1
        # A disc that reaches well into a neighbouring cell is in that one too.
        for aside, below in ((-4, -4), (-4, 4), (4, -4), (4, 4)):
            target_says[image, _cell(column + aside, row + below), number] = 1
        positive = torch.tensor(_POSITIVE_WEIGHT, device=logits.device)
        binary = functional.binary_cross_entropy_with_logits
        present = binary(shows, target_shows, pos_weight=positive) + binary(says, target_says, pos_weight=positive)
        named = pairs.unflatten(2, (MAX_OBJECTS, _KINDS))[image, cell, number]
        pair_loss = functional.cross_entropy(named, kinds[image, slot], reduction="sum") / max(len(image), 1)
        at = places.unflatten(2, (MAX_OBJECTS, 2))[image, cell, number]
        gaps = functional.smooth_l1_loss(at, spots[image, slot] / _REACH, beta=0.1, reduction="sum")
        spot_loss = gaps / max(len(image), 1)
        return _SCENE_WEIGHT * present + _PAIR_WEIGHT * pair_loss + _SPOT_WEIGHT * spot_loss


def shown_kinds(images: NumberedImages, scenes: Tensor) -> Tensor:
    """[n, cells, kinds] float32: 1 where a cell shows an object of a kind."""
    masks, kinds = images.cells[scenes].flatten(1).long(), images.kinds[scenes].long()
    out = torch.zeros(len(scenes), CELLS * CELLS, _KINDS + 1, device=masks.device)  # the last: unused slots
    for slot in range(MAX_OBJECTS):
        seen = (masks >> slot & 1).float()[:, :, None]
        index = kinds[:, slot].clamp(max=_KINDS)[:, None, None].expand(-1, CELLS * CELLS, 1)
        out.scatter_(2, index, torch.maximum(out.gather(2, index), seen))
    return out[..., :_KINDS]


def _cell(column: Tensor, row: Tensor) -> Tensor:
    """Of a place in the image, in pixels."""
    size = SIDE // CELLS
    return (row // size).clamp(0, CELLS - 1).long() * CELLS + (column // size).clamp(0, CELLS - 1).long()


class Sight:
    """The packed forward of a model that is shown a bank's scenes.

    `install` replaces the model's forward, which then takes a batch of `perception_batches`.
    """

    def __init__(self, model: Any, encoder: ImageEncoder, images: NumberedImages, compiled: bool) -> None:
        packed_forward.install(model, encoder, compiled, cross_entropy)
        self._model, self._packed, self.images = model, model.forward, images
        self._features: Tensor | None = None
        side = CELLS * MERGE
        self.device = device = model.device
        from transformers.vision_utils import get_vision_interpolation_indices_and_weights, get_vision_position_ids

        grid = torch.tensor([[1, side, side]])
        index, weight = get_vision_interpolation_indices_and_weights(
            grid, int(model.config.vision_config.num_position_embeddings**0.5), align_corners=True,
            spatial_merge_size=MERGE,
        )  # fmt: skip
        self._index, self._weight = index.to(device), weight.to(device)
        self._positions = get_vision_position_ids(grid, MERGE).to(device)
        self.sums = torch.zeros(2, device=device)  # of the responses' and the head's mean losses
        self.steps = 0

    def install(self) -> None:
        model = self._model
        model.scene_head = SceneHead(model.config.vision_config.out_hidden_size).to(model.device)
        model.model.visual.merger.register_forward_hook(self._keep)
        sight = self

        def forward(self: Any, *, scenes: Tensor, numbers: Tensor, spots: Tensor, **micro_batch: Any) -> Tensor:
            loss = sight.packed(scenes, numbers, micro_batch)
            labels = len(micro_batch["targets"])
            assert sight._features is not None
            shown = self.scene_head.loss(sight._features, sight.images, scenes, numbers, spots)
            sight.sums += torch.stack([loss.detach() / labels, shown.detach()])
            sight.steps += 1
            return loss + labels * shown

        model.forward = MethodType(forward, model)

    def packed(self, scenes: Tensor, numbers: Tensor, micro_batch: dict[str, Any]) -> Tensor:
        """What the packed forward gives: the summed loss, or in `asked_for_right` what the responses got right."""
        with torch.no_grad():
            pixels = patches(self.images.draw(scenes, numbers), PATCH, MERGE)
        count, size = len(scenes), len(self._index)
        found: Tensor = self._packed(
            pixels=pixels,
            interpolation_index=self._index.repeat(count, 1),
            interpolation_weight=self._weight.repeat(count, 1),
            patch_positions=self._positions.repeat(count, 1),
            image_ends=torch.arange(count + 1, device=pixels.device, dtype=torch.int32) * size,
            image_lengths=(size,) * count,
            largest_image=size,
            equal_images=size,
            **micro_batch,
        )
        return found

    def _keep(self, _module: Any, _inputs: Any, features: Tensor) -> None:
        self._features = features

    @contextmanager
    def asked_for_right(self) -> Iterator[None]:
        """`packed` then gives, for each label token, whether it is the model's choice."""

        def right(head: Any, hidden: Tensor, targets: Tensor) -> Tensor:
            return head(hidden).argmax(-1) == targets

        before, self._model.leap_loss = self._model.leap_loss, right
        try:
            yield
        finally:
            self._model.leap_loss = before


def save_head(model: Any, folder: Path) -> None:
    save_file({name: value.detach().cpu() for name, value in model.scene_head.named_parameters()}, folder / HEAD_FILE)


def load_head(model: Any, folder: Path) -> None:
    """Raises OSError where it is missing."""
    saved = load_file(folder / HEAD_FILE)
    with torch.no_grad():
        for name, parameter in model.scene_head.named_parameters():
            parameter.copy_(saved[name])
