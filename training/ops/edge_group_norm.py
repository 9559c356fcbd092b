"""The largest edge at each node of a graph after group norm and LeakyReLU, by a kernel for the CPU.

    e_ij = u_j + w_i for the k neighbours j of node i,   y_i = max over j of LeakyReLU(γ (e_ij − mean) / √(variance + ε) + β)

Mean and variance are a group's of channels over all edges of a cloud, so a cloud is one unit of work and no edge is in memory. Norm and
LeakyReLU are monotone in each channel: the largest edge, or the least where γ is negative, is taken before them.
"""

from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from training.ops.threads import in_threads


def edge_group_norm(ends: Tensor, neighbours: Tensor, norm: nn.GroupNorm, negative_slope: float) -> Tensor:
    """ends (B, G, 2C), u before w, neighbours (B, G, k) int64 -> (B, G, C). Of equal edges the first has the gradient."""
    weight, bias = norm.weight.to(ends.dtype), norm.bias.to(ends.dtype)
    arguments = (ends.contiguous(), neighbours.contiguous(), weight, bias, norm.num_groups, norm.eps, negative_slope)
    return _EdgeGroupNorm.apply(*arguments)  # type: ignore[no-untyped-call, no-any-return]


class _EdgeGroupNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ends: Tensor, neighbours: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, leak: float) -> Tensor:
        clouds, nodes, channels = len(ends), ends.shape[1], len(weight)
        y, apart = ends.new_empty(clouds, nodes, channels), ends.new_empty(clouds, nodes, channels)
        places = torch.empty(clouds, nodes, channels, dtype=torch.int32)
        centre, invstd = ends.new_empty(clouds, channels), ends.new_empty(clouds, channels)
        arrays = [tensor.detach().numpy() for tensor in (ends, neighbours, weight, bias, y, apart, places, centre, invstd)]
        in_threads(_forward, clouds, groups, eps, leak, *arrays)
        ctx.save_for_backward(ends, neighbours, weight, bias, apart, places, centre, invstd)
        ctx.groups, ctx.leak = groups, leak
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        ends, centre = ctx.saved_tensors[0], ctx.saved_tensors[6]
        grad_ends, over_weight, over_bias = torch.empty_like(ends), torch.empty_like(centre), torch.empty_like(centre)
        tensors = (*ctx.saved_tensors, grad.contiguous(), grad_ends, over_weight, over_bias)
        in_threads(_backward, len(ends), ctx.groups, ctx.leak, *(tensor.detach().numpy() for tensor in tensors))
        return grad_ends, None, over_weight.sum(0), over_bias.sum(0), None, None, None


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _forward(
    first: int,
    last: int,
    groups: int,
    eps: float,
    leak: float,
    ends: Any,
    neighbours: Any,
    weight: Any,
    bias: Any,
    y: Any,
    apart: Any,
    places: Any,
    centre: Any,
    invstd: Any,
) -> None:
    _, nodes, k = neighbours.shape
    channels = weight.size
    size = channels // groups
    best, squares, sign = np.empty(channels, ends.dtype), np.empty(channels, ends.dtype), np.empty(channels, ends.dtype)
    place = np.empty(channels, np.int32)
    low = ends.dtype.type(leak)
    for c in range(channels):
        sign[c] = -1 if weight[c] < 0 else 1
    for b in range(first, last):
        squares[:] = 0
        for i in range(nodes):
            for c in range(channels):
                squares[c] += k * ends[b, i, channels + c]
            for s in range(k):
                j = neighbours[b, i, s]
                for c in range(channels):
                    squares[c] += ends[b, j, c]
        for g in range(groups):
            centre[b, g * size : (g + 1) * size] = squares[g * size : (g + 1) * size].sum() / (nodes * k * size)
        squares[:] = 0
        for i in range(nodes):
            best[:] = -np.inf
            place[:] = neighbours[b, i, 0]
            for s in range(k):
                j = neighbours[b, i, s]
                here = np.int32(j)
                for c in range(channels):
                    e = ends[b, j, c] + ends[b, i, channels + c] - centre[b, c]
                    squares[c] += e * e
                    e *= sign[c]
                    larger = e > best[c]
                    best[c] = e if larger else best[c]
                    place[c] = here if larger else place[c]
            for c in range(channels):
                apart[b, i, c] = best[c] * sign[c]
                places[b, i, c] = place[c]
        for g in range(groups):
            variance = squares[g * size : (g + 1) * size].sum() / (nodes * k * size)
            invstd[b, g * size : (g + 1) * size] = 1 / np.sqrt(variance + eps)
        for i in range(nodes):
            for c in range(channels):
                z = apart[b, i, c] * (invstd[b, c] * weight[c]) + bias[c]
                y[b, i, c] = z if z > 0 else z * low


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _backward(
    first: int,
    last: int,
    groups: int,
    leak: float,
    ends: Any,
    neighbours: Any,
    weight: Any,
    bias: Any,
    apart: Any,
    places: Any,
    centre: Any,
    invstd: Any,
    grad: Any,
    grad_ends: Any,
    over_weight: Any,
    over_bias: Any,
) -> None:
    """With n edges a group, m₁ the mean of γ dL/dz over them and m₂ that of γ dL/dz x̂: dL/de = (γ dL/dz − m₁ − m₂ x̂) / √(variance + ε)."""
    _, nodes, k = neighbours.shape
    channels = weight.size
    size = channels // groups
    constant, slope, own = np.empty(channels, ends.dtype), np.empty(channels, ends.dtype), np.empty(channels, ends.dtype)
    low = ends.dtype.type(leak)
    for b in range(first, last):
        over_weight[b] = 0
        over_bias[b] = 0
        grad_ends[b] = 0
        for i in range(nodes):
            for c in range(channels):
                xhat = apart[b, i, c] * invstd[b, c]
                g = grad[b, i, c] if xhat * weight[c] + bias[c] > 0 else grad[b, i, c] * low
                over_bias[b, c] += g
                over_weight[b, c] += g * xhat
                grad_ends[b, i, channels + c] = g * weight[c] * invstd[b, c]
        for group in range(groups):
            part = slice(group * size, (group + 1) * size)
            scale = invstd[b, group * size]
            constant[part] = scale * (weight[part] * over_bias[b, part]).sum() / (nodes * k * size)
            slope[part] = scale * scale * (weight[part] * over_weight[b, part]).sum() / (nodes * k * size)
        for i in range(nodes):
            for c in range(channels):
                own[c] = grad_ends[b, i, channels + c]
            for c in range(channels):
                grad_ends[b, places[b, i, c], c] += own[c]
            for s in range(k):
                j = neighbours[b, i, s]
                for c in range(channels):
                    spread = constant[c] + slope[c] * (ends[b, j, c] + ends[b, i, channels + c] - centre[b, c])
                    own[c] -= spread
                    grad_ends[b, j, c] -= spread
            for c in range(channels):
                grad_ends[b, i, channels + c] = own[c]
