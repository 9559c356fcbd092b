"""Edge convolution (Wang et al. 2019, arXiv 1801.07829) without its (B, N, k, 2C) tensor.

    y_i = max over j in N(i) of LeakyReLU(BatchNorm(e_ij)),   e_ij = W [x_j − x_i, x_i] = W₁ (x_j − x_i) + W₂ x_i

u = x W₁ᵀ and w = x W₂ᵀ are products on points, and e_ij = (u_j − u_i) + w_i. Batch norm followed by LeakyReLU is monotone in each channel,
so the maximum is taken of e itself, or of −e where the norm's scale is negative: there the rows of W and the scale change sign together.
The statistics are those of all B·N·k edges of all ranks: per point the sum and the squares of u_j − u_i, then a second pass about the mean.
Backward needs the largest edge of each point and, for the statistics' part, one sum over the points that have j as a neighbour.

It computes in float32 (float64 for float64 input) under autocast too: u_j − u_i would not survive the rounding of u to bfloat16, and the
products are a k-th of the usual formulation's. The kernels on a CPU give equal bits with any number of threads.
"""

from types import ModuleType
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from training.ops import edge_kernels, edge_torch
from training.ops.batchnorm import BatchNorm2d, global_moments, sum_over_ranks, update_running
from training.ops.neighbors import knn


class _NormalisedMaximum(torch.autograd.Function):
    """(uw, neighbors, scale ≥ 0, shift) -> y (B, N, O), and the edges' count, mean and m2, which carry no gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        ops: ModuleType,
        uw: Tensor,
        neighbors: Tensor,
        weight: Tensor,
        bias: Tensor,
        running: tuple[Tensor, Tensor] | None,
        eps: float,
        leak: float,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        e, slots, sums, moments = ops.reduce_edges(uw, neighbors)
        if running is None:
            count, mean, m2 = global_moments(*moments)
            variance = m2 / count
        else:
            (mean, variance), (count, m2) = running, (moments[0], moments[2])
        invstd = torch.rsqrt(variance.double() + eps).to(uw.dtype)
        scale = invstd * weight
        centre = mean.to(uw.dtype)
        y = ops.activate(e, centre, scale, bias, leak)
        ctx.save_for_backward(uw, neighbors, e, slots, sums, centre, invstd, scale, bias, count)
        ctx.ops, ctx.leak, ctx.batch = ops, leak, running is None
        mean = mean.clone()
        ctx.mark_non_differentiable(count, mean, m2)
        return y, count, mean, m2

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        uw, neighbors, e, slots, sums, mean, invstd, scale, bias, count = ctx.saved_tensors
        gated, grad_bias, grad_apart = ctx.ops.gate(grad, e, mean, scale, bias, ctx.leak)
        grad_weight = grad_apart * invstd
        constant, slope = torch.zeros_like(mean), torch.zeros_like(mean)
        if ctx.batch:
            over_bias, over_weight = (sum_over_ranks(torch.cat([grad_bias, grad_weight])) / count.to(uw.dtype)).chunk(2)
            constant, slope = scale * over_bias, scale * over_weight * invstd
        grad_uw = ctx.ops.spread(gated, slots, sums, uw, neighbors, mean, scale, constant, slope)
        return None, grad_uw, None, grad_weight, grad_bias, None, None, None


def edge_conv(
    x: Tensor,
    neighbors: Tensor,
    weight: Tensor,
    norm: nn.modules.batchnorm._BatchNorm,
    negative_slope: float = 0.2,
    operations: ModuleType | None = None,
) -> Tensor:
    """x (B, N, C), neighbors (B, N, k) int64, weight (O, 2C) over concat(x_j − x_i, x_i) -> (B, N, O).

    `norm` is an affine batch norm over O channels; its mode, eps, momentum and running statistics mean what they do in torch.
    `operations` is `edge_kernels` or `edge_torch`, by default the one for the device. Of equal neighbours the first has the gradient.
    Raises ValueError where shapes do not fit.
    """
    channels = x.shape[-1]
    if weight.shape[1] != 2 * channels or neighbors.shape[:2] != x.shape[:2]:
        raise ValueError(
            f"an edge convolution of x {tuple(x.shape)} needs a weight of shape (O, {2 * channels}) and neighbors (B, N, k), "
            f"got {tuple(weight.shape)} and {tuple(neighbors.shape)}."
        )
    with torch.autocast(x.device.type, enabled=False):
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        x, weight, scale, shift = (tensor.to(dtype) for tensor in (x, weight, norm.weight, norm.bias))
        sign = torch.where(scale.detach() < 0, -1.0, 1.0).to(dtype)
        halves = (weight * sign[:, None]).view(-1, 2, channels).transpose(0, 1).reshape(-1, channels)
        uw = nn.functional.linear(x, halves)
        running = None
        if not norm.training and norm.running_mean is not None and norm.running_var is not None:
            running = (norm.running_mean * sign, norm.running_var)
        operations = operations or (edge_kernels if x.device.type == "cpu" else edge_torch)
        arguments = (operations, uw, neighbors.contiguous(), scale * sign, shift, running, norm.eps, negative_slope)
        results = _NormalisedMaximum.apply(*arguments)  # type: ignore[no-untyped-call]
        y, count, mean, m2 = cast("tuple[Tensor, Tensor, Tensor, Tensor]", results)
        if norm.training:
            update_running(norm, count, mean * sign, m2)
    return y


class EdgeConv(nn.Module):
    """An edge convolution over the k nearest neighbours in feature space: (B, N, C) -> (B, N, O).

    State: linear.weight (O, 2C) over concat(x_j − x_i, x_i), norm.* as of torch's batch norm.
    """

    def __init__(self, in_channels: int, out_channels: int, k: int, negative_slope: float = 0.2) -> None:
        super().__init__()
        self.k = k
        self.negative_slope = negative_slope
        self.linear = nn.Linear(2 * in_channels, out_channels, bias=False)
        self.norm = BatchNorm2d(out_channels)

    def forward(self, x: Tensor, neighbors: Tensor | None = None) -> Tensor:
        """`neighbors` (B, N, k) int64 stand in for the nearest ones, which are otherwise found anew.

        Raises ValueError where one of them is none of 0 … N − 1.
        """
        if neighbors is None:
            neighbors = knn(x, self.k)
        elif neighbors.numel() and not 0 <= int(neighbors.min()) <= int(neighbors.max()) < x.shape[1]:
            raise ValueError(f"neighbors must be from 0 to below the number of points, {x.shape[1]}: check how they were made.")
        return edge_conv(x, neighbors, self.linear.weight, self.norm, self.negative_slope)
