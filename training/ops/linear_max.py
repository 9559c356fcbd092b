"""A linear map of vectors that come in sets, and its maximum over each set.

    y_ro = max over m of w_o · a_rm

Only one vector of a set has a gradient from each output, so backward takes a set's size less arithmetic than products with the gradient
written out; and the products of all vectors are not kept. This on a CPU; other devices compose the usual operations.
"""

from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from training.ops.threads import in_threads

_ELEMENTS = 1 << 17  # numbers of the product at a time: they stay in a core's cache
_BLOCKS = 16  # parts of the sets that add up the weight's gradient, whatever the number of threads


def linear_max(a: Tensor, weight: Tensor) -> Tensor:
    """a (R, M, C), weight (O, C) -> (R, O), M ≥ 1. Of equal vectors the first has the gradient."""
    if a.device.type != "cpu" or a.dtype != weight.dtype or torch.is_autocast_enabled("cpu"):
        return nn.functional.linear(a, weight).max(1).values
    return _LinearMax.apply(a.contiguous(), weight)  # type: ignore[no-untyped-call, no-any-return]


class _LinearMax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, weight: Tensor) -> Tensor:
        sets, outputs = len(a), len(weight)
        best, places = a.new_empty(sets, outputs), torch.empty(sets, outputs, dtype=torch.int32)
        step = max(1, _ELEMENTS // max(1, a.shape[1] * outputs))
        for start in range(0, sets, step):
            part = slice(start, min(start + step, sets))
            y = nn.functional.linear(a[part], weight)
            in_threads(_largest, len(y), y.numpy(), best[part].numpy(), places[part].numpy())
        ctx.save_for_backward(a, weight, places)
        return best

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        a, weight, places = ctx.saved_tensors
        return spread_largest(a, weight, places, grad)


def spread_largest(a: Tensor, weight: Tensor, places: Tensor, grad: Tensor, centre: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The gradients of a (R, M, C) and weight (O, C) where output o of set r, of gradient grad (R, O), is w_o · a[r, places[r, o]].

    With `centre` (C,) the gradient of the weight is that of w_o · (a[r, places[r, o]] − centre).
    """
    grad_a, parts = torch.empty_like(a), weight.new_empty(_BLOCKS, *weight.shape)
    centre = a.new_zeros(a.shape[2]) if centre is None else centre
    arrays = [tensor.detach().contiguous().numpy() for tensor in (a, weight, places, grad, centre)]
    in_threads(_spread, _BLOCKS, *arrays, grad_a.numpy(), parts.numpy())
    return grad_a, parts.sum(0)


@njit(cache=True, nogil=True, error_model="numpy")
def _largest(first: int, last: int, y: Any, best: Any, places: Any) -> None:
    _, vectors, outputs = y.shape
    for r in range(first, last):
        for o in range(outputs):
            best[r, o] = y[r, 0, o]
            places[r, o] = 0
        for m in range(1, vectors):
            here = np.int32(m)
            for o in range(outputs):
                value = y[r, m, o]
                larger = (value > best[r, o]) | (value != value)  # as torch's, what is not a number is the largest
                best[r, o] = value if larger else best[r, o]
                places[r, o] = here if larger else places[r, o]


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _spread(first: int, last: int, a: Any, weight: Any, places: Any, grad: Any, centre: Any, grad_a: Any, parts: Any) -> None:
    sets, vectors, channels = a.shape
    for part in range(first, last):
        parts[part] = 0
        for r in range(sets * part // _BLOCKS, sets * (part + 1) // _BLOCKS):
            for m in range(vectors):
                for c in range(channels):
                    grad_a[r, m, c] = 0
            for o in range(grad.shape[1]):
                m, g = places[r, o], grad[r, o]
                for c in range(channels):
                    grad_a[r, m, c] += g * weight[o, c]
                for c in range(channels):
                    parts[part, o, c] += g * (a[r, m, c] - centre[c])
