"""Closed solids as triangles, and what puts them together: the building blocks of `pipeline.sources.shapes`.

A solid is (vertices (n, 3) float64, faces (m, 3) int64), wound outwards. Only additions, multiplications, divisions and square roots are
used, so that all hosts build the same solids.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from render.trig import cos_sin

Floats = npt.NDArray[np.float64]
Solid = tuple[Floats, npt.NDArray[np.int64]]
Point = tuple[float, float, float]


def loft(rings: Sequence[Floats]) -> Solid:
    """The solid through rings of n points (n, 3) each, counter-clockwise seen from the last one's side, closed by fans at both ends."""
    count, n = len(rings), len(rings[0])
    vertices = np.concatenate([*rings, [_mean(rings[0])], [_mean(rings[-1])]])
    i = np.arange(n)
    j = (i + 1) % n
    faces = []
    for k in range(count - 1):
        a, b = k * n, (k + 1) * n
        faces += [np.stack((a + i, a + j, b + j), axis=1), np.stack((a + i, b + j, b + i), axis=1)]
    last = (count - 1) * n
    faces += [np.stack((j, i, np.full(n, count * n)), axis=1), np.stack((last + i, last + j, np.full(n, count * n + 1)), axis=1)]
    return vertices, np.concatenate(faces)


def _mean(points: Floats) -> Floats:
    # cumsum adds from first to last, where sum's order is the library's choice
    return np.asarray(np.cumsum(points, axis=0)[-1] / len(points))


def box(width: float, height: float, depth: float) -> Solid:
    """A box about the origin, sides along x, y and z."""
    x, y, z = width / 2, height / 2, depth / 2
    ring = np.array([(-x, -y), (x, -y), (x, y), (-x, y)])
    return loft([np.column_stack((ring, np.full(4, side))) for side in (-z, z)])


def tapered_box(bottom: tuple[float, float], top: tuple[float, float], height: float, shift_z: float = 0.0) -> Solid:
    """A frustum of a pyramid about the origin with rectangles (x, z) below and above, the upper one moved along z."""
    rings = []
    for (width, depth), y, move in ((bottom, -height / 2, 0.0), (top, height / 2, shift_z)):
        x, z = width / 2, depth / 2
        rings.append(np.array([(-x, y, z + move), (x, y, z + move), (x, y, -z + move), (-x, y, -z + move)]))
    return loft(rings)


def rounded_box(width: float, height: float, depth: float, radius: float) -> Solid:
    """A box about the origin with edges and corners of a radius, cut down to half of the smallest side."""
    radius = min(radius, 0.499 * min(width, height, depth))
    half = np.array([width / 2, height / 2, depth / 2]) - radius
    rings = []
    for level in (-75.0, -45.0, -15.0, 15.0, 45.0, 75.0):
        cosine, sine = cos_sin(math.radians(level))
        ring = []
        for step in range(12):
            c, s = cos_sin(math.radians(15 + 30 * step))
            direction = np.array([s * cosine, sine, c * cosine])
            ring.append(direction * radius + np.sign(direction) * half)
        rings.append(np.array(ring))
    return loft(rings)


def lathe(profile: Sequence[tuple[float, float]], segments: int = 28) -> Solid:
    """What a profile of (radius, y), counter-clockwise seen with y upwards, sweeps about the y axis; it begins and ends on the axis."""
    ring = circle(1.0, segments)
    inner = [(r, y) for r, y in profile if r > 0]
    vertices = [np.column_stack((ring[:, 0] * r, np.full(segments, y), ring[:, 1] * r)) for r, y in inner]
    first, last = np.array([[0.0, profile[0][1], 0.0]]), np.array([[0.0, profile[-1][1], 0.0]])
    i = np.arange(segments)
    j = (i + 1) % segments
    faces = []
    for k in range(len(inner) - 1):
        a, b = k * segments, (k + 1) * segments
        faces += [np.stack((a + i, a + j, b + j), axis=1), np.stack((a + i, b + j, b + i), axis=1)]
    total, top = len(inner) * segments, (len(inner) - 1) * segments
    faces += [np.stack((j, i, np.full(segments, total)), axis=1), np.stack((top + i, top + j, np.full(segments, total + 1)), axis=1)]
    return np.concatenate([*vertices, first, last]), np.concatenate(faces)


def circle(radius: float, segments: int) -> Floats:
    """(segments, 2) points from +z (the second column) on towards +x (the first)."""
    turns = [cos_sin(2 * math.pi * k / segments) for k in range(segments)]
    return np.array([(radius * s, radius * c) for c, s in turns])


def cylinder(radius: float, height: float, segments: int = 24, top_radius: float | None = None) -> Solid:
    """A cylinder or a frustum of a cone about the origin along y."""
    top = radius if top_radius is None else top_radius
    return lathe([(0, -height / 2), (radius, -height / 2), (max(top, 1e-6), height / 2), (0, height / 2)], segments)


def ellipsoid(x: float, y: float, z: float, segments: int = 20) -> Solid:
    """Half axes along x, y and z, about the origin."""
    turns = [cos_sin(math.radians(angle)) for angle in range(-75, 90, 15)]
    vertices, faces = lathe([(0, -1), *((c, s) for c, s in turns), (0, 1)], segments)
    return vertices * np.array([x, y, z]), faces


def prism(outline: Floats, thickness: float) -> Solid:
    """An outline (n, 2) in x and y, counter-clockwise and seen whole from its mean point, with a thickness about z = 0."""
    return loft([np.column_stack((outline, np.full(len(outline), z))) for z in (-thickness / 2, thickness / 2)])


def tube(path: Floats, radius: float | Sequence[float], segments: int = 10) -> Solid:
    """A round tube along a path (n, 3), with one radius or one for each of its points."""
    radii = [radius] * len(path) if isinstance(radius, (int, float)) else list(radius)
    ahead = np.concatenate((path[1:], path[-1:])) - np.concatenate((path[:1], path[:-1]))
    tangents = ahead / np.sqrt(ahead[:, :1] ** 2 + ahead[:, 1:2] ** 2 + ahead[:, 2:] ** 2)
    side = np.array([1.0, 0.0, 0.0]) if abs(tangents[0, 0]) < 0.9 else np.array([0.0, 1.0, 0.0])
    ring = circle(1.0, segments)
    rings = []
    for point, tangent, r in zip(path, tangents, radii, strict=True):
        # The side is carried along the path, so that the tube does not twist.
        side = side - tangent * (side[0] * tangent[0] + side[1] * tangent[1] + side[2] * tangent[2])
        side = side / math.sqrt(side[0] * side[0] + side[1] * side[1] + side[2] * side[2])
        up = np.array(
            [
                tangent[1] * side[2] - tangent[2] * side[1],
                tangent[2] * side[0] - tangent[0] * side[2],
                tangent[0] * side[1] - tangent[1] * side[0],
            ]
        )
        rings.append(point + r * (ring[:, 1:] * side + ring[:, :1] * up))
    return loft(rings)


def bar(start: Point, end: Point, radius: float, end_radius: float | None = None, segments: int = 10) -> Solid:
    """A round bar from point to point."""
    return tube(np.array([start, end], np.float64), [radius, radius if end_radius is None else end_radius], segments)


def moved(solid: Solid, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Solid:
    """The solid elsewhere."""
    return solid[0] + np.array([x, y, z]), solid[1]


def turned(solid: Solid, axis: str, angle_rad: float) -> Solid:
    """The solid turned about the x, y or z axis through the origin, by the right hand."""
    cosine, sine = cos_sin(angle_rad)
    first, second = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    vertices = solid[0].copy()
    vertices[:, first] = cosine * solid[0][:, first] - sine * solid[0][:, second]
    vertices[:, second] = sine * solid[0][:, first] + cosine * solid[0][:, second]
    return vertices, solid[1]


def mirrored(solid: Solid) -> Solid:
    """The solid's mirror image in the plane x = 0."""
    return solid[0] * np.array([-1.0, 1.0, 1.0]), solid[1][:, ::-1]
