"""Textures for the rasteriser: mip levels of all of a mesh's textures in one flat array, bilinear look-up in linear light."""

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
    """texels (T, 4) uint8 sRGB: every level of every texture; offset (N, 16) int64 where each level starts; size (N, 2) int64 width and
    height of level 0; levels (N,) int64; wrap (N, 2) int64, 0 repeat, 1 clamp, 2 mirror."""

    texels: npt.NDArray[np.uint8]
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
        np.empty((0, 4), np.uint8),
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
    texels = np.empty((total, 4), np.uint8)
    for t, material in enumerate(found):
        assert material.texture is not None
        start, size = table.offset[t, 0], table.size[t, 0] * table.size[t, 1]
        texels[start : start + size] = material.texture.reshape(-1, 4)
    return table._replace(texels=texels), which


@kernel
def build_levels(table, to_linear, to_srgb):  # type: ignore[no-untyped-def]
    """Each level from the one before, four texels to one in linear light; the last row or column of an odd size is left out."""
    scale = np.float32(0.25 * (to_srgb.shape[0] - 1))
    half = np.float32(0.5)
    q = table.texels
    for t in range(table.size.shape[0]):
        width, height = table.size[t, 0], table.size[t, 1]
        for level in range(1, table.levels[t]):
            source, target = table.offset[t, level - 1], table.offset[t, level]
            w, h = max(width >> 1, 1), max(height >> 1, 1)
            dx = 1 if width > 1 else 0
            dy = width if height > 1 else 0
            for y in range(h):
                for x in range(w):
                    k = source + 2 * y * width + 2 * x
                    for c in range(3):
                        mean = (to_linear[q[k, c]] + to_linear[q[k + dx, c]]) + (to_linear[q[k + dy, c]] + to_linear[q[k + dx + dy, c]])
                        q[target, c] = to_srgb[np.int64(mean * scale + half)]
                    target += 1
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
def sample(table, t, u, v, ux, uy, vx, vy, to_linear):  # type: ignore[no-untyped-def]
    """Linear colour of texture t at (u, v); the derivatives by the pixel's x and y choose the mip level."""
    w, h = table.size[t, 0], table.size[t, 1]
    if not (abs(u) < 1e6 and abs(v) < 1e6):
        u, v = 0.0, 0.0
    dx = (ux * w) * (ux * w) + (vx * h) * (vx * h)
    dy = (uy * w) * (uy * w) + (vy * h) * (vy * h)
    MODE = "aniso"
    if MODE == "aniso":
        if dx >= dy:
            major, minor, au, av = dx, dy, ux, vx
        else:
            major, minor, au, av = dy, dx, uy, vy
        taps = 1
        while taps < 8 and minor * taps * taps < 0.7*major and major > 1.0:
            taps += 1
        square = max(minor, major / (taps * taps))
    else:
        square = max(dx, dy)
    level = 0
    while square >= 2.0 and level + 1 < table.levels[t]:
        square *= 0.25
        level += 1
        w, h = max(w >> 1, 1), max(h >> 1, 1)
    if MODE == "aniso":
        if taps == 1:
            return _bilinear(table, t, level, w, h, u, v, to_linear)
        r = g = b = np.float32(0.0)
        for i in range(taps):
            d = (i + 0.5) / taps - 0.5
            a0, a1, a2 = _bilinear(table, t, level, w, h, u + d * au, v + d * av, to_linear)
            r += a0
            g += a1
            b += a2
        k = np.float32(1.0 / taps)
        return r * k, g * k, b * k
    else:
        if square < 0.25:
            return _bilinear(table, t, level, w, h, u, v, to_linear)
        r = g = b = np.float32(0.0)
        for i in range(4):
            ox = -0.125 if i == 0 else 0.375 if i == 1 else -0.375 if i == 2 else 0.125
            oy = -0.375 if i == 0 else -0.125 if i == 1 else 0.125 if i == 2 else 0.375
            a0, a1, a2 = _bilinear(table, t, level, w, h, u + ox * ux + oy * uy, v + ox * vx + oy * vy, to_linear)
            r += a0
            g += a1
            b += a2
        k = np.float32(0.25)
        return r * k, g * k, b * k


@kernel
def _bilinear(table, t, level, w, h, u, v, to_linear):  # type: ignore[no-untyped-def]
    x = u * w - 0.5
    y = (1.0 - v) * h - 0.5
    fx, fy = np.floor(x), np.floor(y)
    ax, ay = np.float32(x - fx), np.float32(y - fy)
    ix, iy = np.int64(fx), np.int64(fy)
    x0, x1 = _wrap(ix, w, table.wrap[t, 0]), _wrap(ix + 1, w, table.wrap[t, 0])
    y0, y1 = _wrap(iy, h, table.wrap[t, 1]), _wrap(iy + 1, h, table.wrap[t, 1])
    row0, row1 = table.offset[t, level] + y0 * w, table.offset[t, level] + y1 * w
    k00, k01, k10, k11 = row0 + x0, row0 + x1, row1 + x0, row1 + x1
    one = np.float32(1.0)
    w00, w01, w10, w11 = (one - ax) * (one - ay), ax * (one - ay), (one - ax) * ay, ax * ay
    q = table.texels
    r = w00 * to_linear[q[k00, 0]] + w01 * to_linear[q[k01, 0]] + w10 * to_linear[q[k10, 0]] + w11 * to_linear[q[k11, 0]]
    g = w00 * to_linear[q[k00, 1]] + w01 * to_linear[q[k01, 1]] + w10 * to_linear[q[k10, 1]] + w11 * to_linear[q[k11, 1]]
    b = w00 * to_linear[q[k00, 2]] + w01 * to_linear[q[k01, 2]] + w10 * to_linear[q[k10, 2]] + w11 * to_linear[q[k11, 2]]
    return r, g, b
