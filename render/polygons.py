"""Polygons of a mesh file as triangles: fans where a polygon is convex, ears cut off one by one where it is not (Meisters 1975)."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

# Cutting ears takes time with the cube of the corners; beyond this a fan has to do.
_MAX_EARS = 1000


@numba.njit(cache=True)
def _flatten(vertices: npt.NDArray[np.float64], corners: npt.NDArray[np.int32], start: int, stop: int) -> npt.NDArray[np.float64]:
    """Corners in the plane of the polygon, counter-clockwise; empty where it has no plane or a corner is none of a vertex."""
    n = stop - start
    normal = np.zeros(3)
    for k in range(n):
        i, j = corners[start + k], corners[start + (k + 1) % n]
        if i < 0 or i >= len(vertices) or j < 0 or j >= len(vertices):
            return np.zeros((0, 2))
        for axis in range(3):
            u, v = (axis + 1) % 3, (axis + 2) % 3
            normal[axis] += (vertices[i, u] - vertices[j, u]) * (vertices[i, v] + vertices[j, v] - 2 * vertices[corners[start], v])
    axis = 0
    if abs(normal[1]) > abs(normal[axis]):
        axis = 1
    if abs(normal[2]) > abs(normal[axis]):
        axis = 2
    if not (0.0 < abs(normal[axis]) < np.inf):
        return np.zeros((0, 2))
    u, v = (axis + 1) % 3, (axis + 2) % 3
    if normal[axis] < 0:
        u, v = v, u
    flat = np.empty((n, 2))
    for k in range(n):
        flat[k, 0] = vertices[corners[start + k], u]
        flat[k, 1] = vertices[corners[start + k], v]
    return flat


@numba.njit(cache=True)
def _turn(flat: npt.NDArray[np.float64], a: int, b: int, c: int) -> float:
    """Above 0 where a, b, c turn to the left."""
    left: float = (flat[b, 0] - flat[a, 0]) * (flat[c, 1] - flat[a, 1]) - (flat[b, 1] - flat[a, 1]) * (flat[c, 0] - flat[a, 0])
    return left


@numba.njit(cache=True)
def _is_ear(flat: npt.NDArray[np.float64], after: npt.NDArray[np.int64], a: int, b: int, c: int) -> bool:
    """Whether the triangle of b and its neighbours turns left and holds no other corner."""
    if _turn(flat, a, b, c) <= 0:
        return False
    k = after[c]
    while k != a:
        if _turn(flat, a, b, k) >= 0 and _turn(flat, b, c, k) >= 0 and _turn(flat, c, a, k) >= 0:
            # Corners that lie on one another are the two banks of a cut to a hole.
            same = False
            for corner in (a, b, c):
                same = same or (flat[k, 0] == flat[corner, 0] and flat[k, 1] == flat[corner, 1])
            if not same:
                return False
        k = after[k]
    return True


@numba.njit(cache=True)
def _cut_ears(flat: npt.NDArray[np.float64], triangles: npt.NDArray[np.int64], n: int, start: int) -> None:
    """Fills rows n, n + 1, … with the triangles of one polygon."""
    count = len(flat)
    after, before = np.empty(count, np.int64), np.empty(count, np.int64)
    for k in range(count):
        after[k], before[k] = (k + 1) % count, (k - 1) % count
    b, left, tried = 1, count, 0
    while left > 3:
        a, c = before[b], after[b]
        # Where rounding or crossing edges leave no ear, the next corner goes all the same.
        if tried > left or _is_ear(flat, after, a, b, c):
            triangles[n, 0], triangles[n, 1], triangles[n, 2] = start + a, start + b, start + c
            n += 1
            after[a], before[c] = c, a
            left -= 1
            tried = 0
        else:
            tried += 1
        b = c
    triangles[n, 0], triangles[n, 1], triangles[n, 2] = start + before[b], start + b, start + after[b]


@numba.njit(cache=True)
def triangulate(
    vertices: npt.NDArray[np.float64], corners: npt.NDArray[np.int32], starts: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Triangles (F, 3) as places in corners (C,), and the polygon (F,) each is from; polygon p has corners starts[p] to starts[p + 1].

    A polygon of n corners gives n − 2 triangles, wound as it is; one of fewer than three gives none.
    """
    total = 0
    for p in range(len(starts) - 1):
        total += max(0, starts[p + 1] - starts[p] - 2)
    triangles, polygons = np.empty((total, 3), np.int64), np.empty(total, np.int64)
    n = 0
    for p in range(len(starts) - 1):
        start, stop = starts[p], starts[p + 1]
        count = stop - start
        convex = True
        if 3 < count <= _MAX_EARS:
            flat = _flatten(vertices, corners, start, stop)
            for k in range(len(flat)):
                convex = convex and _turn(flat, k, (k + 1) % count, (k + 2) % count) >= 0
            if not convex:
                _cut_ears(flat, triangles, n, start)
        if convex:
            for k in range(count - 2):
                triangles[n + k, 0], triangles[n + k, 1], triangles[n + k, 2] = start, start + k + 1, start + k + 2
        for k in range(max(0, count - 2)):
            polygons[n + k] = p
        n += max(0, count - 2)
    return triangles, polygons
