"""Batch norm, (leaky) ReLU and the maximum, or maximum and mean, over the points of each cloud, without a tensor in between.

    z_io = scale_o (h_io − mean_o) + shift_o,   y = LeakyReLU(z),   pooled = max over i of y  [‖ mean over i of y]

In each channel y is monotone in h, so the maximum is found in h itself, or in −h where the scale is negative. With a_io = dy/dz the mean
is (scale Σ a (h − mean) + shift Σ a) / N, and the same two sums per cloud are all that the gradients of scale and shift need. On a CPU h is
read twice forward and once backward, to write its gradient; other devices compose the usual operations.
"""

from typing import Any, cast

import numpy as np
import torch
from numba import njit
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from training.ops.batchnorm import global_moments, merge_moments, sum_over_ranks, update_running
from training.ops.threads import in_threads

_ROWS = 128  # points of a cloud that are one unit of work


def norm_pool(h: Tensor, norm: nn.Module, negative_slope: float, average: bool) -> Tensor:
    """h (B, N, C) -> (B, C), or (B, 2C) with `average`: maxima first, then means.

    `norm` is an affine batch norm over C channels, its statistics those of all B·N points of all ranks. Of equal points the first has the
    maximum's gradient.
    """
    assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
    clouds, points, channels = h.shape
    if h.device.type != "cpu":
        y = nn.functional.leaky_relu(norm(h.flatten(0, 1)), negative_slope).view(clouds, points, channels)
        maximum = y.max(1).values
        return torch.cat([maximum, y.mean(1)], -1) if average else maximum
    h = (h if h.dtype == torch.float64 else h.float()).contiguous()
    weight, bias = norm.weight.to(h.dtype), norm.bias.to(h.dtype)
    batch = norm.training or norm.running_mean is None or norm.running_var is None
    running = None if batch else (norm.running_mean, norm.running_var)
    results = _NormalisedPool.apply(h, weight, bias, running, norm.eps, negative_slope, average)  # type: ignore[no-untyped-call]
    pooled, count, mean, m2 = cast("tuple[Tensor, Tensor, Tensor, Tensor]", results)
    if norm.training:
        update_running(norm, count, mean, m2)
    return pooled


class _NormalisedPool(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, h: Tensor, weight: Tensor, bias: Tensor, running: tuple[Tensor, Tensor] | None, eps: float, leak: float, average: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        clouds, points, channels = h.shape
        units = clouds * -(-points // _ROWS)
        means, m2s = torch.empty(units, channels, dtype=torch.float64), torch.empty(units, channels, dtype=torch.float64)
        extremes, places = h.new_empty(units, channels), torch.empty(units, channels, dtype=torch.int32)
        sign = torch.where(weight < 0, -1.0, 1.0).to(h.dtype)
        in_threads(_survey, units, h.numpy(), sign.numpy(), means.numpy(), m2s.numpy(), extremes.numpy(), places.numpy())
        rows = [min(_ROWS, points - start) for start in range(0, points, _ROWS)]
        count, mean, m2 = merge_moments(torch.tensor(rows * clouds, dtype=torch.float64), means, m2s)
        if running is None:
            count, mean, m2 = global_moments(count, mean, m2)
            variance = m2 / count
        else:
            mean, variance = running
        invstd = torch.rsqrt(variance.double() + eps).to(h.dtype)
        centre, scale = mean.to(h.dtype), invstd * weight
        block = (extremes.view(clouds, -1, channels) * sign).max(1, keepdim=True)
        place = places.view(clouds, -1, channels).gather(1, block.indices).squeeze(1)
        apart = block.values.squeeze(1) * sign - centre
        pooled = nn.functional.leaky_relu(apart * scale + bias, leak)
        slopes = reaches = None
        if average:
            parts = torch.empty(2, units, channels, dtype=torch.float64)
            in_threads(_activity, units, h.numpy(), centre.numpy(), scale.numpy(), bias.numpy(), leak, parts[0].numpy(), parts[1].numpy())
            slopes, reaches = (parts.view(2, clouds, -1, channels).sum(2) / points).to(h.dtype)
            pooled = torch.cat([pooled, scale * reaches + bias * slopes], -1)
        ctx.save_for_backward(h, place, apart, centre, invstd, scale, bias, count, slopes, reaches)
        ctx.leak, ctx.batch = leak, running is None
        mean = mean.clone()
        ctx.mark_non_differentiable(count, mean, m2)
        return pooled, count, mean, m2

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        h, place, apart, centre, invstd, scale, bias, count, slopes, reaches = ctx.saved_tensors
        channels = h.shape[2]
        highest = grad[:, :channels]
        highest = torch.where(apart * scale + bias > 0, highest, highest * ctx.leak)
        grad_bias, grad_apart = highest.sum(0), (highest * apart).sum(0)
        common = torch.zeros_like(highest)
        if slopes is not None:
            mean_grad = grad[:, channels:]
            grad_bias = grad_bias + (mean_grad * slopes).sum(0)
            grad_apart = grad_apart + (mean_grad * reaches).sum(0)
            common = mean_grad * scale / h.shape[1]
        grad_weight = grad_apart * invstd
        constant, slope = torch.zeros_like(centre), torch.zeros_like(centre)
        if ctx.batch:
            over_bias, over_weight = (sum_over_ranks(torch.cat([grad_bias, grad_weight])) / count.to(h.dtype)).chunk(2)
            constant, slope = scale * over_bias, scale * over_weight * invstd
        grad_h = torch.empty_like(h)
        per_channel = (centre.numpy(), scale.numpy(), bias.numpy(), ctx.leak, constant.numpy(), slope.numpy())
        units = h.shape[0] * -(-h.shape[1] // _ROWS)
        in_threads(_gradient, units, h.numpy(), common.numpy(), *per_channel, grad_h.numpy())
        grad_h.scatter_add_(1, place.long().unsqueeze(1), (highest * scale).unsqueeze(1))
        return grad_h, grad_weight, grad_bias, None, None, None, None


@njit(nogil=True, error_model="numpy", fastmath={"nnan", "nsz", "contract"}, inline="never")
def _four_extremes(h: Any, i: int, sign: Any, total: Any, best: Any, place: Any) -> None:
    i0 = np.int32(i)
    for o in range(best.size):
        a, b, c, d = h[i, o], h[i + 1, o], h[i + 2, o], h[i + 3, o]
        total[o] += a + b + c + d
        s = sign[o]
        most, at = a * s, i0
        if b * s > most:
            most, at = b * s, i0 + np.int32(1)
        if c * s > most:
            most, at = c * s, i0 + np.int32(2)
        if d * s > most:
            most, at = d * s, i0 + np.int32(3)
        if most > best[o]:
            best[o] = most
            place[o] = at


@njit(nogil=True, error_model="numpy", fastmath={"contract"}, inline="never")
def _four_squares(h: Any, i: int, mean: Any, total: Any) -> None:
    for o in range(mean.size):
        a, b, c, d = h[i, o] - mean[o], h[i + 1, o] - mean[o], h[i + 2, o] - mean[o], h[i + 3, o] - mean[o]
        total[o] += a * a + b * b + c * c + d * d


@njit(cache=True, nogil=True, error_model="numpy")
def _survey(first: int, last: int, h: Any, sign: Any, means: Any, m2s: Any, extremes: Any, places: Any) -> None:
    """Per unit: mean and centred sum of squares of the rows, and the largest of sign·h (as h) with the row where it first is."""
    _, points, channels = h.shape
    blocks = -(-points // _ROWS)
    best, centre = np.empty(channels, h.dtype), np.empty(channels, h.dtype)
    place = np.empty(channels, np.int32)
    for unit in range(first, last):
        cloud = h[unit // blocks]
        start = unit % blocks * _ROWS
        stop = min(start + _ROWS, points)
        whole = start + (stop - start) // 4 * 4
        mean, m2 = means[unit], m2s[unit]
        mean[:] = 0
        m2[:] = 0
        best[:] = -np.inf
        place[:] = start
        for i in range(start, whole, 4):
            _four_extremes(cloud, i, sign, mean, best, place)
        for i in range(whole, stop):
            for o in range(channels):
                mean[o] += cloud[i, o]
                if cloud[i, o] * sign[o] > best[o]:
                    best[o] = cloud[i, o] * sign[o]
                    place[o] = i
        for o in range(channels):
            mean[o] /= stop - start
            centre[o] = mean[o]
            extremes[unit, o] = best[o] * sign[o]
            places[unit, o] = place[o]
        for i in range(start, whole, 4):
            _four_squares(cloud, i, centre, m2)
        for i in range(whole, stop):
            for o in range(channels):
                m2[o] += (cloud[i, o] - centre[o]) ** 2
        for o in range(channels):
            m2[o] -= (stop - start) * (mean[o] - centre[o]) ** 2  # the squares were taken about the rounded mean


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _activity(first: int, last: int, h: Any, mean: Any, scale: Any, shift: Any, leak: float, slopes: Any, reaches: Any) -> None:
    """Per unit: the sums over its rows of dy/dz and of dy/dz·(h − mean)."""
    _, points, channels = h.shape
    blocks = -(-points // _ROWS)
    one, low = h.dtype.type(1), h.dtype.type(leak)
    for unit in range(first, last):
        cloud = unit // blocks
        start = unit % blocks * _ROWS
        slopes[unit, :] = 0
        reaches[unit, :] = 0
        for i in range(start, min(start + _ROWS, points)):
            for o in range(channels):
                apart = h[cloud, i, o] - mean[o]
                slope = one if apart * scale[o] + shift[o] > 0 else low
                slopes[unit, o] += slope
                reaches[unit, o] += slope * apart


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _gradient(
    first: int, last: int, h: Any, common: Any, mean: Any, scale: Any, shift: Any, leak: float, constant: Any, slope: Any, grad: Any
) -> None:
    """grad = common·dy/dz − constant − slope·(h − mean), with common (B, C) per cloud."""
    _, points, channels = h.shape
    blocks = -(-points // _ROWS)
    one, low = h.dtype.type(1), h.dtype.type(leak)
    for unit in range(first, last):
        cloud = unit // blocks
        start = unit % blocks * _ROWS
        for i in range(start, min(start + _ROWS, points)):
            for o in range(channels):
                apart = h[cloud, i, o] - mean[o]
                active = one if apart * scale[o] + shift[o] > 0 else low
                grad[cloud, i, o] = common[cloud, o] * active - constant[o] - slope[o] * apart
