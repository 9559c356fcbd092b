"""What an edge convolution does per edge, for tensors on a CPU.

Inputs everywhere: uw (B, N, 2O), whose halves are u = x W₁ᵀ and w = x W₂ᵀ, and neighbors (B, N, k). An edge i → j has the value
e_ij = (u_j − u_i) + w_i; only differences to the own point are ever summed, so nothing cancels. `edge_torch` has the same four functions.

Work is cut into units that do not depend on the number of threads, and their sums are added in order: the bits never depend on it either.
"""

from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from training.ops.batchnorm import merge_moments
from training.ops.threads import in_threads

_ROWS = 256  # points of a cloud that are one unit of work

Moments = tuple[Tensor, Tensor, Tensor]


def _empty(like: Tensor, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
    return torch.empty(shape, dtype=dtype or like.dtype)


def _units(points: int) -> int:
    return -(-points // _ROWS)


def reduce_edges(uw: Tensor, neighbors: Tensor) -> tuple[Tensor, Tensor, Tensor, Moments]:
    """The largest edge of each point, which neighbour it goes to, the sum over its edges of u_j − u_i, and the moments of all edges.

    Returns e (B, N, O), slots (B, N, O) int16 into the k neighbours (the first of equal ones), sums (B, N, O), and count (), mean (O,),
    m2 (O,) in float64.
    """
    clouds, points, k = neighbors.shape
    channels = uw.shape[2] // 2
    extremes, sums = _empty(uw, clouds, points, channels), _empty(uw, clouds, points, channels)
    slots = _empty(uw, clouds, points, channels, dtype=torch.int16)
    units = clouds * _units(points)
    means = _empty(uw, units, channels, dtype=torch.float64)
    m2s = _empty(uw, units, channels, dtype=torch.float64)
    in_threads(_reduce, units, uw.numpy(), neighbors.numpy(), extremes.numpy(), slots.numpy(), sums.numpy(), means.numpy(), m2s.numpy())
    rows = [min(_ROWS, points - start) for start in range(0, points, _ROWS)]
    counts = torch.tensor(rows * clouds, dtype=torch.float64) * k
    return extremes, slots, sums, merge_moments(counts, means, m2s)


def activate(e: Tensor, mean: Tensor, scale: Tensor, shift: Tensor, slope: float) -> Tensor:
    """LeakyReLU((e − mean)·scale + shift) for e (B, N, O) and per-channel mean, scale, shift (O,)."""
    y = torch.empty_like(e)
    clouds, points, _ = e.shape
    in_threads(_activate, clouds * _units(points), e.numpy(), mean.numpy(), scale.numpy(), shift.numpy(), slope, y.numpy())
    return y


def gate(grad: Tensor, e: Tensor, mean: Tensor, scale: Tensor, shift: Tensor, slope: float) -> tuple[Tensor, Tensor, Tensor]:
    """Backward of `activate` up to its argument: gradients (B, N, O), their sum (O,), and their sum weighted by e − mean (O,)."""
    clouds, points, channels = e.shape
    gated = torch.empty_like(e)
    units = clouds * _units(points)
    totals, weighted = _empty(e, units, channels, dtype=torch.float64), _empty(e, units, channels, dtype=torch.float64)
    grad = grad.contiguous()
    arrays = (grad.numpy(), e.numpy(), mean.numpy(), scale.numpy(), shift.numpy(), slope, gated.numpy(), totals.numpy(), weighted.numpy())
    in_threads(_gate, units, *arrays)
    return gated, totals.sum(0).to(e.dtype), weighted.sum(0).to(e.dtype)


def spread(
    gated: Tensor, slots: Tensor, sums: Tensor, uw: Tensor, neighbors: Tensor, mean: Tensor, scale: Tensor, constant: Tensor, slope: Tensor
) -> Tensor:
    """Gradient (B, N, 2O) of uw, where edge i → j has the gradient scale·gated_i·[j is the largest] − constant − slope·(e_ij − mean)."""
    grad = torch.zeros_like(uw)
    per_channel = (mean.numpy(), scale.numpy(), constant.numpy(), slope.numpy())
    arrays = (gated.numpy(), slots.numpy(), sums.numpy(), uw.numpy(), neighbors.numpy())
    in_threads(_spread, len(neighbors), *arrays, *per_channel, grad.numpy())
    return grad


@njit(nogil=True, error_model="numpy", fastmath={"nnan", "nsz", "contract"}, inline="never")
def _five_edges(u: Any, own: int, near: Any, t: int, best: Any, slot: Any, total: Any, square: Any) -> None:
    """Five neighbours a pass, so that the running values are read and written a fifth as often."""
    j0, j1, j2, j3, j4 = near[t], near[t + 1], near[t + 2], near[t + 3], near[t + 4]
    s0 = np.int32(t)
    for o in range(best.size):
        centre = u[own, o]
        d0, d1, d2, d3, d4 = u[j0, o] - centre, u[j1, o] - centre, u[j2, o] - centre, u[j3, o] - centre, u[j4, o] - centre
        total[o] += d0 + d1 + d2 + d3 + d4
        square[o] += d0 * d0 + d1 * d1 + d2 * d2 + d3 * d3 + d4 * d4
        most, s = d0, s0
        if d1 > most:
            most, s = d1, s0 + np.int32(1)
        if d2 > most:
            most, s = d2, s0 + np.int32(2)
        if d3 > most:
            most, s = d3, s0 + np.int32(3)
        if d4 > most:
            most, s = d4, s0 + np.int32(4)
        if most > best[o]:
            best[o] = most
            slot[o] = s


@njit(nogil=True, error_model="numpy", fastmath={"nnan", "nsz", "contract"}, inline="never")
def _one_edge(u: Any, own: int, j: int, t: int, best: Any, slot: Any, total: Any, square: Any) -> None:
    s = np.int32(t)
    for o in range(best.size):
        d = u[j, o] - u[own, o]
        total[o] += d
        square[o] += d * d
        if d > best[o]:
            best[o] = d
            slot[o] = s


@njit(cache=True, nogil=True, error_model="numpy")
def _reduce(first: int, last: int, uw: Any, neighbors: Any, extremes: Any, slots: Any, sums: Any, means: Any, m2s: Any) -> None:
    _, points, k = neighbors.shape
    channels = extremes.shape[2]
    blocks = -(-points // _ROWS)
    best, total, square = np.empty(channels, uw.dtype), np.empty(channels, uw.dtype), np.empty(channels, uw.dtype)
    slot = np.empty(channels, np.int32)
    whole = k // 5 * 5
    for unit in range(first, last):
        cloud = unit // blocks
        start = unit % blocks * _ROWS
        stop = min(start + _ROWS, points)
        u = uw[cloud]
        mean, m2 = means[unit], m2s[unit]
        mean[:] = 0
        m2[:] = 0
        for i in range(start, stop):
            best[:] = -np.inf
            total[:] = 0
            square[:] = 0
            slot[:] = 0
            near = neighbors[cloud, i]
            for t in range(0, whole, 5):
                _five_edges(u, i, near, t, best, slot, total, square)
            for t in range(whole, k):
                _one_edge(u, i, near[t], t, best, slot, total, square)
            for o in range(channels):
                w = u[i, channels + o]
                extremes[cloud, i, o] = best[o] + w
                slots[cloud, i, o] = slot[o]
                sums[cloud, i, o] = total[o]
                average = total[o] / k
                mean[o] += average + w
                m2[o] += square[o] - total[o] * average
        mean /= stop - start
        for i in range(start, stop):
            for o in range(channels):
                apart = sums[cloud, i, o] / k + u[i, channels + o] - mean[o]
                m2[o] += k * apart * apart


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _activate(first: int, last: int, e: Any, mean: Any, scale: Any, shift: Any, slope: float, y: Any) -> None:
    _, points, channels = e.shape
    blocks = -(-points // _ROWS)
    leak = e.dtype.type(slope)
    for unit in range(first, last):
        cloud = unit // blocks
        start = unit % blocks * _ROWS
        for i in range(start, min(start + _ROWS, points)):
            for o in range(channels):
                z = (e[cloud, i, o] - mean[o]) * scale[o] + shift[o]
                y[cloud, i, o] = z if z > 0 else z * leak


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _gate(
    first: int, last: int, grad: Any, e: Any, mean: Any, scale: Any, shift: Any, slope: float, gated: Any, totals: Any, weighted: Any
) -> None:
    _, points, channels = e.shape
    blocks = -(-points // _ROWS)
    leak = e.dtype.type(slope)
    for unit in range(first, last):
        cloud = unit // blocks
        start = unit % blocks * _ROWS
        totals[unit, :] = 0
        weighted[unit, :] = 0
        for i in range(start, min(start + _ROWS, points)):
            for o in range(channels):
                apart = e[cloud, i, o] - mean[o]
                g = grad[cloud, i, o]
                g = g if apart * scale[o] + shift[o] > 0 else g * leak
                gated[cloud, i, o] = g
                totals[unit, o] += g
                weighted[unit, o] += g * apart


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _spread(
    first: int,
    last: int,
    gated: Any,
    slots: Any,
    sums: Any,
    uw: Any,
    neighbors: Any,
    mean: Any,
    scale: Any,
    constant: Any,
    slope: Any,
    grad: Any,
) -> None:
    _, points, k = neighbors.shape
    channels = gated.shape[2]
    edges = np.empty(points, uw.dtype)
    direct, common, slot = np.empty(channels, uw.dtype), np.empty(channels, uw.dtype), np.empty(channels, np.int32)
    degree = uw.dtype.type(k)
    for cloud in range(first, last):
        edges[:] = 0
        values, du = uw[cloud], grad[cloud]
        for i in range(points):
            for o in range(channels):
                apart = values[i, channels + o] - mean[o]
                direct[o] = scale[o] * gated[cloud, i, o]
                common[o] = constant[o] + slope[o] * (apart - values[i, o])
                own = direct[o] - degree * constant[o] - slope[o] * (sums[cloud, i, o] + degree * apart)
                du[i, channels + o] = own
                du[i, o] -= own
                slot[o] = slots[cloud, i, o]
            for t in range(k):
                j = neighbors[cloud, i, t]
                edges[j] += 1
                _into(du, j, t, slot, direct, common)
        for j in range(points):
            for o in range(channels):
                du[j, o] -= slope[o] * edges[j] * values[j, o]


@njit(nogil=True, error_model="numpy", inline="never")
def _into(du: Any, j: int, t: int, slot: Any, direct: Any, common: Any) -> None:
    zero = du.dtype.type(0)
    this = np.int32(t)
    for o in range(slot.size):
        du[j, o] += (direct[o] if slot[o] == this else zero) - common[o]
