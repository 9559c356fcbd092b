"""Which samples a triangle covers, and how near it is there: kernels on fixed-point vertices, exact in coverage.

A pixel has four samples, at (±1, ±3) and (±3, ∓1) eighths of a pixel from its centre. Vertices are rounded to a fraction of a pixel; from
there on coverage is integer arithmetic with the top-left rule, so triangles that share an edge share no sample and leave none out. 1/z is
linear on the screen and decides by float32: larger is nearer, the first drawn wins among equals.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from render.simd import any_lane, both_greater, clamp, constant16, float16lanes, int16lanes, kernel, load16, not_negative, store16, to_float

GUARD_PX = 32
CLIPPED = np.int32(-(2**31))


def subpixel_bits(width: int, height: int) -> int:
    """Fractional bits of a vertex position such that every edge function at a sample fits 32 bits. ValueError above 4000 pixels a side."""
    side = max(width, height) + 2 * GUARD_PX + 8
    for bits in (8, 7, 6, 5, 4):
        # samples lie on a lattice of 1/8 pixel, so an edge function needs (side · 2^bits)² / 2^(bits − 3)
        if side * side << (bits + 3) < 1 << 31:
            return bits
    raise ValueError(f"an image of {width}×{height} pixels is too large for the rasteriser; ask for at most 4000 pixels a side")


class Samples(NamedTuple):
    """inverse_z float32 and ids int32 (height · stride + 16,), four to a pixel, in rows of `stride` with four pixels of overhang; ids hold
    face + 1, 0 for none. box (4,) int64: first and last column, first and last row drawn to."""

    inverse_z: npt.NDArray[np.float32]
    ids: npt.NDArray[np.int32]
    box: npt.NDArray[np.int64]


def empty_samples(width: int, height: int) -> Samples:
    """Samples of an image, nothing drawn."""
    count = height * stride(width) + 16
    return Samples(np.zeros(count, np.float32), np.zeros(count, np.int32), np.array([width, -1, height, -1]))


class Projected(NamedTuple):
    """Vertices in a view: homogeneous (V, 3) float64 = K·x_cam; x, y (V,) int32 fixed-point pixels, x CLIPPED before the near plane or
    beyond the guard band; inverse_z (V,) float64. polygons (2, 10, 3) is room for clipping."""

    homogeneous: npt.NDArray[np.float64]
    x: npt.NDArray[np.int32]
    y: npt.NDArray[np.int32]
    inverse_z: npt.NDArray[np.float64]
    polygons: npt.NDArray[np.float64]


def room_for_vertices(count: int) -> Projected:
    """Arrays for `count` vertices, not filled."""
    return Projected(np.empty((count, 3)), np.empty(count, np.int32), np.empty(count, np.int32), np.empty(count), np.empty((2, 10, 3)))


@kernel
def stride(width):  # type: ignore[no-untyped-def]
    """Samples in a row, with room for the vector that begins at the last pixel."""
    return 4 * (width + 4)


@kernel
def project(vertices, P, near, width, height, one, out):  # type: ignore[no-untyped-def]
    """Vertices (V, 3) through P (3, 4) = K·[R t] into `out`; `one` is a pixel in fixed point."""
    low, high_x, high_y = -float(GUARD_PX), float(width + GUARD_PX), float(height + GUARD_PX)
    p00, p01, p02, p03 = P[0, 0], P[0, 1], P[0, 2], P[0, 3]
    p10, p11, p12, p13 = P[1, 0], P[1, 1], P[1, 2], P[1, 3]
    p20, p21, p22, p23 = P[2, 0], P[2, 1], P[2, 2], P[2, 3]
    for i in range(vertices.shape[0]):
        x, y, z = vertices[i, 0], vertices[i, 1], vertices[i, 2]
        X = p00 * x + p01 * y + p02 * z + p03
        Y = p10 * x + p11 * y + p12 * z + p13
        Z = p20 * x + p21 * y + p22 * z + p23
        out.homogeneous[i, 0], out.homogeneous[i, 1], out.homogeneous[i, 2] = X, Y, Z
        inverse = 1.0 / Z if near <= Z else 0.0
        u, v = X * inverse, Y * inverse
        out.inverse_z[i] = inverse
        if inverse > 0.0 and u >= low and u <= high_x and v >= low and v <= high_y:
            out.x[i], out.y[i] = np.int32(np.floor(u * one + 0.5)), np.int32(np.floor(v * one + 0.5))
        else:
            out.x[i] = CLIPPED


@kernel
def draw(faces, projected, near, width, height, shift, samples):  # type: ignore[no-untyped-def]
    """All faces (F, 3) into the samples. shift = subpixel bits − 3."""
    row = stride(width)
    x, y, w = projected.x, projected.y, projected.inverse_z
    for f in range(faces.shape[0]):
        i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
        face = np.int32(f + 1)
        if x[i] != CLIPPED and x[j] != CLIPPED and x[k] != CLIPPED:
            _triangle(
                np.int64(x[i]), np.int64(y[i]), w[i], np.int64(x[j]), np.int64(y[j]), w[j], np.int64(x[k]), np.int64(y[k]), w[k],
                face, shift, width, height, row, samples.inverse_z, samples.ids, samples.box,
            )  # fmt: skip
        else:
            _clipped_triangle(projected.homogeneous, i, j, k, projected.polygons, face, near, shift, width, height, row, samples)


# the rotated grid, in eighths of a pixel from its centre, for the four samples of four neighbouring pixels
_X = constant16([8 * pixel + x for pixel in range(4) for x in (-1, 3, -3, 1)])
_Y = constant16([y for _ in range(4) for y in (-3, -1, 1, 3)])


@kernel
def _reach(a, b):  # type: ignore[no-untyped-def]
    """The most that an edge function rises from the centre of a pixel to one of its samples."""
    return max(abs(a + 3 * b), abs(3 * a - b))


@kernel
def _triangle(x0, y0, w0, x1, y1, w1, x2, y2, w2, face, shift, width, height, row, zbuf, ids, box):  # type: ignore[no-untyped-def]
    """One triangle in fixed point with 1/z at its corners into the sample buffers."""
    area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
    if area == 0:
        return
    if area < 0:
        x1, y1, w1, x2, y2, w2 = x2, y2, w2, x1, y1, w1
        area = -area
    cell = (np.int64(1) << shift) - 1
    px0 = max(min(x0, x1, x2) + cell >> shift + 3, 0)
    px1 = min((max(x0, x1, x2) >> shift) - 1 >> 3, width - 1)
    py0 = max(min(y0, y1, y2) + cell >> shift + 3, 0)
    py1 = min((max(y0, y1, y2) >> shift) - 1 >> 3, height - 1)
    if px0 > px1 or py0 > py1:
        return
    box[0] = min(box[0], px0)
    box[1] = max(box[1], px1)
    box[2] = min(box[2], py0)
    box[3] = max(box[3], py1)
    # edge i is opposite to corner i and positive inside, since the area is positive (y down: clockwise on the screen)
    a0, b0 = y1 - y2, x2 - x1
    a1, b1 = y2 - y0, x0 - x2
    a2, b2 = y0 - y1, x1 - x0
    # top-left rule: a left edge has its inside to the right (a > 0), a top edge has it below; others lose their own points.
    # The shift is exact: at samples, a·x + b·y is a multiple of 2^shift.
    c0 = -(a0 * x1 + b0 * y1) - (0 if a0 > 0 or (a0 == 0 and b0 > 0) else 1) >> shift
    c1 = -(a1 * x2 + b1 * y2) - (0 if a1 > 0 or (a1 == 0 and b1 > 0) else 1) >> shift
    c2 = -(a2 * x0 + b2 * y0) - (0 if a2 > 0 or (a2 == 0 and b2 > 0) else 1) >> shift
    unit = float(cell + 1)
    eighth = 1.0 / unit
    scale = unit / float(area)
    d1, d2 = w1 - w0, w2 - w0
    wx = (d1 * (y2 - y0) - d2 * (y1 - y0)) * scale
    wy = (d2 * (x1 - x0) - d1 * (x2 - x0)) * scale
    qx, qy = 8 * px0 + 4, 8 * py0 + 4
    e0 = a0 * qx + b0 * qy + c0
    e1 = a1 * qx + b1 * qy + c1
    e2 = a2 * qx + b2 * qy + c2
    w = w0 + wx * (qx - x0 * eighth) + wy * (qy - y0 * eighth)
    low, high = float16lanes(min(w0, w1, w2)), float16lanes(max(w0, w1, w2))
    lane_x, lane_y = _X(), _Y()
    start0 = int16lanes(a0) * lane_x + int16lanes(b0) * lane_y
    start1 = int16lanes(a1) * lane_x + int16lanes(b1) * lane_y
    start2 = int16lanes(a2) * lane_x + int16lanes(b2) * lane_y
    start_w = float16lanes(wx) * to_float(lane_x) + float16lanes(wy) * to_float(lane_y)
    step0, step1, step2, step_w = int16lanes(32 * a0), int16lanes(32 * a1), int16lanes(32 * a2), float16lanes(32.0 * wx)
    number = int16lanes(face)
    last = px1 - px0
    wide = last >= 8
    r0 = r1 = r2 = 0.0
    m0 = m1 = m2 = np.int64(0)
    if wide:
        r0 = 1.0 / (8 * a0) if a0 != 0 else 0.0
        r1 = 1.0 / (8 * a1) if a1 != 0 else 0.0
        r2 = 1.0 / (8 * a2) if a2 != 0 else 0.0
        m0, m1, m2 = _reach(a0, b0), _reach(a1, b1), _reach(a2, b2)
    for py in range(py0, py1 + 1):
        n0, n1 = 0, last
        if wide:
            # the pixels of this row that can hold a sample inside; the slack covers rounding
            n0, n1 = _narrow(n0, n1, e0 + m0, a0, r0)
            n0, n1 = _narrow(n0, n1, e1 + m1, a1, r1)
            n0, n1 = _narrow(n0, n1, e2 + m2, a2, r2)
        if n0 <= n1:
            t0 = start0 + int16lanes(e0 + 8 * a0 * n0)
            t1 = start1 + int16lanes(e1 + 8 * a1 * n0)
            t2 = start2 + int16lanes(e2 + 8 * a2 * n0)
            tw = start_w + float16lanes(w + 8.0 * wx * n0)
            k = py * row + 4 * (px0 + n0)
            for _ in range((n1 - n0 >> 2) + 1):
                inside = not_negative(t0 | t1 | t2)
                if any_lane(inside):
                    z = clamp(tw, low, high)
                    inside = both_greater(inside, z, load16(zbuf, k))
                    store16(zbuf, k, inside, z)
                    store16(ids, k, inside, number)
                t0 = t0 + step0
                t1 = t1 + step1
                t2 = t2 + step2
                tw = tw + step_w
                k += 16
        e0 += 8 * b0
        e1 += 8 * b1
        e2 += 8 * b2
        w += 8 * wy


@kernel
def _narrow(n0, n1, e, a, r):  # type: ignore[no-untyped-def]
    """n0 … n1 without the pixels where e + 8·a·n < 0; r = 1 / (8·a)."""
    if a > 0:
        n0 = max(n0, np.int64(np.ceil(-e * r - 1e-6)))
    elif a < 0:
        n1 = min(n1, np.int64(np.floor(-e * r + 1e-6)))
    elif e < 0:
        n1 = -1
    return n0, n1


@kernel
def _clipped_triangle(H, i0, i1, i2, polygons, face, near, shift, width, height, row, samples):  # type: ignore[no-untyped-def]
    """A triangle that reaches behind the near plane or beyond the guard band: what is left of it, as a fan."""
    low, high_x, high_y = -float(GUARD_PX), float(width + GUARD_PX), float(height + GUARD_PX)
    a, b = polygons[0], polygons[1]
    for k in range(3):
        a[0, k], a[1, k], a[2, k] = H[i0, k], H[i1, k], H[i2, k]
    n = _clip(a, 3, b, 0.0, 0.0, 1.0, -near)
    n = _clip(b, n, a, 1.0, 0.0, -low, 0.0)
    n = _clip(a, n, b, -1.0, 0.0, high_x, 0.0)
    n = _clip(b, n, a, 0.0, 1.0, -low, 0.0)
    n = _clip(a, n, b, 0.0, -1.0, high_y, 0.0)
    one = float(np.int64(8) << shift)
    for i in range(n):
        z = max(b[i, 2], near)
        u, v = b[i, 0] / z, b[i, 1] / z
        # rounding of huge coordinates can leave a point outside; what is not even finite is dropped
        if not (abs(u) < 1e300 and abs(v) < 1e300):
            return
        u, v = min(max(u, low), high_x), min(max(v, low), high_y)
        b[i, 0], b[i, 1], b[i, 2] = np.floor(u * one + 0.5), np.floor(v * one + 0.5), 1.0 / z
    for i in range(1, n - 1):
        _triangle(
            np.int64(b[0, 0]), np.int64(b[0, 1]), b[0, 2], np.int64(b[i, 0]), np.int64(b[i, 1]), b[i, 2],
            np.int64(b[i + 1, 0]), np.int64(b[i + 1, 1]), b[i + 1, 2],
            face, shift, width, height, row, samples.inverse_z, samples.ids, samples.box,
        )  # fmt: skip


@kernel
def _clip(polygon, count, out, a, b, c, d):  # type: ignore[no-untyped-def]
    """The part of a polygon of homogeneous points where a·X + b·Y + c·Z + d ≥ 0 (Sutherland and Hodgman 1974).

    A cut is computed from the inner to the outer point, so that the neighbour across the edge finds the same.
    """
    n = 0
    for i in range(count):
        j = i + 1 if i + 1 < count else 0
        di = a * polygon[i, 0] + b * polygon[i, 1] + c * polygon[i, 2] + d
        dj = a * polygon[j, 0] + b * polygon[j, 1] + c * polygon[j, 2] + d
        if di >= 0.0:
            for k in range(3):
                out[n, k] = polygon[i, k]
            n += 1
        if (di >= 0.0) != (dj >= 0.0):
            inner, outer, t = (i, j, di / (di - dj)) if di >= 0.0 else (j, i, dj / (dj - di))
            for k in range(3):
                out[n, k] = polygon[inner, k] + t * (polygon[outer, k] - polygon[inner, k])
            n += 1
    return n
