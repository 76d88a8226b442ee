"""Rendered scenes as arrays on disk: each is rendered once, and numbered anew whenever it is shown.

A scene's labels lie where `leap.tabletop.labels` puts them whatever the digits are, so the bank keeps an image without
digits and the places of the discs; `leap.tabletop.numbering` draws digits on a whole batch of them. Scene i of a bank
follows from its seed, so that only pixels are stored. Rendering that was interrupted goes on.
"""

import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from leap.errors import LeapError
from leap.records.files import is_file
from leap.records.json_files import read_object, write_json
from leap.tabletop.catalogue import KINDS
from leap.tabletop.labels import draw_lines, place_labels, visible_numbers
from leap.tabletop.perception import perception_scene
from leap.tabletop.render import View, renderer_of_process
from leap.tabletop.scene import Scene
from leap.tabletop.tasks.episode import MAX_OBJECTS
from leap.workers import end_with_parent

VIEW = 240  # pixels of a view as it is rendered
SIDE = 256  # pixels of the image of four views as a model reads it
CELLS = 8  # along a side: a cell is what one token of the model covers
VIEWS = 4
KIND_NAMES = tuple(KINDS)
NOTHING = 255  # the kind of a slot that a scene does not use
_AT_ONCE = 32  # scenes that a worker renders for one task
_MARKER = "bank.json"
_FILES: dict[str, tuple[type, tuple[int, ...]]] = {
    "images": (np.uint8, (SIDE, SIDE, 4)),  # colours, and how much of a pixel a label's white line covers
    "places": (np.int16, (VIEWS, MAX_OBJECTS, 2)),  # column and row of a slot's label in a view, -1 where it has none
    "cells": (np.uint8, (CELLS, CELLS)),  # bit s: the object in slot s can be seen in the cell
    "kinds": (np.uint8, (MAX_OBJECTS,)),  # index into KIND_NAMES of the object in a slot
    "draws": (np.uint8, ()),  # how many scenes were drawn until one could be rendered; 0: not rendered yet
}
_SEEN = 36  # pixels of a cell (of 3600) from which an object counts as seen there


@dataclass(frozen=True)
class SceneBank:
    """The scenes in a folder that have been rendered. Slots are places in `Scene.objects`."""

    folder: Path
    seed: str

    def array(self, name: str) -> NDArray:
        """One of `_FILES`, mapped into memory: [scenes that were asked for, ...]."""
        found: NDArray = np.load(self.folder / f"{name}.npy", mmap_mode="c")  # PyTorch warns of what cannot be written
        return found

    @cached_property
    def draws(self) -> NDArray[np.uint8]:
        return np.array(self.array("draws"))

    @cached_property
    def indices(self) -> NDArray[np.int64]:
        """Of the scenes that are there."""
        return np.flatnonzero(self.draws)

    @property
    def count(self) -> int:
        return len(self.indices)

    def scene(self, index: int) -> Scene:
        """The scene, drawn again; every object's number is its slot + 1."""
        return _draw(self.seed, index, int(self.draws[index]))


def make_bank(folder: Path, count: int, seed: str, workers: int) -> Iterator[int]:
    """Render what is missing of `count` scenes; yields how many scenes a finished task had.

    Raises LeapError where the folder holds another bank.
    """
    identity = {"count": count, "seed": seed}
    if is_file(folder / _MARKER) and read_object(folder / _MARKER) != identity:
        raise LeapError(f"{folder}: other scenes than {identity} lie there; remove it or give another folder")
    if not is_file(folder / _MARKER):
        folder.mkdir(parents=True, exist_ok=True)
        for name, (dtype, shape) in _FILES.items():
            np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, (count, *shape))
        write_json(folder / _MARKER, identity)
    missing = np.flatnonzero(np.load(folder / "draws.npy") == 0).tolist()
    tasks = [missing[start : start + _AT_ONCE] for start in range(0, len(missing), _AT_ONCE)]
    if not tasks:
        return
    # Not forked: an OpenGL context does not survive a fork.
    pool = ProcessPoolExecutor(min(workers, len(tasks)), get_context("spawn"), end_with_parent)
    try:
        for future in as_completed([pool.submit(_render, folder, seed, task) for task in tasks]):
            yield future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # drivers take seconds to end a context, one after the other


def _draw(seed: str, index: int, draws: int) -> Scene:
    """The scene of an index after so many draws, numbered by slot."""
    rng = random.Random(f"{seed}/{index}")
    for _ in range(draws - 1):
        perception_scene(rng)
    scene = perception_scene(rng)
    fields = scene.to_dict()
    fields["objects"] = [{**each, "number": slot + 1} for slot, each in enumerate(fields["objects"])]
    return Scene.from_dict(fields)


def _render(folder: Path, seed: str, indices: Sequence[int]) -> int:
    """A worker's task: render these scenes into the files. A scene that hides an object from above is drawn anew."""
    files = {name: np.load(folder / f"{name}.npy", mmap_mode="r+") for name in _FILES}
    renderer = renderer_of_process(VIEW)
    for index in indices:
        draws = 1
        while True:
            scene = _draw(seed, index, draws)
            views = renderer.views(scene)
            if len(visible_numbers(views[-1].owners)) == len(scene.objects):
                break
            draws += 1
        places = [place_labels(view.owners) for view in views]
        files["images"][index] = _image(views, places)
        files["places"][index] = _places(places)
        files["cells"][index] = _cells(views)
        files["kinds"][index] = [
            KIND_NAMES.index(scene.objects[slot].kind) if slot < len(scene.objects) else NOTHING
            for slot in range(MAX_OBJECTS)
        ]
        files["draws"][index] = draws
    return len(indices)


def _image(views: Sequence[View], places: Sequence[dict[int, tuple[int, int]]]) -> NDArray[np.uint8]:
    """[SIDE, SIDE, 4]: the four views, and the lines from labels to their objects as coverage."""
    colours = Image.new("RGB", (2 * VIEW, 2 * VIEW))
    lines = Image.new("L", (2 * VIEW, 2 * VIEW))
    for index, (view, found) in enumerate(zip(views, places, strict=True)):
        corner = (index % 2 * VIEW, index // 2 * VIEW)
        colours.paste(view.image, corner)
        line = Image.new("L", (VIEW, VIEW))
        draw_lines(line, view.owners, found)
        lines.paste(line, corner)
    small = [image.resize((SIDE, SIDE), Image.Resampling.BICUBIC) for image in (colours, lines)]
    return np.dstack([np.asarray(image) for image in small])


def _places(places: Sequence[dict[int, tuple[int, int]]]) -> NDArray[np.int16]:
    out = np.full((VIEWS, MAX_OBJECTS, 2), -1, np.int16)
    for view, found in enumerate(places):
        for number, place in found.items():
            out[view, number - 1] = place
    return out


def _cells(views: Sequence[View]) -> NDArray[np.uint8]:
    """Which slots each cell shows: a view has CELLS / 2 of them along a side."""
    side = CELLS // 2
    out = np.zeros((CELLS, CELLS), np.uint8)
    for index, view in enumerate(views):
        blocks = view.owners.reshape(side, VIEW // side, side, VIEW // side)
        top, left = index // 2 * side, index % 2 * side
        for number in range(1, MAX_OBJECTS + 1):
            seen = (blocks == number).sum((1, 3)) >= _SEEN
            out[top : top + side, left : left + side] |= seen.astype(np.uint8) << (number - 1)
    return out


def read_bank(folder: Path) -> SceneBank:
    """What `make_bank` has rendered there. Raises LeapError where that is nothing."""
    marker = read_object(folder / _MARKER)
    bank = SceneBank(folder, str(marker["seed"]))
    if not bank.count:
        raise LeapError(f"{folder}: no scene has been rendered yet")
    return bank
