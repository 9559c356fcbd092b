"""Textures for the rasteriser: mip levels of all of a mesh's textures in one flat array, and the look-up.

Texels are averaged as sRGB bytes, like the samples of a pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from render.meshes import Material
from render.simd import kernel

_LEVELS = 16
_MODES = {"repeat": 0, "clamp": 1, "mirror": 2}


class Mipmaps(NamedTuple):
    """texels (T,) uint32, four sRGB bytes each: every level of every texture; offset (N, 16) int64, where each level starts; size (N, 2)
    int64, width and height of level 0; levels (N,) int64; wrap (N, 2) int64, 0 repeat, 1 clamp, 2 mirror."""

    texels: npt.NDArray[np.uint32]
    offset: npt.NDArray[np.int64]
    size: npt.NDArray[np.int64]
    levels: npt.NDArray[np.int64]
    wrap: npt.NDArray[np.int64]


def mipmaps(materials: Sequence[Material]) -> tuple[Mipmaps, npt.NDArray[np.int32]]:
    """The materials' textures, and for each material its texture's number or -1. A picture that several materials share is stored once."""
    which = np.full(len(materials), -1, np.int32)
    number: dict[tuple[int, str, str], int] = {}
    found: list[Material] = []
    for i, material in enumerate(materials):
        if material.texture is not None and material.texture.size:
            key = (id(material.texture), *material.wrap)
            if key not in number:
                number[key] = len(found)
                found.append(material)
            which[i] = number[key]
    n = len(found)
    table = Mipmaps(
        np.empty(0, np.uint32),
        np.zeros((n, _LEVELS), np.int64),
        np.zeros((n, 2), np.int64),
        np.zeros(n, np.int64),
        np.zeros((n, 2), np.int64),
    )
    total = 0
    for t, material in enumerate(found):
        assert material.texture is not None
        h, w = material.texture.shape[:2]
        table.size[t] = w, h
        table.wrap[t] = [_MODES[mode] for mode in material.wrap]
        for level in range(_LEVELS):
            table.offset[t, level] = total
            table.levels[t] = level + 1
            total += w * h
            if max(w, h) == 1:
                break
            w, h = max(w >> 1, 1), max(h >> 1, 1)
    texels = np.empty(total, np.uint32)
    for t, material in enumerate(found):
        assert material.texture is not None
        start, size = table.offset[t, 0], table.size[t, 0] * table.size[t, 1]
        texels[start : start + size] = np.ascontiguousarray(material.texture).view(np.uint32).reshape(-1)
    return table._replace(texels=texels), which


# four bytes of a texel as two pairs with room between them, so that one multiplication or sum serves two bytes
_PAIR, _ONES, _HALF, _2, _8 = np.uint32(0x00FF00FF), np.uint32(0x00010001), np.uint32(0x00800080), np.uint32(2), np.uint32(8)
_MAX_TAPS = 4


@kernel
def build_levels(table):  # type: ignore[no-untyped-def]
    """Each level from the one before, four texels to one; the last row or column of an odd size is left out."""
    q = table.texels
    for t in range(table.size.shape[0]):
        width, height = table.size[t, 0], table.size[t, 1]
        for level in range(1, table.levels[t]):
            w, h = max(width >> 1, 1), max(height >> 1, 1)
            right = np.uint64(1 if width > 1 else 0)
            below = np.uint64(width if height > 1 else 0)
            for y in range(h):
                source = np.uint64(table.offset[t, level - 1] + 2 * y * width)
                target = np.uint64(table.offset[t, level] + y * w)
                for x in range(w):
                    k = source + np.uint64(2 * x)
                    c0, c1, c2, c3 = q[k], q[k + right], q[k + below], q[k + below + right]
                    even = (c0 & _PAIR) + (c1 & _PAIR) + (c2 & _PAIR) + (c3 & _PAIR)
                    odd = (c0 >> _8 & _PAIR) + (c1 >> _8 & _PAIR) + (c2 >> _8 & _PAIR) + (c3 >> _8 & _PAIR)
                    q[target + np.uint64(x)] = (even + _2 * _ONES >> _2 & _PAIR) | (odd + _2 * _ONES >> _2 & _PAIR) << _8
            width, height = w, h


@kernel
def _wrap(i, n, mode):  # type: ignore[no-untyped-def]
    if i >= 0 and i < n:
        return i
    if mode == 0:
        return i % n
    if mode == 1:
        return min(max(i, 0), n - 1)
    i = i % (2 * n)
    return i if i < n else 2 * n - 1 - i


@kernel
def sample(table, t, u, v, ux, uy, vx, vy):  # type: ignore[no-untyped-def]
    """Texture t at (u, v), as four sRGB bytes.

    The derivatives by the pixel's x and y span what a pixel is in the picture: the mip level follows the short side, and along the long
    side up to _MAX_TAPS looks are averaged.
    """
    w, h = table.size[t, 0], table.size[t, 1]
    if not (abs(u) < 1e6 and abs(v) < 1e6):
        return table.texels[table.offset[t, 0]]
    dx = (ux * w) * (ux * w) + (vx * h) * (vx * h)
    dy = (uy * w) * (uy * w) + (vy * h) * (vy * h)
    if dx >= dy:
        longer, shorter, du, dv = dx, dy, ux, vx
    else:
        longer, shorter, du, dv = dy, dx, uy, vy
    taps, shift = 1, np.uint32(0)
    while taps < _MAX_TAPS and longer > 1.0 and shorter * taps * taps < 0.5 * longer:
        taps *= 2
        shift += np.uint32(1)
    square = max(shorter, longer / (taps * taps))
    level = 0
    # texels up to half as large as the pixel: larger ones blur, since a bilinear look is two texels wide
    while square >= 4.0 and level + 1 < table.levels[t]:
        square *= 0.25
        level += 1
        w, h = max(w >> 1, 1), max(h >> 1, 1)
    if taps == 1:
        return _bilinear(table, t, level, w, h, u, v)
    if not abs(du) + abs(dv) < 1e6:
        du = dv = 0.0
    even = odd = np.uint32(0)
    for i in range(taps):
        d = (i + 0.5) / taps - 0.5
        c = _bilinear(table, t, level, w, h, u + d * du, v + d * dv)
        even += c & _PAIR
        odd += c >> _8 & _PAIR
    half = _ONES << shift >> np.uint32(1)
    return (even + half >> shift & _PAIR) | (odd + half >> shift & _PAIR) << _8


@kernel
def _bilinear(table, t, level, w, h, u, v):  # type: ignore[no-untyped-def]
    """Weights in steps of 1/256."""
    x = np.int64(np.floor((u * w - 0.5) * 256.0 + 0.5))
    y = np.int64(np.floor(((1.0 - v) * h - 0.5) * 256.0 + 0.5))
    ax, ay = np.uint32(x & 255), np.uint32(y & 255)
    x0, y0 = x >> 8, y >> 8
    x0, x1 = _wrap(x0, w, table.wrap[t, 0]), _wrap(x0 + 1, w, table.wrap[t, 0])
    y0, y1 = _wrap(y0, h, table.wrap[t, 1]), _wrap(y0 + 1, h, table.wrap[t, 1])
    row0, row1 = table.offset[t, level] + y0 * w, table.offset[t, level] + y1 * w
    upper = _mix(table.texels[np.uint64(row0 + x0)], table.texels[np.uint64(row0 + x1)], ax)
    return _mix(upper, _mix(table.texels[np.uint64(row1 + x0)], table.texels[np.uint64(row1 + x1)], ax), ay)


@kernel
def _mix(a, b, share):  # type: ignore[no-untyped-def]
    """share / 256 of texel b, the rest of a, rounded."""
    rest = np.uint32(256) - share
    even = (a & _PAIR) * rest + (b & _PAIR) * share + _HALF
    odd = (a >> _8 & _PAIR) * rest + (b >> _8 & _PAIR) * share + _HALF
    return (even >> _8 & _PAIR) | (odd & ~_PAIR)
