"""A builder for MJCF: shapes with paints, and the meshes, textures and materials that they share."""

import hashlib
import io
from dataclasses import dataclass, field
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from leap.tabletop.appearance.meshes import Mesh

Point = ArrayLike  # three numbers
_ORIGIN = (0.0, 0.0, 0.0)


@dataclass(frozen=True, eq=False)
class Paint:
    """The surface of a shape: "#rrggbb" or "#rrggbbaa", how glossy (0..1), and what is printed on it.

    `image` covers a mesh by its texture coordinates, and the +z side of a box or cylinder once; `cube` makes it
    cover each side of the shape as the sides of a cube. `mirror` (0..1) reflects the room; flat tops only.
    """

    colour: str = "#ffffff"
    gloss: float = 0.3
    image: Image.Image | None = None
    cube: bool = False
    mirror: float = 0.0
    glow: float = 0.0

    @property
    def rgba(self) -> tuple[float, ...]:
        """Four numbers in 0..1."""
        digits = self.colour.lstrip("#").ljust(8, "f")
        return tuple(int(digits[i : i + 2], 16) / 255 for i in range(0, 8, 2))


@dataclass
class Assets:
    """Meshes, textures and materials of one model; equal ones are kept once."""

    tags: dict[str, str] = field(default_factory=dict)  # name -> MJCF element, in the order of first use
    files: dict[str, bytes] = field(default_factory=dict)  # file name -> PNG

    def material(self, paint: Paint, repeats: int = 1) -> str:
        """The name of the paint's material; its image covers a flat side `repeats` x `repeats` times."""
        looks = {"rgba": paint.rgba, "specular": paint.gloss, "shininess": 0.15 + 0.6 * paint.gloss}
        if repeats > 1:
            looks["texrepeat"] = (repeats, repeats)
        if paint.mirror:
            looks["reflectance"] = paint.mirror
        if paint.glow:
            looks["emission"] = paint.glow
        if paint.image is not None:
            looks["texture"] = self._texture(paint.image, "cube" if paint.cube else "2d")
        return self._shared("material", looks)

    def mesh(self, mesh: Mesh) -> str:
        """The name of the mesh."""
        numbers = {"vertex": mesh.vertices, "normal": mesh.normals, "texcoord": mesh.texcoords}
        written = {key: " ".join(f"{x:.5g}" for x in value.ravel()) for key, value in numbers.items()}
        # A shell has mass even where the surface is open or flat, so that every mesh compiles.
        return self._shared("mesh", {**written, "face": mesh.faces.ravel(), "inertia": "shell"})

    def _texture(self, image: Image.Image, kind: str) -> str:
        stream = io.BytesIO()
        image.convert("RGB").save(stream, "PNG", compress_level=1)
        file = hashlib.sha256(stream.getvalue()).hexdigest()[:16] + ".png"
        self.files[file] = stream.getvalue()
        return self._shared("texture", {"type": kind, "file": file})

    def _shared(self, kind: str, attributes: dict) -> str:
        text = " ".join(f"{key}={quoteattr(_words(value))}" for key, value in attributes.items())
        name = f"{kind}_{hashlib.sha256((kind + text).encode()).hexdigest()[:16]}"
        self.tags.setdefault(name, f'<{kind} name="{name}" {text}/>')
        return name


def _words(value: object) -> str:
    """An attribute's value as MJCF writes it."""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float):
        return f"{value:.5g}"
    return " ".join(f"{x:.5g}" for x in np.asarray(value).ravel())


class Look:
    """The shapes of one body.

    Places are in the body's frame (metres, its foot at z = 0); turns are degrees about the fixed x, y, z in this order.
    """

    def __init__(self, assets: Assets) -> None:
        self.assets = assets
        self.geoms: list[str] = []

    def ball(self, paint: Paint, radius: float, at: Point = _ORIGIN) -> None:
        self._add(paint, at, _ORIGIN, type="sphere", size=(radius,))

    def egg(self, paint: Paint, halves: Point, at: Point = _ORIGIN, turn: Point = _ORIGIN) -> None:
        """An ellipsoid with three semi-axes."""
        self._add(paint, at, turn, type="ellipsoid", size=halves)

    def box(self, paint: Paint, halves: Point, at: Point = _ORIGIN, turn: Point = _ORIGIN) -> None:
        self._add(paint, at, turn, type="box", size=halves)

    def drum(self, paint: Paint, radius: float, half: float, at: Point = _ORIGIN, turn: Point = _ORIGIN) -> None:
        """A cylinder about its z axis, 2 * `half` high, `at` its middle."""
        self._add(paint, at, turn, type="cylinder", size=(radius, half))

    def rod(self, paint: Paint, radius: float, start: Point, end: Point, flat: bool = False) -> None:
        """A rod from `start` to `end`, its ends round or flat."""
        self._add(paint, None, None, type="cylinder" if flat else "capsule", size=(radius,), fromto=np.r_[start, end])

    def panel(self, paint: Paint, half_width: float, half_height: float, at: Point, facing: float = 0.0) -> None:
        """An upright print, thin as paper, that faces -y, turned by `facing` degrees about z."""
        self.box(paint, (half_width, half_height, 0.0006), at, (90, 0, facing))

    def mesh(self, paint: Paint, mesh: Mesh, at: Point = _ORIGIN, turn: Point = _ORIGIN) -> None:
        self._add(paint, at, turn, type="mesh", mesh=self.assets.mesh(mesh))

    def _add(self, paint: Paint, at: Point | None, turn: Point | None, **attributes: object) -> None:
        if at is not None and turn is not None:
            attributes |= {"pos": at, "euler": turn}
        attributes["material"] = self.assets.material(paint)
        text = " ".join(f"{key}={quoteattr(_words(value))}" for key, value in attributes.items())
        self.geoms.append(f"<geom {text}/>")

    def body(self, name: str) -> str:
        """The body as MJCF, at the world's origin."""
        return f"<body name={quoteattr(name)}>{''.join(self.geoms)}</body>"
