"""Batch norm over the global batch: W workers on slices of a batch normalise as one worker on the whole of it.

torch's SyncBatchNorm refuses CPU tensors, so the statistics are exchanged here, in the same way on gloo and NCCL. Each rank computes count,
mean and centred sum of squares of its slice; the ranks gather these and merge them in rank order (Chan, Golub, LeVeque 1979): all ranks
hold the same bits, and nothing cancels as it does in E[x²] − E[x]². Backward sums the two per-channel gradients over the ranks.

Gradients follow torch's convention: each rank holds d(sum of all ranks' losses)/d(its inputs). So a loss that every rank computes from
embeddings gathered with `training.distributed.gather`, with parameter gradients averaged as DDP does, has the gradient that
one worker would have. Ranks may hold slices of different sizes.
"""

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def world_size() -> int:
    """Ranks of the default process group; 1 where none is initialised."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_ranks(values: Tensor) -> Tensor:
    """The elementwise sum of a tensor over all ranks; with one rank the tensor itself. Not differentiable."""
    if world_size() > 1:
        values = values.contiguous().clone()
        dist.all_reduce(values)
    return values


def merge_moments(counts: Tensor, means: Tensor, m2s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Moments of a union from the moments of its parts.

    counts (P,), means (P, C), centred sums of squares m2s (P, C) -> count (), mean (C,), m2 (C,) in the dtype given. A part may be empty.
    """
    count = counts.sum()
    shares = (counts / count)[:, None]
    centre = means[:1]  # differences to one of the means stay small where the means themselves are large
    mean = centre[0] + (shares * (means - centre)).sum(0)
    m2 = m2s.sum(0) + (counts[:, None] * (means - mean).square()).sum(0)
    return count, mean, m2


def global_moments(count: Tensor, mean: Tensor, m2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Merges this rank's count (), mean (C,) and centred sum of squares (C,) with those of the other ranks; all ranks get equal bits."""
    world = world_size()
    if world == 1:
        return count, mean, m2
    local = torch.cat([count.reshape(1).to(mean.dtype), mean, m2])
    gathered = local.new_empty(world * local.numel())
    dist.all_gather_single(gathered, local)
    parts = gathered.view(world, -1)
    channels = mean.numel()
    return merge_moments(parts[:, 0], parts[:, 1 : 1 + channels], parts[:, 1 + channels :])


def update_running(norm: nn.modules.batchnorm._BatchNorm, count: Tensor, mean: Tensor, m2: Tensor) -> None:
    """Moves the running statistics of a module as torch does: unbiased variance, `momentum` None for the cumulative average."""
    if not norm.track_running_stats or norm.running_mean is None or norm.running_var is None:
        return
    with torch.no_grad():
        assert norm.num_batches_tracked is not None
        norm.num_batches_tracked += 1
        rate = 1.0 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
        norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), rate)
        norm.running_var.lerp_((m2 / (count - 1).clamp(min=1)).to(norm.running_var.dtype), rate)


class _GlobalNorm(torch.autograd.Function):
    """x (B, C, …) normalised by the moments of all ranks' x. Returns y, count, mean, m2; the moments carry no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        wide = x if x.dtype == torch.float64 else x.float()
        axes = [0, *range(2, x.dim())]
        shape = [1, -1] + [1] * (x.dim() - 2)
        size = x.numel() // x.shape[1]
        variance, mean = torch.var_mean(wide, axes, correction=0)
        # merged in double: a count above 2²⁴ is no longer an integer in float32
        local = torch.tensor(float(size), dtype=torch.float64, device=x.device)
        count, mean, m2 = global_moments(local, mean.double(), variance.double() * size)
        invstd = torch.rsqrt(m2 / count + eps).to(wide.dtype)
        xhat = (wide - mean.to(wide.dtype).view(shape)) * invstd.view(shape)
        y = xhat if weight is None else xhat * weight.view(shape)
        y = y if bias is None else y + bias.view(shape)
        ctx.save_for_backward(x, weight, mean.to(wide.dtype), invstd, count)
        ctx.mark_non_differentiable(count, mean, m2)
        return y.to(x.dtype), count, mean, m2

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, weight, mean, invstd, count = ctx.saved_tensors
        axes = [0, *range(2, x.dim())]
        shape = [1, -1] + [1] * (x.dim() - 2)
        grad = grad.to(mean.dtype)
        xhat = (x.to(mean.dtype) - mean.view(shape)) * invstd.view(shape)
        grad_bias = grad.sum(axes)
        grad_weight = (grad * xhat).sum(axes)
        grad_x = None
        if ctx.needs_input_grad[0]:
            both = sum_over_ranks(torch.cat([grad_bias, grad_weight])) / count.to(mean.dtype)
            over_bias, over_weight = both.chunk(2)
            scale = invstd if weight is None else invstd * weight
            grad_x = ((grad - over_bias.view(shape) - xhat * over_weight.view(shape)) * scale.view(shape)).to(x.dtype)
        return grad_x, None if weight is None else grad_weight, None if weight is None else grad_bias, None


def _forward(norm: nn.modules.batchnorm._BatchNorm, x: Tensor) -> Tensor:
    results = _GlobalNorm.apply(x, norm.weight, norm.bias, norm.eps)  # type: ignore[no-untyped-call]
    y, count, mean, m2 = cast("tuple[Tensor, Tensor, Tensor, Tensor]", results)
    update_running(norm, count, mean, m2)
    return y


def _spans_ranks(norm: nn.modules.batchnorm._BatchNorm) -> bool:
    return (norm.training or norm.running_mean is None) and world_size() > 1


class BatchNorm1d(nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d` over the global batch: (B, C) or (B, C, L). Same parameters, buffers and state_dict names."""

    def forward(self, x: Tensor) -> Tensor:
        if not _spans_ranks(self):
            return super().forward(x)
        self._check_input_dim(x)
        return _forward(self, x)


class BatchNorm2d(nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` over the global batch: (B, C, H, W). Same parameters, buffers and state_dict names."""

    def forward(self, x: Tensor) -> Tensor:
        if not _spans_ranks(self):
            return super().forward(x)
        self._check_input_dim(x)
        return _forward(self, x)


def convert(module: nn.Module) -> nn.Module:
    """Replaces every torch BatchNorm1d and BatchNorm2d inside `module` by ours, which take over the very same parameters and buffers.

    Works in place and returns the module (or its replacement, where the module itself is a batch norm).
    """
    if type(module) in (nn.BatchNorm1d, nn.BatchNorm2d):
        norm = cast("nn.modules.batchnorm._BatchNorm", module)
        kind = BatchNorm1d if isinstance(module, nn.BatchNorm1d) else BatchNorm2d
        ours = kind(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        ours._parameters.update(norm._parameters)
        ours._buffers.update(norm._buffers)
        return ours.train(norm.training)
    for name, child in module.named_children():
        replacement = convert(child)
        if replacement is not child:
            setattr(module, name, replacement)
    return module
