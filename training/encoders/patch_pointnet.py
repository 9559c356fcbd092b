"""The network that turns a patch of points into one vector: Point-BERT's mini-PointNet (arXiv 2111.14819, as its code has it).

    f = W₁ ReLU(BatchNorm(W₀ x))            3 → w₀ → w₁ for each point of a patch
    g = max over the patch's points of f
    y = W₃ ReLU(BatchNorm(W₂ (g ‖ f)))      2·w₁ → w₂ → out, then the maximum over the patch's points

All layers have biases. The same numbers up to rounding with a third of the arithmetic:

- the first batch norm's statistics follow from those of the three coordinates, so it is part of W₀;
- W₂ (g ‖ f) is computed as its two halves, that of g once a patch, not once a point, and W₁ joins that of f: neither f nor what W₃ gives
  is kept for each point, as only its maximum is asked for.

State: W₂ is one matrix (w₂, 2·w₁), the columns of g first.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.distributed import gather
from training.ops.batchnorm import BatchNorm1d, update_running
from training.ops.linear_max import linear_max
from training.ops.norm_relu import norm_relu

_CHUNK = 128  # patches whose hidden layer stays in a core's cache


class PatchPointNet(nn.Module):
    """Patches (R, M, 3), offsets from their centres -> (R, out). Batch norm is over the R·M points of all ranks."""

    def __init__(self, widths: tuple[int, int, int], out: int) -> None:
        super().__init__()
        self.first = nn.Linear(3, widths[0])
        self.norm1 = BatchNorm1d(widths[0])
        self.second = nn.Linear(widths[0], widths[1])
        self.third = nn.Linear(2 * widths[1], widths[2])
        self.norm2 = BatchNorm1d(widths[2])
        self.last = nn.Linear(widths[2], out)

    def forward(self, offsets: Tensor) -> Tensor:
        linear = nn.functional.linear
        first = self._first(offsets)
        of_whole, of_local = self.third.weight.chunk(2, dim=1)
        with torch.autocast(offsets.device.type, enabled=False):
            through = of_local @ self.second.weight
            bias = self.third.bias + (of_whole + of_local) @ self.second.bias
        if not self.training and not torch.is_grad_enabled():
            return self._frozen(offsets, first, through, of_whole, bias)
        local = nn.functional.relu_(linear(offsets, *first))
        common = linear(linear_max(local, self.second.weight), of_whole, bias)
        hidden = norm_relu(linear(local, through), self.norm2, common)
        return linear_max(hidden, self.last.weight) + self.last.bias

    def _frozen(self, offsets: Tensor, first: tuple[Tensor, Tensor], through: Tensor, of_whole: Tensor, bias: Tensor) -> Tensor:
        """The same without gradient: the second batch norm is in the weights too, and on a CPU the hidden layer stays in the cache."""
        linear, norm = nn.functional.linear, self.norm2
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        bias = (bias - norm.running_mean) * scale + norm.bias
        through, of_whole = through * scale[:, None], of_whole * scale[:, None]
        found = []
        for part in torch.split(offsets, _CHUNK if offsets.device.type == "cpu" else max(len(offsets), 1)):
            local = linear(part, *first).relu_()
            common = linear(linear(local, self.second.weight).amax(1), of_whole, bias)
            hidden = linear(local, through).add_(common[:, None]).relu_()
            found.append(linear(hidden, self.last.weight).amax(1) + self.last.bias)
        return torch.cat(found)

    def _first(self, offsets: Tensor) -> tuple[Tensor, Tensor]:
        """Weight (w₀, 3) and bias (w₀,) of the first layer with its batch norm."""
        norm, weight, bias = self.norm1, self.first.weight.double(), self.first.bias.double()
        if norm.training or norm.running_mean is None or norm.running_var is None:
            count, mean, scatter = _moments(offsets.flatten(0, 1).double())
            mean = weight @ mean + bias
            variance = ((weight @ (scatter / count)) * weight).sum(1)
            update_running(norm, count, mean.detach(), variance.detach() * count)
        else:
            mean, variance = norm.running_mean, norm.running_var
        scale = norm.weight * torch.rsqrt(variance + norm.eps)
        dtype = self.first.weight.dtype
        return (weight * scale[:, None]).to(dtype), ((bias - mean) * scale + norm.bias).to(dtype)


def _moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """count (), mean (C,) and centred sums of products (C, C) of the vectors (n, C) of all ranks."""
    channels = x.shape[1]
    mean = x.sum(0) / max(len(x), 1)
    centred = x - mean
    local = torch.cat([x.new_tensor([len(x)]), mean, (centred.T @ centred).flatten()])
    counts, means, scatters = torch.split(gather(local[None]), [1, channels, channels**2], dim=1)
    count = counts.sum()
    mean = (counts * means).sum(0) / count
    apart = means - mean
    return count, mean, scatters.sum(0).view(channels, channels) + (counts * apart).T @ apart
