"""Digits drawn on a batch of a bank's images, on whatever device they are: no rendering, no file, no PIL.

Where an image is drawn at 480 pixels and read at 256, a disc looks a little different at every place of 15 x 15: a
table holds them all, made by the very functions that draw the numbered images of the benchmark.
"""

from fractions import Fraction
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from leap.tabletop.labels import LABEL_SHARE, disc
from leap.tabletop.scene_bank import SIDE, VIEW, SceneBank
from leap.tabletop.tasks.episode import MAX_OBJECTS

_RATIO = Fraction(2 * VIEW, SIDE)
_PERIOD, _STEP = _RATIO.numerator, _RATIO.denominator  # drawn and read pixels after which discs look the same again
_DIAMETER = round(LABEL_SHARE * VIEW)
_REACH = 4  # drawn pixels around a disc that bicubic reduction mixes with it
_TILES = -(-(2 * _PERIOD + _DIAMETER + _REACH) // _PERIOD)
_PATCH = _TILES * _STEP  # read pixels of a disc in the table
GREY_IMAGE = -1  # in the place of a scene's index
_GREY = 128


class NumberedImages:
    """A bank's images on a device, shown with any numbers."""

    def __init__(self, bank: SceneBank, device: torch.device) -> None:
        names = ("images", "places", "cells", "kinds")
        self.images, self.places, self.cells, self.kinds = (
            torch.from_numpy(bank.array(name)).to(device) for name in names
        )
        self._discs = _disc_table().to(device)

    def draw(self, scenes: Tensor, numbers: Tensor) -> Tensor:
        """The images of `scenes` [n], GREY_IMAGE among them, as uint8 [n, SIDE, SIDE, 3].

        `numbers` [n, MAX_OBJECTS] is what each slot's disc says; 0 draws none, and where a scene has no number at all
        its lines are left out too: the plain image.
        """
        found = self.images[scenes.clamp(min=0)]
        lines = found[..., 3:].float() / 255 * numbers.any(1)[:, None, None, None]
        image = found[..., :3].float() * (1 - lines) + 255 * lines
        drawn = self._discs_on_canvas(scenes.clamp(min=0), numbers)
        image = image * (1 - drawn[..., 3:]) + drawn[..., :3]
        image[scenes == GREY_IMAGE] = _GREY
        return image.round().clamp(0, 255).to(torch.uint8)

    def _discs_on_canvas(self, scenes: Tensor, numbers: Tensor) -> Tensor:
        """[n, SIDE, SIDE, 4] float32: colours times coverage, and coverage, of all discs."""
        image, _, slot, left, top = self._corners(scenes, numbers)
        margin = _PATCH
        wide = SIDE + 2 * margin
        canvas = torch.zeros(len(scenes) * wide * wide, 4, device=scenes.device)
        column, row = left // _PERIOD * _STEP - _STEP + margin, top // _PERIOD * _STEP - _STEP + margin
        patch = self._discs[numbers[image, slot].long() - 1, top % _PERIOD, left % _PERIOD]  # [discs, h, w, 4]
        inside = torch.arange(_PATCH, device=scenes.device)
        index = ((image * wide + row)[:, None] + inside)[:, :, None] * wide + (column[:, None] + inside)[:, None]
        canvas.index_add_(0, index.flatten(), patch.flatten(0, 2).float())
        whole = canvas.view(len(scenes), wide, wide, 4)
        return whole[:, margin : margin + SIDE, margin : margin + SIDE].clamp(max=255)

    def _corners(self, scenes: Tensor, numbers: Tensor) -> tuple[Tensor, ...]:
        """Every disc that is drawn: its image in the batch, view, slot, and its left and top in drawn pixels."""
        places = self.places[scenes].long()  # [n, views, slots, 2]
        shown = (places[..., 0] >= 0) & (numbers > 0)[:, None]
        image, view, slot = shown.nonzero(as_tuple=True)
        column, row = places[image, view, slot].unbind(1)
        return image, view, slot, column + view % 2 * VIEW - _DIAMETER // 2, row + view // 2 * VIEW - _DIAMETER // 2

    def discs(self, scenes: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(image, slot, column, row) of every disc's middle, in read pixels of the whole image."""
        image, _, slot, left, top = self._corners(scenes.clamp(min=0), numbers)
        half = _DIAMETER / 2
        return image, slot, (left + half) / float(_RATIO), (top + half) / float(_RATIO)


def patches(images: Tensor, patch: int, merge: int) -> Tensor:
    """uint8 [n, side, side, 3] as the image encoder cuts them: [n * patches, 3, patch * patch], a token's together."""
    count, side = len(images), images.shape[1] // (patch * merge)
    cut = images.view(count, side, merge, patch, side, merge, patch, 3)
    return cut.permute(0, 1, 4, 2, 5, 7, 3, 6).reshape(-1, 3, patch * patch)


def _disc_table() -> Tensor:
    """Discs by number and place, for `_discs_on_canvas`: float16 [numbers, period, period, _PATCH, _PATCH, 4]."""
    table = np.zeros((MAX_OBJECTS, _PERIOD, _PERIOD, _PATCH, _PATCH, 4), np.float16)
    for number in range(MAX_OBJECTS):
        pixels = np.asarray(disc(number + 1, _DIAMETER), np.float32)
        cover = pixels[..., 3:] / 255
        layers = np.concatenate([pixels[..., :3] * cover, cover], axis=2)
        for row in range(_PERIOD):
            for column in range(_PERIOD):
                canvas = np.zeros((_TILES * _PERIOD, _TILES * _PERIOD, 4), np.float32)
                canvas[_PERIOD + row :, _PERIOD + column :][:_DIAMETER, :_DIAMETER] = layers
                table[number, row, column] = np.dstack([_reduced(canvas[..., layer]) for layer in range(4)])
    return torch.from_numpy(table)


def _reduced(layer: Any) -> Any:
    return np.asarray(Image.fromarray(layer).resize((_PATCH, _PATCH), Image.Resampling.BICUBIC))
