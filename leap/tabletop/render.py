"""Images of scenes: four camera views tiled 2 x 2, once plain and once with every object's number drawn on it.

Views: over the robot's shoulder (top left), from its left (top right), from its right (bottom left), from above
(bottom right). In the first and the last one +x is up (away from the robot) and +y is to the left.
"""

import contextlib
import importlib
import math
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from leap.errors import LeapError
from leap.hardware import usable_cores
from leap.records.files import unfinished
from leap.tabletop.appearance.world import CAMERAS, KEY_LIGHTS, RIG, TABLE, World, body_name, make_world
from leap.tabletop.catalogue import KINDS
from leap.tabletop.labels import draw_labels, place_labels, visible_numbers
from leap.tabletop.scene import Scene
from leap.workers import end_with_parent

_TOP = len(CAMERAS) - 1  # the index of the view from above
_HIDDEN_GROUP = 5  # a geom group that the renderer does not draw
_LIGHT_SPREAD = 3.0  # degrees between neighbouring lights
_LIGHT_DISTANCE = 1.1  # metres from the table's middle to the point under the light
_MOST_GEOMS = 4000
_NO_OFFSCREEN = (
    "MuJoCo cannot render offscreen ({reason}). On a machine without a display it needs EGL: install libegl1 and "
    "libgl1-mesa-dri (Debian, Ubuntu) or libegl and mesalib (conda-forge) and set MUJOCO_GL=egl; "
    "or install libosmesa6 and set MUJOCO_GL=osmesa."
)


@dataclass(frozen=True)
class View:
    """One camera view: its image (RGB) and which object each pixel shows, (h, w) int, 0 where none."""

    name: str
    image: Image.Image
    owners: np.ndarray


def _mujoco() -> ModuleType:
    """MuJoCo with an offscreen backend; it reads MUJOCO_GL when it is first imported."""
    if sys.platform == "linux" and not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")
    # Mesa and Triton (which PyTorch imports) each bring an LLVM; the process crashes where Triton's comes second.
    with contextlib.suppress(ImportError):
        importlib.import_module("triton._C.libtriton")
    try:
        import mujoco
    except ModuleNotFoundError as error:
        raise LeapError(f"rendering the demo needs the package {error.name}: pip install mujoco") from error
    except (ImportError, AttributeError, OSError, RuntimeError) as error:  # PyOpenGL without libEGL: AttributeError
        raise LeapError(_NO_OFFSCREEN.format(reason=error)) from error
    return mujoco


class SceneRenderer:
    """Renders scenes with one model of all kinds: a scene only moves bodies, so that nothing compiles per scene.

    `view_size` is the side of one view in pixels. Use it in a `with` block, or call `close`.
    """

    def __init__(self, view_size: int = 240) -> None:
        self.view_size = view_size
        self._mujoco = _mujoco()
        try:
            self._gl = self._mujoco.GLContext(view_size, view_size)
            self._gl.make_current()
        except (ImportError, AttributeError, OSError, RuntimeError) as error:
            raise LeapError(_NO_OFFSCREEN.format(reason=error)) from error
        self._contexts: dict[bool, Any] = {}  # of colours (False), and of the ids of geoms (True)
        self._load(dict.fromkeys(KINDS, 1))

    def __enter__(self) -> "SceneRenderer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give back the graphics memory; the renderer cannot be used afterwards."""
        if self._contexts:
            self._free_contexts()
            self._gl.free()

    def _free_contexts(self) -> None:
        for context in self._contexts.values():
            context.free()
        self._contexts = {}

    def _load(self, copies: dict[str, int]) -> None:
        """Compile the model with `copies[kind]` objects of each kind and bring it to the graphics memory."""
        mj = self._mujoco
        self._copies = copies
        self._world: World = make_world(copies, self.view_size)
        self._model = mj.MjModel.from_xml_string(self._world.xml, self._world.files)
        self._data = mj.MjData(self._model)
        self._free_contexts()
        samples = int(self._model.vis.quality.offsamples)
        try:
            for segment in (False, True):
                # Colours are antialiased, ids never: some drivers (NVIDIA's through EGL) blend the samples of an edge
                # into the id of a third object, or of none.
                self._model.vis.quality.offsamples = 0 if segment else samples
                self._contexts[segment] = mj.MjrContext(self._model, mj.mjtFontScale.mjFONTSCALE_100)
        except mj.FatalError as error:
            raise LeapError(_NO_OFFSCREEN.format(reason=error)) from error
        self._drawn = mj.MjvScene(self._model, _MOST_GEOMS)
        self._option = mj.MjvOption()
        self._option.geomgroup[_HIDDEN_GROUP] = 0

    def render(self, scene: Scene) -> tuple[Image.Image, Image.Image]:
        """The tiled image and the numbered one, both RGB, 2 * view_size square.

        Raises LeapError where an object is hidden in the view from above.
        """
        views = self.views(scene)
        hidden = {placed.number for placed in scene.objects} - set(visible_numbers(views[_TOP].owners))
        for placed in scene.objects:
            if placed.number in hidden:
                raise LeapError(
                    f"object {placed.number} ({placed.kind}) cannot be seen from above in scene "
                    f"{scene.fingerprint()[:12]}; move it apart from the others"
                )
        numbered = [draw_labels(view.image, view.owners, place_labels(view.owners)) for view in views]
        return self._tiled([view.image for view in views]), self._tiled(numbered)

    def views(self, scene: Scene) -> tuple[View, ...]:
        """The four views in the order of `CAMERAS`."""
        owner_of_geom = self._set_up(scene)
        return tuple(
            View(name, Image.fromarray(self._colours(i)), self._owners(i, owner_of_geom))
            for i, (name, *_) in enumerate(CAMERAS)
        )

    def _tiled(self, images: Sequence[Image.Image]) -> Image.Image:
        out = Image.new("RGB", (2 * self.view_size, 2 * self.view_size))
        for i, image in enumerate(images):
            out.paste(image, (i % 2 * self.view_size, i // 2 * self.view_size))
        return out

    def _set_up(self, scene: Scene) -> np.ndarray:
        """Move the model into the scene's state. Returns the number of each geom's object, (n_geom,), 0 for none."""
        needed = Counter(placed.kind for placed in scene.objects)
        if any(count > self._copies[kind] for kind, count in needed.items()):
            self._load({kind: max(count, needed[kind]) for kind, count in self._copies.items()})
        model, owner_of_body = self._model, self._place_bodies(scene)
        model.geom_group[:] = np.where(owner_of_body[model.geom_bodyid] < 0, _HIDDEN_GROUP, 0)
        model.geom_matid[model.geom(TABLE).id] = model.material(self._world.tables[scene.table]).id
        model.body_quat[model.body(RIG).id] = _turn_about_z(math.radians(scene.camera_turn))
        self._aim_lights(scene)
        self._mujoco.mj_forward(model, self._data)
        return owner_of_body[model.geom_bodyid]

    def _place_bodies(self, scene: Scene) -> np.ndarray:
        """The number of each body's object, (n_body,): 0 for the room, -1 for objects that the scene lacks."""
        model, owner_of_body = self._model, np.zeros(self._model.nbody, int)
        unused = {
            kind: [model.body(body_name(kind, copy)).id for copy in range(count)]
            for kind, count in self._copies.items()
        }
        for placed in scene.objects:
            body = unused[placed.kind].pop()
            model.body_pos[body] = (placed.x, placed.y, 0)
            model.body_quat[body] = _turn_about_z(placed.yaw)
            owner_of_body[body] = placed.number
        owner_of_body[[body for bodies in unused.values() for body in bodies]] = -1
        return owner_of_body

    def _aim_lights(self, scene: Scene) -> None:
        for i, name in enumerate(KEY_LIGHTS):
            azimuth = math.radians(scene.light_azimuth + _LIGHT_SPREAD * (i - (len(KEY_LIGHTS) - 1) / 2))
            east, north = _LIGHT_DISTANCE * math.cos(azimuth), _LIGHT_DISTANCE * math.sin(azimuth)
            place = np.array([east, north, scene.light_height])
            light = self._model.light(name).id
            self._model.light_pos[light] = place
            self._model.light_dir[light] = -place / np.linalg.norm(place)

    def _draw(self, camera: int, segment: bool) -> np.ndarray:
        """One camera's pixels, (h, w, 3) uint8: colours, or the ids of geoms coded in the three bytes."""
        mj = self._mujoco
        view = mj.MjvCamera()
        view.type, view.fixedcamid = mj.mjtCamera.mjCAMERA_FIXED, camera
        mj.mjv_updateScene(self._model, self._data, self._option, None, view, mj.mjtCatBit.mjCAT_ALL, self._drawn)
        for flag in (mj.mjtRndFlag.mjRND_SEGMENT, mj.mjtRndFlag.mjRND_IDCOLOR):
            self._drawn.flags[flag] = segment
        pixels = np.empty((self.view_size, self.view_size, 3), np.uint8)
        area, context = mj.MjrRect(0, 0, self.view_size, self.view_size), self._contexts[segment]
        mj.mjr_setBuffer(mj.mjtFramebuffer.mjFB_OFFSCREEN, context)
        mj.mjr_render(area, self._drawn, context)
        mj.mjr_readPixels(pixels, None, area, context)
        return pixels[::-1]

    def _colours(self, camera: int) -> np.ndarray:
        return np.ascontiguousarray(self._draw(camera, segment=False))

    def _owners(self, camera: int, owner_of_geom: np.ndarray) -> np.ndarray:
        """Which object each pixel shows, (h, w) int, 0 where none."""
        pixels = self._draw(camera, segment=True).astype(int)
        drawn = pixels[..., 0] + (pixels[..., 1] << 8) + (pixels[..., 2] << 16)  # 0 is the background
        owner_of_drawn = np.zeros(self._drawn.ngeom + 1, int)
        for geom in self._drawn.geoms[: self._drawn.ngeom]:
            if geom.objtype == self._mujoco.mjtObj.mjOBJ_GEOM and geom.segid >= 0:
                owner_of_drawn[geom.segid + 1] = owner_of_geom[geom.objid]
        return owner_of_drawn[drawn]


def _turn_about_z(angle: float) -> tuple[float, float, float, float]:
    """The quaternion (w, x, y, z) of a turn by `angle` radians."""
    return math.cos(angle / 2), 0.0, 0.0, math.sin(angle / 2)


@dataclass(frozen=True)
class RenderJob:
    """A scene and the PNG files to make of it."""

    scene: Scene
    image: Path
    numbered: Path


def render_many(jobs: Sequence[RenderJob], view_size: int = 240, workers: int | None = None) -> Iterator[int]:
    """Render the jobs with `workers` processes (default: one for each core); yields a job's index when it is done.

    Each file appears under its name only when it is complete. The folders must exist.
    """
    count = min(workers or usable_cores(), max(1, len(jobs)))
    # Not forked: an OpenGL context does not survive a fork.
    pool = ProcessPoolExecutor(count, get_context("spawn"), end_with_parent)
    try:
        futures = {pool.submit(_render_job, job, view_size): i for i, job in enumerate(jobs)}
        for future in as_completed(futures):
            future.result()
            yield futures[future]
    finally:
        pool.shutdown(cancel_futures=True)


@cache
def renderer_of_process(view_size: int) -> SceneRenderer:
    """A worker's renderer, kept until the process ends."""
    os.environ.setdefault("LP_NUM_THREADS", "1")  # Mesa's software renderer: there is a worker for each core already
    return SceneRenderer(view_size)


def _render_job(job: RenderJob, view_size: int) -> None:
    image, numbered = renderer_of_process(view_size).render(job.scene)
    _write_png(image, job.image)
    _write_png(numbered, job.numbered)


def _write_png(image: Image.Image, path: Path) -> None:
    """Write to a temporary name in the same folder, then rename, so that no half-written image is ever seen."""
    temporary = unfinished(path)
    try:
        with temporary.open("xb") as stream:
            image.save(stream, "PNG", compress_level=1)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
