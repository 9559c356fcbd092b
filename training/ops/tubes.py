"""The first layer of a point 4D convolution, for each neighbour of each anchor, and its maximum over an anchor's neighbours.

    h_rm = a(d_rm),   a(d) = [ReLU](W d + b),  d ∈ R⁴         without features
    h_rm = a(d_rm) + f_j   or   a(d_rm) · f_j                 with features f_j of the neighbour j

W has four columns, so W d is computed where it is needed and never kept; nor are the features copied to each neighbour. These kernels are
a CPU's, and for displacements without gradient; otherwise the usual operations are composed, in parts where only the maximum is asked for.
"""

from typing import Any, Literal

import numpy as np
import torch
from numba import njit
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from training.ops.threads import in_threads

_BLOCK = 512  # outputs whose running maxima stay in a core's first cache
_PARTS = 16  # parts of the sets that add up the weight's gradient, whatever the number of threads
_LANES = 16  # channels that are one unit of work backward: no two units write to one place
_ELEMENTS = 1 << 24  # numbers of W d at a time on other devices
_LONGEST = 1 << 15

Operation = Literal["add", "mul"]


def displacements(points: Tensor, anchors: Tensor, rows: Tensor, moves: Tensor) -> Tensor:
    """points (P, 3), anchors (A, n, 3), rows (A, n, k, K) int64 into the points, moves (k,) in frames -> d (A, n, k, K, 4)."""
    if points.requires_grad or points.device.type != "cpu":
        near = nn.functional.embedding(rows, points) - anchors[:, :, None, None]
        return torch.cat([near, moves.to(near)[:, None, None].expand(*near.shape[:-1], 1)], dim=-1)
    d = points.new_empty(*rows.shape, 4)
    in_threads(_displace, len(rows), points.contiguous().numpy(), anchors.numpy(), rows.numpy(), moves.numpy(), d.numpy())
    return d


def tube_max(d: Tensor, weight: Tensor) -> Tensor:
    """d (R, M, 4), weight (O, 4) -> (R, O), max over m of W d_rm, M ≥ 1. Of equal neighbours the first has the gradient."""
    if d.requires_grad or d.device.type != "cpu" or d.shape[1] >= _LONGEST:
        step = max(1, _ELEMENTS // (d.shape[1] * len(weight)))
        if d.requires_grad:
            return torch.cat([nn.functional.linear(part, weight).max(1).values for part in torch.split(d, step)])
        return _TubeMaxTorch.apply(d, weight, step)  # type: ignore[no-untyped-call, no-any-return]
    return _TubeMax.apply(d.contiguous(), weight)  # type: ignore[no-untyped-call, no-any-return]


def tube_layer(
    d: Tensor, weight: Tensor, bias: Tensor | None, act: bool, table: Tensor | None, rows: Tensor | None, operation: Operation
) -> Tensor:
    """d (R, M, 4), weight (O, 4), bias (O,), features `table` (P, O) of points and `rows` (R, M) int64 into it -> h (R, M, O)."""
    if d.requires_grad or d.device.type != "cpu":
        h = nn.functional.linear(d, weight, bias)
        h = nn.functional.relu(h) if act else h
        if table is None or rows is None:
            return h
        near = nn.functional.embedding(rows, table)
        return h + near if operation == "add" else h * near
    bias = weight.new_zeros(len(weight)) if bias is None else bias
    if table is None or rows is None:
        table, rows, mode = weight.new_zeros(0, len(weight)), torch.zeros(0, 0, dtype=torch.int64), 0
    else:
        mode = 1 if operation == "add" else 2
    return _TubeLayer.apply(d.contiguous(), weight, bias, table.contiguous(), rows.contiguous(), act, mode)  # type: ignore[no-untyped-call, no-any-return]


class _TubeMax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, d: Tensor, weight: Tensor) -> Tensor:
        sets, outputs = len(d), len(weight)
        best, places = d.new_empty(sets, outputs), torch.empty(sets, outputs, dtype=torch.int16)
        in_threads(_largest, sets, d.numpy(), weight.T.contiguous().numpy(), best.numpy(), places.numpy())
        ctx.save_for_backward(d, places)
        return best

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        d, places = ctx.saved_tensors
        parts = d.new_empty(_PARTS, 4, places.shape[1])
        in_threads(_weigh, _PARTS, d.numpy(), places.numpy(), grad.contiguous().numpy(), parts.numpy())
        return None, parts.sum(0).T


class _TubeMaxTorch(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, d: Tensor, weight: Tensor, step: int) -> Tensor:
        found = [nn.functional.linear(part, weight).max(1) for part in torch.split(d, step)]
        places = torch.cat([part.indices.to(torch.int32) for part in found])
        ctx.save_for_backward(d, places)
        ctx.step = step
        return torch.cat([part.values for part in found])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None]:
        d, places = ctx.saved_tensors
        total = grad.new_zeros(places.shape[1], 4)
        for some, place, g in zip(*(torch.split(x, ctx.step) for x in (d, places, grad)), strict=True):
            taken = some.gather(1, place.long()[..., None].expand(-1, -1, 4))
            total += torch.einsum("ro,roc->oc", g, taken)
        return None, total, None


class _TubeLayer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, d: Tensor, weight: Tensor, bias: Tensor, table: Tensor, rows: Tensor, act: bool, mode: int) -> Tensor:
        h = d.new_empty(*d.shape[:2], len(weight))
        columns = torch.cat([weight.T, bias[None]])
        in_threads(_layer, len(d), d.numpy(), columns.numpy(), table.numpy(), rows.numpy(), act, mode, h.numpy())
        ctx.save_for_backward(d, columns, table, rows)
        ctx.act, ctx.mode = act, mode
        return h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        d, columns, table, rows = ctx.saved_tensors
        grad_columns, grad_table = torch.zeros(columns.shape, dtype=torch.float64), torch.zeros_like(table)
        arrays = [tensor.numpy() for tensor in (d, columns, table, rows)]
        units = -(-columns.shape[1] // _LANES)
        in_threads(_back, units, *arrays, ctx.act, ctx.mode, grad.contiguous().numpy(), grad_columns.numpy(), grad_table.numpy())
        grad_columns = grad_columns.to(d.dtype)
        return None, grad_columns[:4].T, grad_columns[4], grad_table if ctx.mode else None, None, None, None


@njit(cache=True, nogil=True, error_model="numpy")
def _displace(first: int, last: int, points: Any, anchors: Any, rows: Any, moves: Any, d: Any) -> None:
    _, groups, frames, number = rows.shape
    for a in range(first, last):
        for g in range(groups):
            x, y, z = anchors[a, g]
            for i in range(frames):
                for m in range(number):
                    near, out = points[rows[a, g, i, m]], d[a, g, i, m]
                    out[0], out[1], out[2], out[3] = near[0] - x, near[1] - y, near[2] - z, moves[i]


@njit(nogil=True, error_model="numpy", fastmath={"nsz", "contract"}, inline="never")
def _eight(d: Any, m: int, weight: Any, start: int, best: Any, place: Any) -> None:
    """Eight neighbours a pass, so that the running values are read and written an eighth as often."""
    x0, y0, z0, t0 = d[m, 0], d[m, 1], d[m, 2], d[m, 3]
    x1, y1, z1, t1 = d[m + 1, 0], d[m + 1, 1], d[m + 1, 2], d[m + 1, 3]
    x2, y2, z2, t2 = d[m + 2, 0], d[m + 2, 1], d[m + 2, 2], d[m + 2, 3]
    x3, y3, z3, t3 = d[m + 3, 0], d[m + 3, 1], d[m + 3, 2], d[m + 3, 3]
    x4, y4, z4, t4 = d[m + 4, 0], d[m + 4, 1], d[m + 4, 2], d[m + 4, 3]
    x5, y5, z5, t5 = d[m + 5, 0], d[m + 5, 1], d[m + 5, 2], d[m + 5, 3]
    x6, y6, z6, t6 = d[m + 6, 0], d[m + 6, 1], d[m + 6, 2], d[m + 6, 3]
    x7, y7, z7, t7 = d[m + 7, 0], d[m + 7, 1], d[m + 7, 2], d[m + 7, 3]
    here = np.int32(m)
    for o in range(best.size):
        w0, w1, w2, w3 = weight[0, start + o], weight[1, start + o], weight[2, start + o], weight[3, start + o]
        most, s = best[o], place[o]
        value = x0 * w0 + y0 * w1 + z0 * w2 + t0 * w3
        if value > most:
            most, s = value, here
        value = x1 * w0 + y1 * w1 + z1 * w2 + t1 * w3
        if value > most:
            most, s = value, here + np.int32(1)
        value = x2 * w0 + y2 * w1 + z2 * w2 + t2 * w3
        if value > most:
            most, s = value, here + np.int32(2)
        value = x3 * w0 + y3 * w1 + z3 * w2 + t3 * w3
        if value > most:
            most, s = value, here + np.int32(3)
        value = x4 * w0 + y4 * w1 + z4 * w2 + t4 * w3
        if value > most:
            most, s = value, here + np.int32(4)
        value = x5 * w0 + y5 * w1 + z5 * w2 + t5 * w3
        if value > most:
            most, s = value, here + np.int32(5)
        value = x6 * w0 + y6 * w1 + z6 * w2 + t6 * w3
        if value > most:
            most, s = value, here + np.int32(6)
        value = x7 * w0 + y7 * w1 + z7 * w2 + t7 * w3
        if value > most:
            most, s = value, here + np.int32(7)
        best[o] = most
        place[o] = s


@njit(nogil=True, error_model="numpy", fastmath={"nsz", "contract"}, inline="never")
def _one(d: Any, m: int, weight: Any, start: int, best: Any, place: Any) -> None:
    x, y, z, t = d[m, 0], d[m, 1], d[m, 2], d[m, 3]
    here = np.int32(m)
    for o in range(best.size):
        value = x * weight[0, start + o] + y * weight[1, start + o] + z * weight[2, start + o] + t * weight[3, start + o]
        larger = (value > best[o]) | (value != value)  # as torch's, what is not a number is the largest
        best[o] = value if larger else best[o]
        place[o] = here if larger else place[o]


@njit(cache=True, nogil=True, error_model="numpy")
def _largest(first: int, last: int, d: Any, weight: Any, best: Any, places: Any) -> None:
    _, number, _ = d.shape
    outputs = weight.shape[1]
    block = min(_BLOCK, outputs)
    running, place = np.empty(block, d.dtype), np.empty(block, np.int32)
    for r in range(first, last):
        whole = number // 8 * 8 if np.isfinite(d[r]).all() else 0
        for start in range(0, outputs, block):
            size = min(block, outputs - start)
            some, spot = running[:size], place[:size]
            some[:] = -np.inf
            spot[:] = 0
            _one(d[r], 0, weight, start, some, spot)  # a weight that is not a number shows here, and nothing is larger afterwards
            for m in range(0, whole, 8):
                _eight(d[r], m, weight, start, some, spot)
            for m in range(whole, number):
                _one(d[r], m, weight, start, some, spot)
            for o in range(size):
                best[r, start + o] = some[o]
                places[r, start + o] = spot[o]


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _weigh(first: int, last: int, d: Any, places: Any, grad: Any, parts: Any) -> None:
    sets, outputs = places.shape
    for part in range(first, last):
        parts[part] = 0
        total = parts[part]
        for r in range(sets * part // _PARTS, sets * (part + 1) // _PARTS):
            for o in range(outputs):
                m, g = places[r, o], grad[r, o]
                total[0, o] += g * d[r, m, 0]
                total[1, o] += g * d[r, m, 1]
                total[2, o] += g * d[r, m, 2]
                total[3, o] += g * d[r, m, 3]


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _layer(first: int, last: int, d: Any, columns: Any, table: Any, rows: Any, act: bool, mode: int, h: Any) -> None:
    _, number, outputs = h.shape
    zero = h.dtype.type(0)
    for r in range(first, last):
        for m in range(number):
            x, y, z, t = d[r, m, 0], d[r, m, 1], d[r, m, 2], d[r, m, 3]
            own = h[r, m]
            for o in range(outputs):
                own[o] = x * columns[0, o] + y * columns[1, o] + z * columns[2, o] + t * columns[3, o] + columns[4, o]
            if act:
                for o in range(outputs):
                    own[o] = zero if own[o] <= zero else own[o]  # what is not a number stays so
            if mode:
                near = table[rows[r, m]]
                if mode == 1:
                    for o in range(outputs):
                        own[o] += near[o]
                else:
                    for o in range(outputs):
                        own[o] *= near[o]


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _back(
    first: int, last: int, d: Any, columns: Any, table: Any, rows: Any, act: bool, mode: int, grad: Any, grad_columns: Any, grad_table: Any
) -> None:
    sets, number, outputs = grad.shape
    sums, a = np.empty((5, _LANES), d.dtype), np.empty(_LANES, d.dtype)
    w = np.zeros((5, _LANES), d.dtype)
    g, zero = np.zeros(_LANES, d.dtype), d.dtype.type(0)
    for unit in range(first, last):
        start = unit * _LANES
        size = min(_LANES, outputs - start)
        w[:, :size] = columns[:, start : start + size]
        for r in range(sets):
            sums[:] = 0
            for m in range(number):
                x, y, z, t = d[r, m, 0], d[r, m, 1], d[r, m, 2], d[r, m, 3]
                for o in range(size):
                    g[o] = grad[r, m, start + o]
                for o in range(_LANES):
                    a[o] = x * w[0, o] + y * w[1, o] + z * w[2, o] + t * w[3, o] + w[4, o]
                if act:
                    for o in range(_LANES):
                        a[o] = zero if a[o] <= zero else a[o]
                if mode == 1:
                    row = rows[r, m]
                    for o in range(size):
                        grad_table[row, start + o] += g[o]
                elif mode == 2:
                    row = rows[r, m]
                    for o in range(size):
                        grad_table[row, start + o] += g[o] * a[o]
                        g[o] *= table[row, start + o]
                if act:
                    for o in range(_LANES):
                        g[o] = zero if a[o] == zero else g[o]
                for o in range(_LANES):
                    sums[0, o] += g[o] * x
                    sums[1, o] += g[o] * y
                    sums[2, o] += g[o] * z
                    sums[3, o] += g[o] * t
                    sums[4, o] += g[o]
            for c in range(5):
                for o in range(size):
                    grad_columns[c, start + o] += sums[c, o]
