"""k nearest neighbours within each cloud of a batch.

Distances rank as ‖x_j‖²/2 − x_i·x_j about the cloud's mean, which keeps the rounding error between neighbouring points small. On a CPU one
kernel does all of it a few rows at a time, so that no (N, N) matrix is ever in memory: four rows of distances; then a bound on the k-th
smallest from the minima of interleaved groups of columns, which leaves little more than k candidates; then their ranks by counting.
"""

from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from training.ops.threads import in_threads

_LANES = 128  # groups of columns: column j is in group j % _LANES
_CANDIDATES = 192  # above this many, as among copies of one point, a plain scan is cheaper
_ROWS = 256  # rows of a cloud that are one unit of work
_MATRIX_BYTES = 1 << 28  # distances at a time on other devices


def knn(x: Tensor, k: int) -> Tensor:
    """Neighbours of each point: x (B, N, C), float32 or float64 on a CPU -> (B, N, k) int64 indices into N, nearest first.

    A point is its own first neighbour. Equal distances go by index on a CPU; elsewhere the order among them is that of torch's `topk`.
    Distances are in float32 at least, under autocast too. Where coordinates are not finite, the point itself stands for missing neighbours.
    Raises ValueError unless 1 <= k <= N.
    """
    clouds, points, _ = x.shape
    if not 1 <= k <= points:
        raise ValueError(f"nearest neighbours need 1 <= k <= number of points, got k={k} for {points} points: lower k or add points.")
    x = x.detach()
    x = x if x.dtype == torch.float64 else x.float()
    x = x - x.mean(1, keepdim=True)
    if x.device.type != "cpu":
        with torch.autocast(x.device.type, enabled=False):
            return _knn_torch(x, k)
    neighbors = torch.empty(clouds, points, k, dtype=torch.int64)
    blocks = -(-points // _ROWS)
    in_threads(_knn_rows, clouds * blocks, x.contiguous().numpy(), neighbors.numpy())
    return neighbors


def _knn_torch(x: Tensor, k: int) -> Tensor:
    clouds, points, _ = x.shape
    found = torch.empty(clouds, points, k, dtype=torch.int64, device=x.device)
    step = max(1, _MATRIX_BYTES // (points * points * x.element_size()))
    for first in range(0, clouds, step):
        part = x[first : first + step]
        scores = torch.baddbmm(part.square().sum(-1)[:, None, :] / -2, part, part.transpose(1, 2))
        scores.diagonal(dim1=1, dim2=2).fill_(torch.inf)
        found[first : first + step] = scores.topk(k, dim=-1).indices
    return found


@njit(cache=True, nogil=True, error_model="numpy")
def _knn_rows(first: int, last: int, x: Any, neighbors: Any) -> None:
    _, points, channels = x.shape
    k = neighbors.shape[2]
    width = -(-points // _LANES) * _LANES
    blocks = -(-points // _ROWS)
    columns = np.zeros((channels, width), x.dtype)
    half = np.empty(width, x.dtype)
    distances = np.empty((4, width), x.dtype)
    lowest = np.empty(_LANES, x.dtype)
    folded = np.empty(_LANES, x.dtype)
    counts = np.empty(_LANES, np.int32)
    values = np.empty(_CANDIDATES + max(width // _LANES, k) + 2, x.dtype)
    places = np.empty(values.size, np.int32)
    filled = -1
    for unit in range(first, last):
        cloud = unit // blocks
        if cloud != filled:
            filled = cloud
            half[:points] = 0
            half[points:] = np.inf
            for c in range(channels):
                for j in range(points):
                    columns[c, j] = x[cloud, j, c]
                    half[j] += columns[c, j] * columns[c, j] * 0.5
        start = unit % blocks * _ROWS
        stop = min(start + _ROWS, points)
        for i in range(start, stop, 4):
            _four_rows(columns, half, i, distances)
            for row in range(i, min(i + 4, stop)):
                distances[row - i, row] = -np.inf
                neighbors[cloud, row, :] = row
                _select(distances[row - i], k, neighbors[cloud, row], lowest, folded, counts, values, places)


@njit(nogil=True, error_model="numpy", fastmath={"contract"}, inline="never")
def _four_rows(x: Any, half: Any, i: int, d: Any) -> None:
    """d[r, j] = half[j] − x[:, i + r]·x[:, j], four channels a pass: the arithmetic, not the memory, sets the pace."""
    channels, width = x.shape
    for j in range(width):
        d[0, j] = d[1, j] = d[2, j] = d[3, j] = half[j]
    whole = channels // 4 * 4
    for c in range(0, whole, 4):
        p0, p1, p2, p3 = x[c, i], x[c + 1, i], x[c + 2, i], x[c + 3, i]
        q0, q1, q2, q3 = x[c, i + 1], x[c + 1, i + 1], x[c + 2, i + 1], x[c + 3, i + 1]
        r0, r1, r2, r3 = x[c, i + 2], x[c + 1, i + 2], x[c + 2, i + 2], x[c + 3, i + 2]
        s0, s1, s2, s3 = x[c, i + 3], x[c + 1, i + 3], x[c + 2, i + 3], x[c + 3, i + 3]
        for j in range(width):
            t0, t1, t2, t3 = x[c, j], x[c + 1, j], x[c + 2, j], x[c + 3, j]
            d[0, j] = d[0, j] - p0 * t0 - p1 * t1 - p2 * t2 - p3 * t3
            d[1, j] = d[1, j] - q0 * t0 - q1 * t1 - q2 * t2 - q3 * t3
            d[2, j] = d[2, j] - r0 * t0 - r1 * t1 - r2 * t2 - r3 * t3
            d[3, j] = d[3, j] - s0 * t0 - s1 * t1 - s2 * t2 - s3 * t3
    for c in range(whole, channels):
        p0, q0, r0, s0 = x[c, i], x[c, i + 1], x[c, i + 2], x[c, i + 3]
        for j in range(width):
            t0 = x[c, j]
            d[0, j] -= p0 * t0
            d[1, j] -= q0 * t0
            d[2, j] -= r0 * t0
            d[3, j] -= s0 * t0


@njit(nogil=True, error_model="numpy", inline="never")
def _select(d: Any, k: int, out: Any, lowest: Any, folded: Any, counts: Any, values: Any, places: Any) -> None:
    """out = indices of the k smallest of d, ascending, equal ones by index; entries stay as they are where fewer are finite."""
    groups = 32 if k <= 20 else (64 if k <= 48 else _LANES)
    if k > 100:
        _scan(d, k, out, values)
        return
    _group_minima(d, lowest, folded, groups)
    bound = _kth_smallest(folded, groups, k, counts)
    found = 0
    for lane in range(_LANES):
        if lowest[lane] <= bound:
            for j in range(lane, d.size, _LANES):
                values[found] = d[j]
                places[found] = j
                found += d[j] <= bound
            if found > _CANDIDATES:
                break
    equal = 0
    if found > _CANDIDATES:
        # many at the bound itself, as where points are copies of one: of these only the first few are wanted
        found = 0
        for j in range(d.size):
            values[found] = d[j]
            places[found] = j
            found = min(found + (d[j] < bound), _CANDIDATES)
            places[_CANDIDATES + 1 + equal] = j
            equal = min(equal + (d[j] == bound), k)
        if found == _CANDIDATES:
            _scan(d, k, out, values)
            return
    for a in range(found):
        value, place = values[a], places[a]
        rank: Any = np.int32(0)
        for b in range(found):
            rank += np.int32((values[b] < value) | ((values[b] == value) & (places[b] < place)))
        if rank < k and value < np.inf:
            out[rank] = place
    if bound < np.inf:
        for rank in range(found, min(k, found + equal)):
            out[rank] = places[_CANDIDATES + 1 + rank - found]


@njit(nogil=True, error_model="numpy", fastmath={"nnan", "nsz"}, inline="never")
def _group_minima(d: Any, lowest: Any, folded: Any, groups: int) -> None:
    """Minima of the _LANES interleaved groups of d, and of `groups` (a divisor of _LANES) larger ones."""
    for lane in range(_LANES):
        lowest[lane] = d[lane]
    for j in range(_LANES, d.size, _LANES):
        for lane in range(_LANES):
            lowest[lane] = min(lowest[lane], d[j + lane])
    for lane in range(groups):
        folded[lane] = lowest[lane]
    for j in range(groups, _LANES, groups):
        for lane in range(groups):
            folded[lane] = min(folded[lane], lowest[j + lane])


@njit(nogil=True, error_model="numpy", fastmath={"nnan", "nsz"}, inline="never")
def _kth_smallest(values: Any, size: int, k: int, counts: Any) -> Any:
    """The k-th smallest of the first `size` (a multiple of 4) values, by counting for each how many are smaller."""
    for a in range(size):
        counts[a] = 0
    for b in range(0, size, 4):
        v0, v1, v2, v3 = values[b], values[b + 1], values[b + 2], values[b + 3]
        for a in range(size):
            v = values[a]
            counts[a] += np.int32(v0 < v) + np.int32(v1 < v) + np.int32(v2 < v) + np.int32(v3 < v)
    none = values.dtype.type(-np.inf)
    kth = none
    for a in range(size):
        kth = max(kth, values[a] if counts[a] < k else none)
    return kth


@njit(nogil=True, error_model="numpy", inline="never")
def _scan(d: Any, k: int, out: Any, best: Any) -> None:
    """The same as `_select` by insertion in the order of the indices: fast where most distances are equal or k is large."""
    found = 0
    for j in range(d.size):
        value = d[j]
        if value < (best[k - 1] if found == k else np.inf):
            found = min(found + 1, k)
            t = found - 1
            while t > 0 and best[t - 1] > value:
                best[t] = best[t - 1]
                out[t] = out[t - 1]
                t -= 1
            best[t] = value
            out[t] = j
