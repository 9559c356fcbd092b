"""Batch norm inside a point 4D convolution, over all neighbours of all anchors of all ranks, without a tensor of a value for each of them.

A map linear in the displacements has a mean and a variance that follow from those of the four numbers of a displacement, so its batch norm
is part of its weights. A feature of a point that c anchors have as a neighbour counts c times.
"""

import torch
from torch import Tensor, nn

from training.distributed import gather
from training.ops.batchnorm import update_running

_ROWS = 1 << 16  # displacements at a time in float64


def folded(d: Tensor, weight: Tensor, norm: nn.modules.batchnorm._BatchNorm) -> tuple[Tensor, Tensor]:
    """d (…, 4), weight (O, 4) -> the weight (O, 4) and bias (O,) of norm(W d)."""
    wide = weight.double()
    if norm.training or norm.running_mean is None or norm.running_var is None:
        count, mean, scatter = _moments(d.flatten(0, -2))
        mean = wide @ mean
        variance = ((wide @ (scatter / count)) * wide).sum(1)
        update_running(norm, count, mean.detach(), variance.detach() * count)
    else:
        mean, variance = norm.running_mean, norm.running_var
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    return (wide * scale[:, None]).to(weight.dtype), (norm.bias - mean * scale).to(weight.dtype)


def shared_norm(v: Tensor, rows: Tensor, norm: nn.modules.batchnorm._BatchNorm) -> Tensor:
    """v (P, C), rows (…) int64 into it -> norm(v) (P, C), as the batch norm of v[rows] gives it."""
    if norm.training or norm.running_mean is None or norm.running_var is None:
        counts = torch.bincount(rows.flatten(), minlength=len(v))
        shares = (counts.double() / counts.sum().clamp(min=1)).to(v.dtype)
        mean = shares @ v
        centred = v - mean
        local = torch.cat([counts.sum()[None].double(), mean.double(), (shares @ centred.square()).double()])
        every = gather(local[None])
        total = every[:, 0].sum()
        part = every[:, :1] / total
        means, variances = every[:, 1:].chunk(2, dim=1)
        whole = (part * means).sum(0)
        variance = (part * (variances + (means - whole).square())).sum(0)
        update_running(norm, total, whole.detach(), variance.detach() * total)
    else:
        centred, mean, whole, variance = v, torch.zeros_like(norm.running_mean), norm.running_mean, norm.running_var
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    return centred * scale.to(v.dtype) + (norm.bias - (whole - mean) * scale).to(v.dtype)


def _moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """count (), mean (C,) and centred sums of products (C, C), in float64, of the vectors (n, C) of all ranks."""
    channels = x.shape[1]
    near = x[:_ROWS].detach().double().mean(0)  # so that nothing cancels far from the origin
    sums, products = near.new_zeros(channels), near.new_zeros(channels, channels)
    for part in torch.split(x, _ROWS):
        centred = part.double() - near
        sums, products = sums + centred.sum(0), products + centred.T @ centred
    apart = sums / len(x)
    scatter = products - len(x) * torch.outer(apart, apart)
    local = torch.cat([near.new_tensor([len(x)]), near + apart, scatter.flatten()])
    counts, means, scatters = torch.split(gather(local[None]), [1, channels, channels**2], dim=1)
    count = counts.sum()
    mean = (counts * means).sum(0) / count
    differences = means - mean
    return count, mean, scatters.sum(0).view(channels, channels) + (counts * differences).T @ differences
