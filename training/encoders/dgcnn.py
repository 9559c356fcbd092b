"""DGCNN, the classification variant of CrossPoint (Wang et al. 2019, arXiv 1801.07829; Afham et al. 2022, arXiv 2203.00680).

    x1 = EdgeConv(points, 64), x2 = EdgeConv(x1, 64), x3 = EdgeConv(x2, 128), x4 = EdgeConv(x3, 256)   neighbours anew in each layer
    h  = LeakyReLU(BatchNorm(W (x1 ‖ x2 ‖ x3 ‖ x4)))                                                    (B, N, 1024)
    f  = max over points of h ‖ mean over points of h                                                   (B, 2048)

State: `edge_convs.I.linear.weight` (O, 2C) over concat(x_j − x_i, x_i), `edge_convs.I.norm.*`, `linear.weight` (embedding, sum of widths),
`norm.*`; the weight (O, C, 1[, 1]) of a released 1×1 convolution is the same matrix. Weights start as torch's defaults: U(±1/√fan_in),
batch norm at scale 1, shift 0.
"""

from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from training.ops.batchnorm import BatchNorm1d
from training.ops.edgeconv import EdgeConv
from training.ops.pool import norm_pool

Width = Annotated[int, Field(ge=1)]


class DGCNNConfig(BaseModel):
    """Sizes of the network; the defaults are those of CrossPoint's pretraining command."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["dgcnn"] = "dgcnn"
    k: int = Field(default=15, ge=1, description="neighbours of a point, itself included")
    widths: tuple[Width, ...] = Field(default=(64, 64, 128, 256), min_length=1, description="channels of the edge convolutions")
    embedding: int = Field(default=1024, ge=1, description="channels before pooling; the feature is twice as wide")


class DGCNN(nn.Module):
    """Clouds (B, N, 3) -> features (B, feature_dim). Keys are not used. Raises ValueError where a cloud has fewer than k points."""

    def __init__(self, config: DGCNNConfig) -> None:
        super().__init__()
        self.config = config
        self.feature_dim = 2 * config.embedding
        self.point_dim = sum(config.widths)
        sizes = (3, *config.widths)
        self.edge_convs = nn.ModuleList(EdgeConv(c, o, config.k) for c, o in zip(sizes, config.widths, strict=False))
        self.linear = nn.Linear(self.point_dim, config.embedding, bias=False)
        self.norm = BatchNorm1d(config.embedding)

    def point_features(self, points: Tensor, keys: Tensor | None = None) -> Tensor:
        """Outputs of all edge convolutions side by side: (B, N, 3) -> (B, N, point_dim)."""
        outputs = [points]
        for edge_conv in self.edge_convs:
            outputs.append(edge_conv(outputs[-1]))
        return torch.cat(outputs[1:], dim=-1)

    def forward(self, points: Tensor, keys: Tensor | None = None) -> Tensor:
        return norm_pool(self.linear(self.point_features(points)), self.norm, negative_slope=0.2, average=True)
