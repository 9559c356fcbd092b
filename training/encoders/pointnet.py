"""PointNet without T-nets (Qi et al. 2017, arXiv 1612.00593; the five-layer form used beside DGCNN and by CrossNet).

    h = ReLU(BatchNorm(W h)) for 3 → 64 → 64 → 64 → 128 → 1024, shared by all points; f = max over points   (B, 1024)

State: `linears.I.weight` (O, C), `norms.I.*`. Weights start as torch's defaults: U(±1/√fan_in), batch norm at scale 1, shift 0.
"""

from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from training.ops.batchnorm import BatchNorm1d
from training.ops.pool import norm_pool

Width = Annotated[int, Field(ge=1)]


class PointNetConfig(BaseModel):
    """Sizes of the network; the last width is the feature's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["pointnet"] = "pointnet"
    widths: tuple[Width, ...] = Field(default=(64, 64, 64, 128, 1024), min_length=1, description="channels of the shared layers")


class PointNet(nn.Module):
    """Clouds (B, N, 3) -> features (B, feature_dim). Keys are not used."""

    def __init__(self, config: PointNetConfig) -> None:
        super().__init__()
        self.config = config
        self.feature_dim = config.widths[-1]
        self.point_dim = sum(config.widths[:-1])
        sizes = (3, *config.widths)
        self.linears = nn.ModuleList(nn.Linear(c, o, bias=False) for c, o in zip(sizes, config.widths, strict=False))
        self.norms = nn.ModuleList(BatchNorm1d(o) for o in config.widths)

    def point_features(self, points: Tensor, keys: Tensor | None = None) -> Tensor:
        """Outputs of all shared layers but the last side by side: (B, N, 3) -> (B, N, point_dim). Raises ValueError for one layer."""
        if not self.point_dim:
            raise ValueError("A PointNet with one layer has no features of points: give it two widths or more.")
        return torch.cat(self._shared(points)[1:], dim=-1).view(*points.shape[:2], -1)

    def forward(self, points: Tensor, keys: Tensor | None = None) -> Tensor:
        last = self.linears[-1](self._shared(points)[-1]).view(*points.shape[:2], -1)
        return norm_pool(last, self.norms[-1], negative_slope=0.0, average=False)

    def _shared(self, points: Tensor) -> list[Tensor]:
        outputs = [points.flatten(0, 1)]
        for linear, norm in zip(self.linears[:-1], self.norms[:-1], strict=True):
            outputs.append(nn.functional.relu(norm(linear(outputs[-1]))))
        return outputs
