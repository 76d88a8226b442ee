"""The MJCF model of the demo's room: every object that scenes may show, a table, a robot, lights and four cameras."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from leap.tabletop.appearance import LOOKS, textures
from leap.tabletop.appearance.look import Assets, Look, Paint
from leap.tabletop.appearance.room import FLOOR, TABLE_PAINTS, TABLE_TOP, furniture, robot
from leap.tabletop.scene import SHOULDER_CAMERA

# Name, place and the point it looks at (metres), vertical field of view (degrees); in the order of the four views.
CAMERAS = (
    ("shoulder", *SHOULDER_CAMERA, 38.0),
    ("left", (0.08, 1.20, 0.95), (-0.05, 0.04, 0.05), 35.5),
    ("right", (0.08, -1.20, 0.95), (-0.05, -0.04, 0.05), 35.5),
    ("top", (-0.03, 0.0, 3.2), (-0.03, 0.0, 0.0), 17.2),
)
RIG, TABLE = "rig", "table"  # the body that carries the cameras, and the table top's geom
KEY_LIGHTS = ("key/0", "key/1")  # side by side: where their shadows overlap in part, edges look soft
# Not quite opaque: MuJoCo leaves such shapes out of shadow maps, where a floor wider than the map makes noise.
_FLOOR = Paint("#fffffff8", gloss=0.05, image=textures.wood("#b9b1a6", "#a59c90", 83, planks=8, size=512))


_SHADOW_SIZE = 512  # side of a shadow map for views of 240 pixels


@dataclass(frozen=True)
class World:
    """A model as MJCF, its texture files, and the material of each table by name."""

    xml: str
    files: dict[str, bytes]
    tables: dict[str, str]


def body_name(kind: str, copy: int) -> str:
    """The name of the body of the `copy`-th object (from 0) of a kind."""
    return f"{kind}/{copy}"


def make_world(copies: Mapping[str, int], view_size: int) -> World:
    """The room with `copies[kind]` bodies of each kind, all of them at the origin, for views of that many pixels."""
    assets = Assets()
    bodies = []
    for kind, count in copies.items():
        look = Look(assets)
        LOOKS[kind](look)
        bodies += [look.body(body_name(kind, copy)) for copy in range(count)]
    surroundings = Look(assets)
    furniture(surroundings)
    robot(surroundings)
    tables = {name: assets.material(paint) for name, paint in TABLE_PAINTS.items()}
    floor = assets.material(_FLOOR, repeats=5)
    top = f'type="box" size="{_join(TABLE_TOP)}" pos="0 0 {-TABLE_TOP[2]}" material="{tables["oak"]}"'
    shadow_size = _SHADOW_SIZE * max(1, round(view_size / 240))
    xml = f"""<mujoco>
      <compiler angle="degree" eulerseq="XYZ"/>
      <visual>
        <global offwidth="{view_size}" offheight="{view_size}"/>
        <quality shadowsize="{shadow_size}" offsamples="4" numslices="18" numstacks="10"/>
        <headlight ambient=".49 .49 .50" diffuse=".14 .14 .14" specular=".05 .05 .05"/>
        <map znear=".05" zfar="12" shadowclip="0.9"/>
      </visual>
      <statistic extent="1" center="0 0 0"/>
      <default><geom contype="0" conaffinity="0" mass="0"/></default>
      <asset>{_ordered(assets)}</asset>
      <worldbody>
        {"".join(_light(name, 0.42 / len(KEY_LIGHTS)) for name in KEY_LIGHTS)}
        <body name="{RIG}">{"".join(_camera(*camera) for camera in CAMERAS)}</body>
        <geom name="{TABLE}" {top}/>
        <geom type="plane" size="9 9 .1" pos="0 0 {FLOOR}" material="{floor}"/>
        {surroundings.body("surroundings")}{"".join(bodies)}
      </worldbody>
    </mujoco>"""
    return World(xml, assets.files, tables)


def _join(numbers: Sequence[float] | np.ndarray) -> str:
    return " ".join(f"{x:.5g}" for x in numbers)


def _ordered(assets: Assets) -> str:
    """The assets' elements, textures before the materials that use them."""
    return "".join(sorted(assets.tags.values(), key=lambda tag: tag.startswith("<material")))


def _light(name: str, strength: float) -> str:
    colour = _join((strength * 1.03, strength, 0.95 * strength))
    return (
        f'<light name="{name}" type="directional" castshadow="true" pos="0 0 2" dir="0 0 -1" ambient="0 0 0" '
        f'diffuse="{colour}" specular="{_join((0.55 * strength,) * 3)}"/>'
    )


def _camera(name: str, place: Sequence[float], target: Sequence[float], fovy: float) -> str:
    """A camera that looks from `place` at `target`; the one above has the robot's far side (+x) up."""
    ahead = np.subtract(target, place)
    right = np.cross(ahead, (0, 0, 1)) if ahead[:2].any() else np.array([0.0, -1.0, 0.0])
    up = np.cross(right, ahead)
    axes = _join((*(right / np.linalg.norm(right)), *(up / np.linalg.norm(up))))
    return f'<camera name="{name}" pos="{_join(place)}" xyaxes="{axes}" fovy="{fovy}"/>'
