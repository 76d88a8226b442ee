"""Small procedural meshes: surfaces of revolution, swept tubes and extruded polygons (metres, z up)."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

_CREASE = math.cos(math.radians(38))  # neighbouring profile pieces bent by more than this keep a sharp edge


@dataclass(frozen=True)
class Mesh:
    """A triangle mesh.

    vertices, normals: (n, 3) float, metres and unit vectors; texcoords: (n, 2) float in 0..1; faces: (m, 3) int.
    """

    vertices: np.ndarray
    normals: np.ndarray
    texcoords: np.ndarray
    faces: np.ndarray


def smooth(points: ArrayLike, pieces: int = 4) -> np.ndarray:
    """A Catmull-Rom curve through `points` (n, d), with `pieces` straight pieces between neighbours."""
    given = np.asarray(points, float)
    padded = np.vstack([2 * given[0] - given[1], given, 2 * given[-1] - given[-2]])
    steps = np.linspace(0, 1, pieces, endpoint=False)[:, None]
    out = []
    for a, b, c, d in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        bend = (c - a) * steps + (2 * a - 5 * b + 4 * c - d) * steps**2 + (3 * b - a - 3 * c + d) * steps**3
        out.append(b + 0.5 * bend)
    return np.vstack([*out, given[-1:]])


def revolve(profile: ArrayLike, sides: int = 28) -> Mesh:
    """Turn a profile of (radius, height) points about the z axis.

    A profile that runs upwards has its outer side outwards; one that comes back down has a hollow inside.
    A texture goes once round, counter-clockwise from +x as seen from above, its foot at the profile's start.
    """
    line = np.asarray(profile, float)
    along = np.r_[0, np.cumsum(np.hypot(*np.diff(line, axis=0).T))]
    angle = np.linspace(0, 2 * math.pi, sides + 1)
    rings, normals, texcoords = [], [], []
    for i, pair in enumerate(_profile_normals(line)):
        for (radius, height), (out, up), v in zip(line[i : i + 2], pair, along[i : i + 2] / along[-1], strict=True):
            rings.append(np.c_[radius * np.cos(angle), radius * np.sin(angle), np.full(sides + 1, height)])
            normals.append(np.c_[out * np.cos(angle), out * np.sin(angle), np.full(sides + 1, up)])
            texcoords.append(np.c_[angle / (2 * math.pi), np.full(sides + 1, 1 - v)])
    faces = np.vstack([_strip(2 * i * (sides + 1), sides) for i in range(len(line) - 1)])
    return _without_slivers(np.vstack(rings), np.vstack(normals), np.vstack(texcoords), faces)


def _profile_normals(line: np.ndarray) -> np.ndarray:
    """(pieces, 2 ends, 2) unit normals in the (radius, height) plane; smooth where the bend is slight."""
    step = np.diff(line, axis=0)
    own = np.c_[step[:, 1], -step[:, 0]] / np.maximum(np.hypot(*step.T), 1e-9)[:, None]
    both = np.repeat(own[:, None], 2, axis=1)
    for i in np.flatnonzero((own[1:] * own[:-1]).sum(1) > _CREASE):
        shared = own[i] + own[i + 1]
        both[i, 1] = both[i + 1, 0] = shared / np.linalg.norm(shared)
    return both


def _strip(first: int, sides: int) -> np.ndarray:
    """Faces between a ring of `sides` + 1 vertices that starts at `first` and the ring after it."""
    low = first + np.arange(sides)
    high = low + sides + 1
    return np.vstack([np.c_[low, low + 1, high + 1], np.c_[low, high + 1, high]])


def _without_slivers(vertices: np.ndarray, normals: np.ndarray, texcoords: np.ndarray, faces: np.ndarray) -> Mesh:
    """Drop faces without area (at the poles), which the MuJoCo compiler refuses."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    return Mesh(vertices, normals, texcoords, faces[area > 1e-10])


def sweep(points: ArrayLike, radii: ArrayLike, sides: int = 10) -> Mesh:
    """A tube with round cross-sections along `points` (n, 3); `radii` in metres, one or n. Its ends are closed."""
    line = np.asarray(points, float)
    radius = np.broadcast_to(np.asarray(radii, float), len(line))
    tangent = np.gradient(line, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    angle = np.linspace(0, 2 * math.pi, sides + 1)
    side = np.cross(tangent[0], [0.0, 0.0, 1.0] if abs(tangent[0, 2]) < 0.9 else [1.0, 0.0, 0.0])
    rings, normals, texcoords = [], [], []
    for i, direction in enumerate(tangent):
        side = side - direction * (side @ direction)  # carried along, so that the tube does not twist
        side /= np.linalg.norm(side)
        normal = np.outer(np.cos(angle), side) + np.outer(np.sin(angle), np.cross(direction, side))
        rings.append(line[i] + radius[i] * normal)
        normals.append(normal)
        texcoords.append(np.c_[angle / (2 * math.pi), np.full(sides + 1, i / (len(line) - 1))])
    faces = [_strip(i * (sides + 1), sides) for i in range(len(line) - 1)]
    for ring, end, direction in ((0, line[0], -tangent[0]), (len(line) - 1, line[-1], tangent[-1])):
        rings.append(np.vstack([rings[ring], end]))
        normals.append(np.tile(direction, (sides + 2, 1)))
        texcoords.append(np.full((sides + 2, 2), float(ring > 0)))
        first = sum(len(r) for r in rings[:-1])
        near = first + np.arange(sides)
        fan = np.c_[near, near + 1, np.full(sides, first + sides + 1)]
        faces.append(fan if ring else fan[:, ::-1])
    return _without_slivers(np.vstack(rings), np.vstack(normals), np.vstack(texcoords), np.vstack(faces))


def extrude(outline: ArrayLike, thickness: float) -> Mesh:
    """A convex polygon of (x, z) points, counter-clockwise seen from -y, made `thickness` metres thick along y."""
    corners = np.asarray(outline, float)
    count, half = len(corners), thickness / 2
    front = np.c_[corners[:, 0], np.full(count, -half), corners[:, 1]]
    back = np.add(front, (0, thickness, 0))
    fan = np.array([[0, i, i + 1] for i in range(1, count - 1)])
    vertices, normals = [front, back], [np.tile([0, -1.0, 0], (count, 1)), np.tile([0, 1.0, 0], (count, 1))]
    faces = [fan, fan[:, ::-1] + count]
    for i in range(count):
        j = (i + 1) % count
        dx, dz = corners[j] - corners[i]
        first = sum(len(part) for part in vertices)
        vertices.append(np.array([front[i], front[j], back[j], back[i]]))
        normals.append(np.tile(np.array([dz, 0, -dx]) / math.hypot(dx, dz), (4, 1)))
        faces.append(first + np.array([[0, 2, 1], [0, 3, 2]]))
    points = np.vstack(vertices)
    return _without_slivers(points, np.vstack(normals), np.zeros((len(points), 2)), np.vstack(faces))
