"""Chamfer distances of small sets of points, many pairs of sets at a time.

    d_a(i) = min_j ‖a_i − b_j‖²,   d_b(j) = min_i ‖a_i − b_j‖²,   ∂d_a(i)/∂a_i = 2 (a_i − b_n(i)) = −∂d_a(i)/∂b_n(i)

with n(i) the nearest, the first of equally near ones. On a CPU one kernel finds distances and nearest, and one adds the gradients: a matrix
of all distances is never in memory. Other devices hold a bounded part of it.
"""

from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor
from torch.autograd.function import once_differentiable

from training.ops.grouping import gather_rows, nearest
from training.ops.threads import in_threads

_LANES = 32  # points whose nearest is sought side by side
_ROOT_FLOOR = 1e-12  # added below the root, whose slope at 0 is infinite


def chamfer_l1(a: Tensor, b: Tensor) -> Tensor:
    """½ (mean √d_a + mean √d_b): a (R, M, 3), b (R, K, 3) -> (R,) (methods-B, B.2.2).

    The roots are of d + 1e-12 [ours], so that gradients stay finite where points coincide.
    """
    d_a, d_b = nearest_squared(a, b)
    return ((d_a + _ROOT_FLOOR).sqrt().mean(1) + (d_b + _ROOT_FLOOR).sqrt().mean(1)) / 2


def chamfer_l2(a: Tensor, b: Tensor) -> Tensor:
    """mean d_a + mean d_b: a (R, M, 3), b (R, K, 3) -> (R,) (methods-B, B.2.2)."""
    d_a, d_b = nearest_squared(a, b)
    return d_a.mean(1) + d_b.mean(1)


def nearest_squared(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distance from each point to the nearest of the other set: a (R, M, 3), b (R, K, 3) -> d_a (R, M), d_b (R, K).

    Differentiable once, to both. Computed in float32 at least, under autocast too. A point that is not finite has a distance that is not
    finite, and is nobody's nearest. Raises ValueError where a set is empty.
    """
    if a.shape[1] == 0 or b.shape[1] == 0:
        raise ValueError(f"Chamfer distances need points in both sets, got {a.shape[1]} and {b.shape[1]}: leave empty sets out.")
    dtype = torch.float64 if torch.float64 in (a.dtype, b.dtype) else torch.float32
    a, b = a.to(dtype), b.to(dtype)
    if a.device.type != "cpu":
        return _to_nearest(a, b), _to_nearest(b, a)
    return _NearestSquared.apply(a.contiguous(), b.contiguous())  # type: ignore[no-untyped-call, no-any-return]


def _to_nearest(a: Tensor, b: Tensor) -> Tensor:
    return (a - gather_rows(b, nearest(b, a, 1).squeeze(-1))).square().sum(-1)


class _NearestSquared(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        d_a, d_b = a.new_empty(a.shape[:2]), b.new_empty(b.shape[:2])
        n_a, n_b = torch.empty(a.shape[:2], dtype=torch.int32), torch.empty(b.shape[:2], dtype=torch.int32)
        arrays = [tensor.detach().numpy() for tensor in (a, b, d_a, d_b, n_a, n_b)]
        in_threads(_distances, len(a), *arrays)
        ctx.save_for_backward(a, b, n_a, n_b)
        return d_a, d_b

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_d_a: Tensor, to_d_b: Tensor) -> tuple[Tensor, Tensor]:
        a, b, n_a, n_b = ctx.saved_tensors
        to_a, to_b = torch.empty_like(a), torch.empty_like(b)
        arrays = [tensor.detach().contiguous().numpy() for tensor in (a, b, n_a, n_b, to_d_a, to_d_b, to_a, to_b)]
        in_threads(_gradients, len(a), *arrays)
        return to_a, to_b


@njit(cache=True, nogil=True, error_model="numpy")
def _distances(first: int, last: int, a: Any, b: Any, d_a: Any, d_b: Any, n_a: Any, n_b: Any) -> None:
    columns = np.zeros((3, _LANES), a.dtype)
    best = np.empty(_LANES, a.dtype)
    place = np.empty(_LANES, np.int32)
    for pair in range(first, last):
        _search(a[pair], b[pair], d_a[pair], n_a[pair], columns, best, place)
        _search(b[pair], a[pair], d_b[pair], n_b[pair], columns, best, place)


@njit(nogil=True, error_model="numpy", inline="never")
def _search(a: Any, b: Any, d: Any, n: Any, columns: Any, best: Any, place: Any) -> None:
    points = a.shape[0]
    for start in range(0, points, _LANES):
        wanted = min(_LANES, points - start)
        for lane in range(wanted):
            for c in range(3):
                columns[c, lane] = a[start + lane, c]
        _side_by_side(columns, b, best, place)
        for lane in range(wanted):
            i, j = start + lane, place[lane]
            n[i] = j
            dx, dy, dz = a[i, 0] - b[j, 0], a[i, 1] - b[j, 1], a[i, 2] - b[j, 2]
            d[i] = dx * dx + dy * dy + dz * dz


@njit(nogil=True, error_model="numpy", inline="never")
def _side_by_side(columns: Any, b: Any, best: Any, place: Any) -> None:
    """For each column, its smallest squared distance to a row of b, and the first row that has it."""
    for lane in range(_LANES):
        best[lane] = np.inf
        place[lane] = 0
    for j in range(b.shape[0]):
        x, y, z = b[j, 0], b[j, 1], b[j, 2]
        row = np.int32(j)
        for lane in range(_LANES):
            dx, dy, dz = columns[0, lane] - x, columns[1, lane] - y, columns[2, lane] - z
            d = dx * dx + dy * dy + dz * dz
            nearer = d < best[lane]
            best[lane] = d if nearer else best[lane]
            place[lane] = row if nearer else place[lane]


@njit(cache=True, nogil=True, error_model="numpy")
def _gradients(first: int, last: int, a: Any, b: Any, n_a: Any, n_b: Any, to_d_a: Any, to_d_b: Any, to_a: Any, to_b: Any) -> None:
    two = a.dtype.type(2)
    for pair in range(first, last):
        to_a[pair] = 0
        to_b[pair] = 0
        for i in range(a.shape[1]):
            j = n_a[pair, i]
            for c in range(3):
                slope = two * to_d_a[pair, i] * (a[pair, i, c] - b[pair, j, c])
                to_a[pair, i, c] += slope
                to_b[pair, j, c] -= slope
        for j in range(b.shape[1]):
            i = n_b[pair, j]
            for c in range(3):
                slope = two * to_d_b[pair, j] * (b[pair, j, c] - a[pair, i, c])
                to_b[pair, j, c] += slope
                to_a[pair, i, c] -= slope
