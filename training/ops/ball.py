"""Points inside balls, as the CUDA kernel that published point networks share picks them (methods-C, C.2.1)."""

from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from training.ops.threads import in_threads

_BLOCK = 64  # points that are measured at once before the ball is asked whether it is full
_MATRIX_ELEMENTS = 1 << 24  # distances at a time on other devices


def ball_query(points: Tensor, centres: Tensor, radius: float, k: int) -> Tensor:
    """points (B, N, 3), centres (B, G, 3) -> (B, G, k) int64: the first k points, by index, nearer to the centre than `radius`.

    Not the nearest k. Where there are fewer, the first found fills the rest; where there is none, index 0 does. Nearer is d² < r², both in
    the points' dtype, of float32 at least; a point that is not finite is in no ball. Raises ValueError where k < 1 or there are no points.
    """
    return ball_query_in(points, centres, torch.arange(len(points), device=points.device)[:, None], radius, k)[:, :, 0]


def ball_query_in(points: Tensor, centres: Tensor, which: Tensor, radius: float, k: int) -> Tensor:
    """points (F, N, 3), centres (P, G, 3), which (P, m) int64 -> (P, G, m, k): of p's centres, the m balls in clouds points[which[p]]."""
    number = points.shape[1]
    if k < 1 or number < 1:
        raise ValueError(f"A ball query needs k >= 1 and a point, got k={k} for {number} points: raise k or add points.")
    dtype = torch.float64 if torch.float64 in (points.dtype, centres.dtype) else torch.float32
    points, centres = points.detach().to(dtype), centres.detach().to(dtype)
    limit = torch.tensor(radius, dtype=dtype).square().item()
    if points.device.type != "cpu":
        return _ball_torch(points, centres, which, limit, k)
    found = torch.empty(*centres.shape[:2], which.shape[1], k, dtype=torch.int64)
    arrays = [tensor.contiguous().numpy() for tensor in (points, centres, which)]
    in_threads(_ball, which.numel(), *arrays, limit, found.numpy())
    return found


def _ball_torch(points: Tensor, centres: Tensor, which: Tensor, limit: float, k: int) -> Tensor:
    number = points.shape[1]
    groups, balls = centres.shape[1], which.shape[1]
    order = torch.arange(number, device=points.device)
    kept = min(k, number)
    found = torch.empty(len(centres), groups, balls, k, dtype=torch.int64, device=points.device)
    rows = max(1, min(groups, _MATRIX_ELEMENTS // number))
    step = max(1, _MATRIX_ELEMENTS // (number * rows))
    for ball in range(balls):
        for start in range(0, len(centres), step):
            some = points[which[start : start + step, ball].to(points.device), None]
            for row in range(0, groups, rows):
                apart = some - centres[start : start + step, row : row + rows, None]
                squared = apart[..., 0].square() + apart[..., 1].square() + apart[..., 2].square()
                first = torch.where(squared < limit, order, number).topk(kept, dim=-1, largest=False, sorted=True).values
                filler = torch.where(first[..., :1] < number, first[..., :1], 0)
                out = found[start : start + step, row : row + rows, ball]
                out[..., :kept] = torch.where(first < number, first, filler)
                out[..., kept:] = filler
    return found


@njit(cache=True, nogil=True, error_model="numpy")
def _ball(first: int, last: int, points: Any, centres: Any, which: Any, limit: float, found: Any) -> None:
    _, number, _ = points.shape
    _, groups, balls, k = found.shape
    blocks = -(-number // _BLOCK)
    columns = np.full((blocks, 3, _BLOCK), np.inf, points.dtype)
    squared = np.empty(_BLOCK, points.dtype)
    edge = points.dtype.type(limit)
    filled = -1
    for unit in range(first, last):
        place, ball = unit // balls, unit % balls
        frame = which[place, ball]
        if frame != filled:
            filled = frame
            for j in range(number):
                for c in range(3):
                    columns[j // _BLOCK, c, j % _BLOCK] = points[frame, j, c]
        for group in range(groups):
            x, y, z = centres[place, group]
            row = found[place, group, ball]
            count = 0
            for block in range(blocks):
                inside = _measure(columns[block], x, y, z, edge, squared)
                if inside == 0:
                    continue
                for lane in range(_BLOCK):
                    if squared[lane] < edge:
                        row[count] = block * _BLOCK + lane
                        count += 1
                        if count == k:
                            break
                if count == k:
                    break
            filler = row[0] if count else 0
            for slot in range(count, k):
                row[slot] = filler


# no contraction to fused multiply-adds: it would round, and so choose, differently from host to host
@njit(nogil=True, error_model="numpy", inline="never")
def _measure(columns: Any, x: Any, y: Any, z: Any, edge: Any, squared: Any) -> Any:
    """Squared distances of a block, and how many are below `edge`."""
    inside = np.int32(0)
    for lane in range(_BLOCK):
        dx, dy, dz = columns[0, lane] - x, columns[1, lane] - y, columns[2, lane] - z
        squared[lane] = dx * dx + dy * dy + dz * dz
        inside += np.int32(squared[lane] < edge)
    return inside
