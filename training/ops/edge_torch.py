"""What an edge convolution does per edge, as torch operations for any device and dtype. See `edge_kernels` for what each function means.

A few clouds at a time, so that the (clouds, N, k, O) values of their edges stay within a fixed amount of memory. On CUDA the two sums into
neighbours are atomic, so that equal runs agree to rounding; under `torch.use_deterministic_algorithms(True)` they agree bit for bit.
"""

import torch
from torch import Tensor

from training.ops.batchnorm import merge_moments
from training.ops.edge_kernels import Moments

_EDGE_BYTES = 1 << 27


def _step(uw: Tensor, neighbors: Tensor) -> int:
    _, points, k = neighbors.shape
    return max(1, _EDGE_BYTES // (points * k * uw.shape[2] // 2 * uw.element_size()))


def _rows(values: Tensor, neighbors: Tensor) -> Tensor:
    """values (B, N, O) at neighbors (B, N, k) -> (B, N, k, O)."""
    clouds, points, channels = values.shape
    offsets = torch.arange(clouds, device=values.device)[:, None, None] * points
    return values.reshape(-1, channels).index_select(0, (neighbors + offsets).flatten()).view(*neighbors.shape, channels)


def reduce_edges(uw: Tensor, neighbors: Tensor) -> tuple[Tensor, Tensor, Tensor, Moments]:
    clouds, points, k = neighbors.shape
    u, w = uw.chunk(2, dim=-1)
    extremes, sums, within = torch.empty_like(w), torch.empty_like(w), torch.zeros_like(w[0, 0], dtype=torch.float64)
    slots = torch.empty(w.shape, dtype=torch.int16, device=w.device)
    step = _step(uw, neighbors)
    for first in range(0, clouds, step):
        part = slice(first, first + step)
        apart = _rows(u[part], neighbors[part]).sub_(u[part].unsqueeze(2))
        most, slot = apart.max(2)
        extremes[part] = most.add_(w[part])
        slots[part] = slot
        sums[part] = apart.sum(2)
        apart.sub_(sums[part].div(k).unsqueeze(2))
        within += apart.square_().sum((1, 2)).double().sum(0)
    middles = (sums / k + w).flatten(0, 1)
    count = torch.full((1,), float(clouds * points * k), dtype=torch.float64, device=uw.device)
    variance, mean = torch.var_mean(middles, 0, correction=0)
    return extremes, slots, sums, merge_moments(count, mean.double()[None], (within + variance.double() * count)[None])


def activate(e: Tensor, mean: Tensor, scale: Tensor, shift: Tensor, slope: float) -> Tensor:
    return torch.nn.functional.leaky_relu_((e - mean).mul_(scale).add_(shift), slope)


def gate(grad: Tensor, e: Tensor, mean: Tensor, scale: Tensor, shift: Tensor, slope: float) -> tuple[Tensor, Tensor, Tensor]:
    apart = e - mean
    gated = torch.where(apart * scale + shift > 0, grad, grad * slope)
    return gated, gated.sum((0, 1)), (gated * apart).sum((0, 1))


def spread(
    gated: Tensor, slots: Tensor, sums: Tensor, uw: Tensor, neighbors: Tensor, mean: Tensor, scale: Tensor, constant: Tensor, slope: Tensor
) -> Tensor:
    clouds, points, k = neighbors.shape
    channels = gated.shape[2]
    u, w = uw.chunk(2, dim=-1)
    direct = gated * scale
    dw = direct - k * constant - slope * (sums + k * (w - mean))
    du = torch.scatter_add(-dw, 1, neighbors.gather(2, slots.long()), direct)
    # all edges into j: constant + slope·(u_j + (w_i − u_i − mean)), of which the second part is summed over the points i that j is near to
    into = torch.zeros_like(u).flatten(0, 1)
    edges = torch.zeros(clouds * points, dtype=u.dtype, device=u.device)
    offsets = torch.arange(clouds, device=u.device)[:, None] * points
    common = torch.addcmul(constant, slope, w - u - mean).flatten(0, 1)
    for t in range(k):
        near = (neighbors[:, :, t] + offsets).flatten()
        into.index_add_(0, near, common)
        edges.index_add_(0, near, torch.ones_like(edges))
    du -= into.view(clouds, points, channels) + slope * edges.view(clouds, points, 1) * u
    return torch.cat([du, dw], -1)
