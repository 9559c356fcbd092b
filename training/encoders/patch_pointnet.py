"""The network that turns a patch of points into one vector: Point-BERT's mini-PointNet (arXiv 2111.14819, as its code has it).

    f = W₁ ReLU(BatchNorm(W₀ x))            3 → w₀ → w₁ for each point of a patch
    g = max over the patch's points of f
    y = W₃ ReLU(BatchNorm(W₂ (g ‖ f)))      2·w₁ → w₂ → out, then the maximum over the patch's points

All layers have biases. W₂ (g ‖ f) is computed as its two halves: that of g once a patch, not once a point, and so are the biases of W₁, W₂
and W₃. The same numbers up to rounding, with half of that layer's arithmetic. State: W₂ is one matrix (w₂, 2·w₁), the columns of g first.
"""

from __future__ import annotations

from torch import Tensor, nn

from training.ops.batchnorm import BatchNorm1d


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
        patches, points, _ = offsets.shape
        linear, relu = nn.functional.linear, nn.functional.relu_
        local = relu(self.norm1(self.first(offsets.flatten(0, 1)))).view(patches, points, self.first.out_features)
        local = linear(local, self.second.weight)  # its bias joins below, once a patch
        whole = local.max(1).values  # on the CPU its backward is cheaper than that of amax
        of_whole, of_local = self.third.weight.chunk(2, dim=1)
        common = linear(whole + self.second.bias, of_whole, self.third.bias) + linear(self.second.bias, of_local)
        hidden = linear(local, of_local)  # (R, M, w₂) and no view, of which an addition in place would copy gradients
        hidden += common.unsqueeze(1)
        hidden = relu(self.norm2(hidden.flatten(0, 1))).view_as(hidden)
        out: Tensor = linear(hidden, self.last.weight).max(1).values + self.last.bias
        return out
