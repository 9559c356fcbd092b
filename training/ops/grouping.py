"""Patches of a cloud: the nearest points of centres that lie far apart."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor, nn

from training.ops.neighbors import _CANDIDATES, _LANES, _select
from training.ops.sampling import farthest_points
from training.ops.threads import in_threads

_CENTRES = 64  # centres of a cloud that are one unit of work
_MATRIX_ELEMENTS = 1 << 24  # distances at a time on other devices


@dataclass(frozen=True)
class Patches:
    """centres (B, G, 3); offsets (B, G, M, 3): each patch's points minus its centre, nearest first, not rescaled."""

    centres: Tensor
    offsets: Tensor


def make_patches(points: Tensor, groups: int, size: int, skip_origin: bool = False) -> Patches:
    """points (B, N, 3) -> the patches of `size` points nearest to each of `groups` farthest points, without gradient (methods-B, B.2.1).

    `farthest_points` says what `skip_origin` and copies of a point do. Raises ValueError unless 1 <= groups <= N and 1 <= size <= N.
    """
    points = points.detach()
    centres = gather_rows(points, farthest_points(points, groups, skip_origin))
    return Patches(centres, gather_rows(points, nearest(points, centres, size)) - centres[:, :, None])


def nearest(points: Tensor, centres: Tensor, k: int) -> Tensor:
    """points (B, N, 3), centres (B, G, 3) -> (B, G, k) int64 indices into N, nearest first, equal distances by index.

    Distances are sums of squared differences, in float32 at least. Points that are not finite come after those that are; which of them, or
    what index of a point stands for them, is not said. Raises ValueError unless 1 <= k <= N.
    """
    clouds, number, _ = points.shape
    if not 1 <= k <= number:
        raise ValueError(f"nearest points need 1 <= k <= number of points, got k={k} for {number} points: lower k or add points.")
    dtype = torch.float64 if torch.float64 in (points.dtype, centres.dtype) else torch.float32
    points, centres = points.detach().to(dtype), centres.detach().to(dtype)
    if points.device.type != "cpu":
        return _nearest_torch(points, centres, k)
    found = torch.zeros(clouds, centres.shape[1], k, dtype=torch.int64)
    units = clouds * -(-centres.shape[1] // _CENTRES)
    in_threads(_nearest, units, points.contiguous().numpy(), centres.contiguous().numpy(), found.numpy())
    return found


def gather_rows(x: Tensor, index: Tensor) -> Tensor:
    """x (B, N, C), index (B, ...) int64 -> (B, ..., C), x[b, index[b, ...]], differentiable to x.

    On a CPU the gradients of a row that is taken several times are added in an order that does not depend on the number of threads.
    """
    clouds, rows, _ = x.shape
    first = torch.arange(clouds, device=x.device).view(-1, *[1] * (index.dim() - 1)) * rows
    return nn.functional.embedding(index + first, x.flatten(0, 1))


def _nearest_torch(points: Tensor, centres: Tensor, k: int) -> Tensor:
    clouds, groups, _ = centres.shape
    number = points.shape[1]
    found = torch.empty(clouds, groups, k, dtype=torch.int64, device=points.device)
    rows = max(1, min(groups, _MATRIX_ELEMENTS // number))
    step = max(1, _MATRIX_ELEMENTS // (number * rows))
    for cloud in range(0, clouds, step):
        some = points[cloud : cloud + step, None]
        for row in range(0, groups, rows):
            to = centres[cloud : cloud + step, row : row + rows, None]
            squared = (some[..., 0] - to[..., 0]).square() + (some[..., 1] - to[..., 1]).square() + (some[..., 2] - to[..., 2]).square()
            squared = squared.nan_to_num_(nan=torch.inf, posinf=torch.inf)
            order = squared.argmin(-1, keepdim=True) if k == 1 else squared.sort(dim=-1, stable=True).indices[..., :k]
            found[cloud : cloud + step, row : row + rows] = order
    return found


@njit(cache=True, nogil=True, error_model="numpy")
def _nearest(first: int, last: int, points: Any, centres: Any, found: Any) -> None:
    _, number, _ = points.shape
    groups, k = found.shape[1:]
    width = -(-number // _LANES) * _LANES
    blocks = -(-groups // _CENTRES)
    columns = np.empty((3, width), points.dtype)
    columns[:, number:] = np.inf
    distances = np.empty(width, points.dtype)
    lowest, folded = np.empty(_LANES, points.dtype), np.empty(_LANES, points.dtype)
    counts = np.empty(_LANES, np.int32)
    values = np.empty(_CANDIDATES + max(width // _LANES, k) + 2, points.dtype)
    places = np.empty(values.size, np.int32)
    filled = -1
    for unit in range(first, last):
        cloud = unit // blocks
        if cloud != filled:
            filled = cloud
            for j in range(number):
                for c in range(3):
                    columns[c, j] = points[cloud, j, c]
        start = unit % blocks * _CENTRES
        for row in range(start, min(start + _CENTRES, groups)):
            x, y, z = centres[cloud, row]
            _squared_distances(columns, x, y, z, distances)
            _select(distances, k, found[cloud, row], lowest, folded, counts, values, places)


# no contraction to fused multiply-adds: it would round, and so choose, differently from host to host
@njit(nogil=True, error_model="numpy", inline="never")
def _squared_distances(columns: Any, x: Any, y: Any, z: Any, distances: Any) -> None:
    for j in range(distances.size):
        dx, dy, dz = columns[0, j] - x, columns[1, j] - y, columns[2, j] - z
        distances[j] = dx * dx + dy * dy + dz * dz
