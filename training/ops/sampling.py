"""Farthest point sampling."""

from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from training.ops.threads import in_threads

_LANES = 32  # point j is in group j % _LANES; the groups' largest distances say where to look for the farthest point
_NEAR_ORIGIN = 1e-3  # squared norm up to which `skip_origin` leaves a point out


def farthest_points(points: Tensor, count: int, skip_origin: bool = False) -> Tensor:
    """Indices of points far apart, each the farthest from those before it: points (B, N, 3) -> (B, count) int64, beginning with 0.

    Of equally far points the first is taken; once every distance is 0, as among copies of fewer than `count` points, that is index 0 again.
    A point that is not finite is never taken, unless it is the one with index 0, which then counts as lying at the origin.
    With `skip_origin` points of squared norm up to 1e-3 are not taken either, index 0 excepted: the habit of the CUDA kernel that the
    published point transformers use (methods-B, B.2.1). When only such points are left, the first of the others is repeated, or index 0
    where there are no others. The same points give the same indices on every CPU. Raises ValueError unless 1 <= count <= N.
    """
    clouds, number, _ = points.shape
    if not 1 <= count <= number:
        raise ValueError(
            f"farthest points need 1 <= count <= number of points, got count={count} for {number} points: lower count or add points."
        )
    points = points.detach()
    points = points if points.dtype == torch.float64 else points.float()
    finite = points.isfinite().all(-1)
    points = torch.where(finite[..., None], points, 0)
    allowed = finite & (points.square().sum(-1) > _NEAR_ORIGIN) if skip_origin else finite
    if points.device.type != "cpu":
        return _farthest_torch(points, allowed, count)
    found = torch.empty(clouds, count, dtype=torch.int64)
    in_threads(_farthest, clouds, points.contiguous().numpy(), allowed.numpy(), found.numpy())
    return found


def _farthest_torch(points: Tensor, allowed: Tensor, count: int) -> Tensor:
    distances = torch.where(allowed, torch.inf, -1.0).to(points.dtype)
    found = torch.zeros(len(points), count, dtype=torch.int64, device=points.device)
    for step in range(1, count):
        latest = points.gather(1, found[:, step - 1, None, None].expand(-1, 1, 3))
        distances = torch.minimum(distances, (points - latest).square().sum(-1))
        found[:, step] = distances.argmax(1)
    return found


@njit(cache=True, nogil=True, error_model="numpy")
def _farthest(first: int, last: int, points: Any, allowed: Any, found: Any) -> None:
    _, number, _ = points.shape
    rows = -(-number // _LANES)
    columns = np.zeros((3, rows, _LANES), points.dtype)
    distances = np.empty((rows, _LANES), points.dtype)
    highest = np.empty(_LANES, points.dtype)
    for cloud in range(first, last):
        distances[:] = -1
        for j in range(number):
            for c in range(3):
                columns[c, j // _LANES, j % _LANES] = points[cloud, j, c]
            if allowed[cloud, j]:
                distances[j // _LANES, j % _LANES] = np.inf
        found[cloud, 0] = 0
        for step in range(1, found.shape[1]):
            x, y, z = points[cloud, found[cloud, step - 1]]
            _come_nearer(columns, x, y, z, distances, highest)
            most = highest.max()
            found[cloud, step] = number
            for lane in range(_LANES):
                if highest[lane] == most:
                    row = 0
                    while distances[row, lane] != most:
                        row += 1
                    found[cloud, step] = min(found[cloud, step], row * _LANES + lane)


# no contraction to fused multiply-adds: it would round, and so choose, differently from host to host
@njit(nogil=True, error_model="numpy", fastmath={"nnan", "nsz"}, inline="never")
def _come_nearer(columns: Any, x: Any, y: Any, z: Any, distances: Any, highest: Any) -> None:
    """Lowers the distances to those from (x, y, z), and takes the largest of each group."""
    for lane in range(_LANES):
        highest[lane] = -1
    for row in range(distances.shape[0]):
        for lane in range(_LANES):
            dx, dy, dz = columns[0, row, lane] - x, columns[1, row, lane] - y, columns[2, row, lane] - z
            distances[row, lane] = min(distances[row, lane], dx * dx + dy * dy + dz * dz)
            highest[lane] = max(highest[lane], distances[row, lane])
