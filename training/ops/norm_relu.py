"""ReLU of batch norm of vectors that come in sets, with a vector that a whole set has in common added first.

    z_rm = scale (h_rm + c_r − mean) + shift,   y = max(0, z)

The sum h + c is never in memory: it only moves a set's centre, to mean − c_r. On a CPU h is read twice forward and twice backward; other
devices compose the usual operations.
"""

from typing import Any, cast

import torch
from numba import njit
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from training.ops.batchnorm import global_moments, merge_moments, sum_over_ranks, update_running
from training.ops.threads import in_threads


def norm_relu(h: Tensor, norm: nn.modules.batchnorm._BatchNorm, common: Tensor | None = None) -> Tensor:
    """h (R, M, C), common (R, C) -> (R, M, C). `norm` is an affine batch norm over C channels, its statistics those of all R·M vectors
    of all ranks; it computes in float32 at least."""
    if h.device.type != "cpu":
        joined = (h if common is None else h + common[:, None]).flatten(0, 1)
        return nn.functional.relu(cast("Tensor", norm(joined))).view_as(h)
    dtype = torch.promote_types(h.dtype, torch.float32)
    h = h.to(dtype).contiguous()
    common = h.new_zeros(h.shape[0], h.shape[2]) if common is None else common.to(dtype)
    running = None if norm.training or norm.running_mean is None or norm.running_var is None else (norm.running_mean, norm.running_var)
    results = _NormRelu.apply(h, common, norm.weight.to(dtype), norm.bias.to(dtype), running, norm.eps)  # type: ignore[no-untyped-call]
    y, count, mean, m2 = cast("tuple[Tensor, Tensor, Tensor, Tensor]", results)
    if norm.training:
        update_running(norm, count, mean, m2)
    return y


class _NormRelu(torch.autograd.Function):
    """Returns y, count, mean, m2; the moments carry no gradient."""

    @staticmethod
    def forward(
        ctx: Any, h: Tensor, common: Tensor, weight: Tensor, bias: Tensor, running: tuple[Tensor, Tensor] | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        sets, vectors, channels = h.shape
        if running is None:
            means, m2s = torch.empty(sets, channels, dtype=torch.float64), torch.empty(sets, channels, dtype=torch.float64)
            in_threads(_moments, sets, h.numpy(), means.numpy(), m2s.numpy())
            counts = torch.full((sets,), float(vectors), dtype=torch.float64)
            count, mean, m2 = global_moments(*merge_moments(counts, means.add_(common), m2s))
            variance = m2 / count
        else:
            (mean, variance), count, m2 = running, bias.new_zeros(()), bias.new_zeros(channels)
            mean = mean.clone()
        invstd = torch.rsqrt(variance.double() + eps).to(h.dtype)
        scale, centre = invstd * weight, mean.to(h.dtype) - common
        y = torch.empty_like(h)
        in_threads(_activate, sets, h.numpy(), centre.numpy(), scale.numpy(), bias.numpy(), y.numpy())
        ctx.save_for_backward(h, centre, invstd, scale, bias, count)
        ctx.batch = running is None
        ctx.mark_non_differentiable(count, mean, m2)
        return y, count, mean, m2

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        h, centre, invstd, scale, bias, count = ctx.saved_tensors
        grad = grad.contiguous()
        per_channel = (centre.numpy(), scale.numpy(), bias.numpy())
        sums, reaches = torch.empty_like(centre), torch.empty_like(centre)
        in_threads(_sums, len(h), grad.numpy(), h.numpy(), *per_channel, sums.numpy(), reaches.numpy())
        grad_bias, grad_weight = sums.sum(0), reaches.sum(0) * invstd
        constant, slope = torch.zeros_like(bias), torch.zeros_like(bias)
        if ctx.batch:
            over_bias, over_weight = (sum_over_ranks(torch.cat([grad_bias, grad_weight])) / count.to(h.dtype)).chunk(2)
            constant, slope = scale * over_bias, scale * over_weight * invstd
        grad_h, grad_common = torch.empty_like(h), torch.empty_like(centre)
        arrays = (constant.numpy(), slope.numpy(), grad_h.numpy(), grad_common.numpy())
        in_threads(_gradient, len(h), grad.numpy(), h.numpy(), *per_channel, *arrays)
        return grad_h, grad_common, grad_weight, grad_bias, None, None


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _moments(first: int, last: int, h: Any, means: Any, m2s: Any) -> None:
    """Per set: mean and centred sum of squares of its vectors."""
    _, vectors, channels = h.shape
    share = h.dtype.type(1 / vectors)
    for r in range(first, last):
        for o in range(channels):
            means[r, o] = h[r, 0, o]
            m2s[r, o] = 0
        for m in range(1, vectors):
            for o in range(channels):
                means[r, o] += h[r, m, o]
        for o in range(channels):
            means[r, o] *= share
        for m in range(vectors):
            for o in range(channels):
                apart = h[r, m, o] - means[r, o]
                m2s[r, o] += apart * apart


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _activate(first: int, last: int, h: Any, centre: Any, scale: Any, shift: Any, y: Any) -> None:
    _, vectors, channels = h.shape
    zero = h.dtype.type(0)
    for r in range(first, last):
        for m in range(vectors):
            for o in range(channels):
                z = (h[r, m, o] - centre[r, o]) * scale[o] + shift[o]
                y[r, m, o] = zero if z <= zero else z  # what is not a number stays so


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _sums(first: int, last: int, grad: Any, h: Any, centre: Any, scale: Any, shift: Any, sums: Any, reaches: Any) -> None:
    """Per set: the sums over its vectors of dL/dz and of dL/dz·(h − centre)."""
    _, vectors, channels = h.shape
    zero = h.dtype.type(0)
    for r in range(first, last):
        for o in range(channels):
            sums[r, o] = zero
            reaches[r, o] = zero
        for m in range(vectors):
            for o in range(channels):
                apart = h[r, m, o] - centre[r, o]
                g = zero if apart * scale[o] + shift[o] <= zero else grad[r, m, o]
                sums[r, o] += g
                reaches[r, o] += g * apart


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _gradient(
    first: int,
    last: int,
    grad: Any,
    h: Any,
    centre: Any,
    scale: Any,
    shift: Any,
    constant: Any,
    slope: Any,
    grad_h: Any,
    grad_common: Any,
) -> None:
    """grad_h = scale·dL/dz − constant − slope·(h − centre), and its sum over each set."""
    _, vectors, channels = h.shape
    zero = h.dtype.type(0)
    for r in range(first, last):
        for o in range(channels):
            grad_common[r, o] = zero
        for m in range(vectors):
            for o in range(channels):
                apart = h[r, m, o] - centre[r, o]
                g = zero if apart * scale[o] + shift[o] <= zero else grad[r, m, o]
                g = g * scale[o] - constant[o] - slope[o] * apart
                grad_h[r, m, o] = g
                grad_common[r, o] += g
