"""PointNet without T-nets (Qi et al. 2017, arXiv 1612.00593; the five-layer form used beside DGCNN and by CrossNet).

    h = ReLU(BatchNorm(W h)) for 3 → 64 → 64 → 64 → 128 → 1024, shared by all points; f = max over points   (B, 1024)

State: `linears.I.weight` (O, C), `norms.I.*`. Weights start as torch's defaults: U(±1/√fan_in), batch norm at scale 1, shift 0.
"""

from typing import Annotated, Literal

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
    """Clouds (B, N, 3) -> features (B, feature_dim)."""

    def __init__(self, config: PointNetConfig) -> None:
        super().__init__()
        self.config = config
        self.feature_dim = config.widths[-1]
        sizes = (3, *config.widths)
        self.linears = nn.ModuleList(nn.Linear(c, o, bias=False) for c, o in zip(sizes, config.widths, strict=False))
        self.norms = nn.ModuleList(BatchNorm1d(o) for o in config.widths)

    def forward(self, points: Tensor) -> Tensor:
        batch, number, _ = points.shape
        hidden = points.flatten(0, 1)
        for linear, norm in zip(self.linears[:-1], self.norms[:-1], strict=True):
            hidden = nn.functional.relu(norm(linear(hidden)))
        last = self.linears[-1](hidden).view(batch, number, -1)
        return norm_pool(last, self.norms[-1], negative_slope=0.0, average=False)
