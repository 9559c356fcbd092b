"""Features of points from those of the three nearest centres.

    f(x) = Σ w_k f_k / Σ w_k over the three centres c_k nearest to x,   w_k = 1 / (‖x − c_k‖² + 1e-8)

The weights are those of squared distances, as PointNet++ has them with its exponent of 2 and as the part segmentation of the published
point transformers does; a common PyTorch port of PointNet++ takes the root first [ours: the square]. With `root` they are
1 / (‖x − c_k‖ + 1e-8), which the published networks on point-cloud videos have (methods-C, C.2.2).
"""

from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor, nn

from training.ops.grouping import gather_rows, nearest
from training.ops.threads import in_threads

_LANES = 64  # points whose nearest centres are sought side by side
_FLOOR = 1e-8  # keeps the weight of a centre that coincides with the point finite


def three_nearest(points: Tensor, centres: Tensor, features: Tensor, root: bool = False) -> Tensor:
    """points (B, N, 3), centres (B, G, 3), features (B, G, C) -> (B, N, C), differentiable to the features alone.

    Of equally near centres the first count; of fewer than three all do. Distances and weights are of float32 at least, the result has the
    features' dtype. Points that are not finite get features that are not. Raises ValueError without centres.
    """
    if centres.shape[1] == 0:
        raise ValueError("Interpolation from the nearest centres needs at least one centre, got none.")
    dtype = torch.float64 if torch.float64 in (points.dtype, centres.dtype) else torch.float32
    points, centres = points.detach().to(dtype), centres.detach().to(dtype)
    index, weights = (_three if points.device.type == "cpu" else _three_torch)(points, centres, root)
    clouds, groups, channels = features.shape
    rows = (index + torch.arange(clouds, device=index.device).view(-1, 1, 1) * groups).flatten(0, 1)
    kept = features.flatten(0, 1)
    summed = nn.functional.embedding_bag(rows, kept, mode="sum", per_sample_weights=weights.flatten(0, 1).to(features.dtype))
    return summed.view(clouds, -1, channels)


def _three(points: Tensor, centres: Tensor, root: bool) -> tuple[Tensor, Tensor]:
    clouds, number, _ = points.shape
    kept = min(3, centres.shape[1])
    index = torch.empty(clouds, number, kept, dtype=torch.int64)
    weights = points.new_empty(clouds, number, kept)
    blocks = -(-number // _LANES)
    arrays = [tensor.contiguous().numpy() for tensor in (points, centres)]
    in_threads(_weigh, clouds * blocks, *arrays, root, index.numpy(), weights.numpy())
    return index, weights


def _three_torch(points: Tensor, centres: Tensor, root: bool) -> tuple[Tensor, Tensor]:
    index = nearest(centres, points, min(3, centres.shape[1]))
    apart = (gather_rows(centres, index) - points[:, :, None]).square().sum(-1)
    weights = 1 / ((apart.sqrt() if root else apart) + _FLOOR)
    return index, weights / weights.sum(-1, keepdim=True)


@njit(cache=True, nogil=True, error_model="numpy")
def _weigh(first: int, last: int, points: Any, centres: Any, root: bool, index: Any, weights: Any) -> None:
    _, number, kept = index.shape
    blocks = -(-number // _LANES)
    columns = np.zeros((3, _LANES), points.dtype)
    best = np.empty((3, _LANES), points.dtype)
    place = np.empty((3, _LANES), np.int32)
    floor = points.dtype.type(_FLOOR)
    one = points.dtype.type(1)
    for unit in range(first, last):
        cloud, start = unit // blocks, unit % blocks * _LANES
        wanted = min(_LANES, number - start)
        for lane in range(wanted):
            for c in range(3):
                columns[c, lane] = points[cloud, start + lane, c]
        _three_side_by_side(columns, centres[cloud], best, place)
        for lane in range(wanted):
            total = points.dtype.type(0)
            for k in range(kept):
                apart = np.sqrt(best[k, lane]) if root else best[k, lane]
                weight = one / (apart + floor)
                weights[cloud, start + lane, k] = weight
                index[cloud, start + lane, k] = place[k, lane]
                total += weight
            for k in range(kept):
                weights[cloud, start + lane, k] /= total


@njit(nogil=True, error_model="numpy", inline="never")
def _three_side_by_side(columns: Any, centres: Any, best: Any, place: Any) -> None:
    """For each column, its three smallest squared distances to rows of `centres`, and the rows, the first ones of equal distances."""
    for k in range(3):
        for lane in range(_LANES):
            best[k, lane] = np.inf
            place[k, lane] = 0
    for j in range(centres.shape[0]):
        x, y, z = centres[j, 0], centres[j, 1], centres[j, 2]
        row = np.int32(j)
        for lane in range(_LANES):
            dx, dy, dz = columns[0, lane] - x, columns[1, lane] - y, columns[2, lane] - z
            d = dx * dx + dy * dy + dz * dz
            b0, b1, b2 = best[0, lane], best[1, lane], best[2, lane]
            p0, p1, p2 = place[0, lane], place[1, lane], place[2, lane]
            best[2, lane] = b1 if d < b1 else (d if d < b2 else b2)
            place[2, lane] = p1 if d < b1 else (row if d < b2 else p2)
            best[1, lane] = b0 if d < b0 else (d if d < b1 else b1)
            place[1, lane] = p0 if d < b0 else (row if d < b1 else p1)
            best[0, lane] = d if d < b0 else b0
            place[0, lane] = row if d < b0 else p0
