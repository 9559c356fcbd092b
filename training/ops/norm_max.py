"""A linear map of vectors that come in sets, batch norm, ReLU and the maximum over each set, without a tensor of what is mapped.

    y_rm = W a_rm,   z = scale (y − mean) + shift,   out_r = max over m of max(0, z_rm)

In each channel z is monotone in y, so that the largest y of a set, or the smallest where the scale is negative, is all that is kept of y.
Batch norm gives every y a gradient, of the form α + β (y − mean) for each channel; in what reaches a and W of it y is a linear map of a,
so products of a with itself take the place of y. On a CPU y is computed in parts that stay in the cache; other devices compose the usual
operations.
"""

from typing import Any, cast

import numpy as np
import torch
from numba import njit
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from training.ops.batchnorm import global_moments, merge_moments, sum_over_ranks, update_running
from training.ops.linear_max import spread_largest
from training.ops.norm_relu import norm_relu
from training.ops.threads import in_threads

_ELEMENTS = 1 << 17  # numbers of y at a time
_SETS = 16  # sets that are one unit of work


def linear_norm_max(a: Tensor, weight: Tensor, norm: nn.modules.batchnorm._BatchNorm) -> Tensor:
    """a (R, M, C), weight (O, C) -> (R, O), R and M ≥ 1. `norm` is an affine batch norm over O channels, its statistics those of all R·M
    vectors of all ranks. Of equal vectors the first has the gradient."""
    if a.device.type != "cpu" or a.dtype != weight.dtype or torch.is_autocast_enabled("cpu"):
        return norm_relu(nn.functional.linear(a, weight), norm).max(1).values
    running = None if norm.training or norm.running_mean is None or norm.running_var is None else (norm.running_mean, norm.running_var)
    scale, shift = norm.weight.to(a.dtype), norm.bias.to(a.dtype)
    results = _LinearNormMax.apply(a.contiguous(), weight, scale, shift, running, norm.eps)  # type: ignore[no-untyped-call]
    out, count, mean, m2 = cast("tuple[Tensor, Tensor, Tensor, Tensor]", results)
    if norm.training:
        update_running(norm, count, mean, m2)
    return out


class _LinearNormMax(torch.autograd.Function):
    """Returns out, count, mean, m2; the moments carry no gradient."""

    @staticmethod
    def forward(
        ctx: Any, a: Tensor, weight: Tensor, norm_weight: Tensor, norm_bias: Tensor, running: tuple[Tensor, Tensor] | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        sets, vectors, _ = a.shape
        outputs = len(weight)
        extremes, places = a.new_empty(sets, outputs), torch.empty(sets, outputs, dtype=torch.int32)
        sign = torch.where(norm_weight < 0, -1.0, 1.0).to(a.dtype)
        step = max(_SETS, _ELEMENTS // (vectors * outputs) // _SETS * _SETS)
        y = a.new_empty(min(step, sets) * vectors, outputs)
        means = torch.empty(-(-sets // _SETS), outputs, dtype=torch.float64)
        m2s, transposed = torch.empty_like(means), weight.T
        for start in range(0, sets, step):
            some = a[start : start + step]
            product = torch.mm(some.flatten(0, 1), transposed, out=y[: len(some) * vectors]).view(len(some), vectors, outputs)
            units = slice(start // _SETS, -(-(start + len(some)) // _SETS))
            kept = (extremes[start : start + step], places[start : start + step], means[units], m2s[units])
            arrays = [tensor.numpy() for tensor in (product, sign, *kept)]
            in_threads(_survey, units.stop - units.start, running is None, *arrays)
        if running is None:
            counts = torch.full((len(means),), float(_SETS * vectors), dtype=torch.float64)
            counts[-1] = (sets - (len(means) - 1) * _SETS) * vectors
            count, mean, m2 = global_moments(*merge_moments(counts, means, m2s))
            variance = m2 / count
        else:
            (mean, variance), count, m2 = running, norm_bias.new_zeros(()), norm_bias.new_zeros(outputs)
            mean = mean.clone()
        invstd = torch.rsqrt(variance.double() + eps).to(a.dtype)
        scale = invstd * norm_weight
        apart = extremes.sub_(mean.to(a.dtype))
        out = torch.addcmul(norm_bias, apart, scale).relu_()
        ctx.save_for_backward(a, weight, apart, places, out, mean, invstd, scale, count)
        ctx.batch = running is None
        ctx.mark_non_differentiable(count, mean, m2)
        return out, count, mean, m2

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        a, weight, apart, places, out, mean, invstd, scale, count = ctx.saved_tensors
        gated = grad * (out > 0)
        grad_bias, grad_norm = gated.sum(0), (gated * apart).sum(0) * invstd
        centre = a.mean((0, 1)) if ctx.batch else None
        grad_a, grad_weight = spread_largest(a, weight, places, gated * scale, centre)
        if centre is not None:
            # −α − β (y − mean) for every y; all sums over a are about its centre, where they cancel as little as may be
            rows, into = a.flatten(0, 1), grad_a.flatten(0, 1)
            total = sum_over_ranks(torch.cat([grad_bias, grad_norm]))
            share = len(rows) / float(count)
            over_bias, over_norm = (total / float(count)).chunk(2)
            alpha, beta = scale * over_bias, scale * over_norm * invstd
            sloped = beta[:, None] * weight
            offset = beta * (weight.double() @ centre.double() - mean).to(a.dtype)
            through, common = weight.T @ sloped, (alpha + offset) @ weight
            products, remainder = torch.zeros_like(through, dtype=torch.float64), torch.zeros_like(centre)
            step = max(1, _ELEMENTS // rows.shape[1])
            for start in range(0, len(rows), step):
                centred = rows[start : start + step] - centre
                remainder += centred.sum(0)
                wide = centred.double()  # W of a channel of little variance is almost orthogonal to these products
                products.addmm_(wide.T, wide)
                into[start : start + step].sub_(common).addmm_(centred, through, alpha=-1)
            whole = scale * (grad_bias - share * total[: len(grad_bias)]) - sloped @ remainder - len(rows) * offset
            grad_weight += torch.outer(whole, centre) - torch.outer(alpha + offset, remainder) - (sloped.double() @ products).to(a.dtype)
        return grad_a, grad_weight, grad_norm, grad_bias, None, None


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _survey(first: int, last: int, moments: bool, y: Any, sign: Any, extremes: Any, places: Any, means: Any, m2s: Any) -> None:
    """Per set its largest sign·y and where it is, per unit of sets mean and centred sum of squares."""
    sets, vectors, outputs = y.shape
    mean, square = np.empty(outputs, y.dtype), np.empty(outputs, y.dtype)
    for unit in range(first, last):
        start, stop = unit * _SETS, min((unit + 1) * _SETS, sets)
        mean[:] = 0
        for r in range(start, stop):
            best, place = extremes[r], places[r]
            for o in range(outputs):
                best[o] = y[r, 0, o] * sign[o]
                place[o] = 0
                mean[o] += y[r, 0, o]
            for m in range(1, vectors):
                here = np.int32(m)
                for o in range(outputs):
                    value = y[r, m, o] * sign[o]
                    mean[o] += y[r, m, o]
                    larger = (value > best[o]) | (value != value)  # as torch's, what is not a number is the largest
                    best[o] = value if larger else best[o]
                    place[o] = here if larger else place[o]
            for o in range(outputs):
                best[o] *= sign[o]
        if moments:
            share = y.dtype.type(1 / ((stop - start) * vectors))
            for o in range(outputs):
                mean[o] *= share
                square[o] = 0
            for r in range(start, stop):
                for m in range(vectors):
                    for o in range(outputs):
                        apart = y[r, m, o] - mean[o]
                        square[o] += apart * apart
            for o in range(outputs):
                means[unit, o] = mean[o]
                m2s[unit, o] = square[o]
