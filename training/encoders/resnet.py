"""ResNet for the image branch (He et al. 2016, arXiv 1512.03385), built by transformers from its configuration, never from a checkpoint.

Weights start at random as in CrossPoint: convolutions Kaiming-normal (fan out), batch norm at scale 1, shift 0. There is no classifier; the
feature is the global average pool. State: transformers' names under `model.`.
"""

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from training.ops.batchnorm import convert

_STAGES = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


class ResNetConfig(BaseModel):
    """Size of the network; the defaults are the paper's. Depths below 50 have basic blocks, from 50 on bottlenecks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["resnet"] = "resnet"
    depth: Literal[10, 18, 34, 50, 101] = 50
    width: int = Field(default=64, ge=4, description="channels of the stem and of the first stage's 3×3 convolutions")


class ResNet(nn.Module):
    """Images (B, 3, H, W), normalised -> features (B, feature_dim). Keys are not used."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        import transformers  # takes seconds to import, and only the image branch needs it

        self.config = config
        bottleneck = config.depth >= 50
        hidden = [config.width * 2**stage * (4 if bottleneck else 1) for stage in range(4)]
        self.feature_dim = hidden[-1]
        layout = transformers.ResNetConfig(
            embedding_size=config.width,
            hidden_sizes=hidden,
            depths=list(_STAGES[config.depth]),
            layer_type="bottleneck" if bottleneck else "basic",
        )
        self.model = convert(transformers.ResNetModel(layout))

    def tokens(self, images: Tensor, keys: Tensor | None = None) -> Tensor:
        """The feature, then the last stage's map row by row: (B, 1 + P, feature_dim), P places of 32 pixels a side, rounded up."""
        places = self.model(images).last_hidden_state.flatten(2).transpose(1, 2)
        return torch.cat([places.mean(1, keepdim=True), places], dim=1)

    def forward(self, images: Tensor, keys: Tensor | None = None) -> Tensor:
        pooled: Tensor = self.model(images).pooler_output
        return torch.flatten(pooled, 1)
