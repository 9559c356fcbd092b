"""Clouds as `orbit.js` reads them: bytes as base64, at rest or in motion."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

POINTS = 1024
# Twelve colours for parts: dark enough for a light page, and a rim sets them off from a dark one.
PALETTE = ("1b6ca8", "d66020", "2a8a57", "9654be", "c4960a", "ca4680", "2796a5", "827060", "5b7fd6", "8fae1b", "e07a86", "3d4f5c")
HIDDEN = -128


@dataclass(frozen=True)
class Cloud:
    """base64 of int8 positions (127 = one radius), uint8 colours, normals and part numbers; "" where absent.

    With frames > 1 positions are those of one frame after the other, -128 for a point that is not there; parts are of each frame or, as
    colours, the same for all.
    """

    count: int
    points: str
    colors: str = ""
    normals: str = ""
    parts: str = ""
    frames: int = 1


def cloud(
    points: npt.NDArray[np.float32],
    colors: npt.NDArray[np.uint8] | None = None,
    normals: npt.NDArray[np.float32] | None = None,
    parts: npt.NDArray[np.int16] | None = None,
    *,
    most: int = POINTS,
    seed: int = 0,
) -> Cloud:
    """A cloud (N, 3) in the unit sphere with what belongs to its points, thinned to `most` points drawn by the seed."""
    pick = np.sort(np.random.Generator(np.random.PCG64(seed)).permutation(len(points))[:most])
    return Cloud(
        len(pick),
        _packed(_positions(points[pick])),
        _packed(colors[pick].astype(np.uint8)) if colors is not None else "",
        _packed(np.rint(np.clip(normals[pick], -1, 1) * 127.5 + 127.5).astype(np.uint8)) if normals is not None else "",
        _packed(_numbers(parts[pick])) if parts is not None else "",
    )


def moving_cloud(
    points: npt.NDArray[np.float32],
    parts: npt.NDArray[Any] | None = None,
    valid: npt.NDArray[np.bool_] | None = None,
    *,
    most: int = POINTS,
    seed: int = 0,
) -> Cloud:
    """A clip (T, N, 3) about the unit sphere with the parts (T, N) of its points, thinned to `most` points a frame drawn by the seed.

    The same columns of every frame are kept; where `valid` (T, N) says what repeats, of each frame those that do not. Points outside of
    the cube are left out.
    """
    frames, count = points.shape[:2]
    rng = np.random.Generator(np.random.PCG64(seed))
    pick = np.sort(rng.permutation(count)[:most])[None].repeat(frames, axis=0)
    if valid is not None:
        # columns in an order drawn anew, those that count before those that do not
        order = rng.permutation(count)
        pick = order[np.argsort(~valid[:, order], axis=1, kind="stable")][:, : min(most, max(1, int(valid.sum(axis=1).max())))]
    kept = np.take_along_axis(points, pick[:, :, None], axis=1)
    packed = _positions(kept)
    there = (np.abs(kept) <= 1).all(axis=2)
    if valid is not None:
        there &= np.take_along_axis(valid, pick, axis=1)
    packed[~there] = HIDDEN
    numbers = None if parts is None else _numbers(np.take_along_axis(parts, pick, axis=1))
    if numbers is not None and (numbers == numbers[:1]).all():
        numbers = numbers[:1]
    return Cloud(pick.shape[1], _packed(packed), parts="" if numbers is None else _packed(numbers), frames=frames)


def _positions(points: npt.NDArray[np.float32]) -> npt.NDArray[np.int8]:
    return np.rint(np.clip(points, -1, 1) * 127).astype(np.int8)


def _numbers(parts: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    # 255 stands for a point without a part
    return np.where(parts < 0, 255, parts % 255).astype(np.uint8)


def _packed(array: npt.NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
