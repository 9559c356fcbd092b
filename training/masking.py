"""Which patches of a cloud are hidden, as a function of the sample's key."""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from training.noise import uniforms


class MaskConfig(BaseModel):
    """block: the patches nearest to a random one, itself included (Point-BERT's); random: any. A cloud's share is drawn from U(ratio)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["block", "random"] = "block"
    ratio: tuple[float, float] = Field((0.25, 0.45), description="range of the share; int(share · patches) are hidden, at least one")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        low, high = self.ratio
        if not 0 <= low <= high < 1:
            raise ValueError(f"ratio must be two shares in [0, 1), the smaller first, got {self.ratio}")
        return self


def draw_mask(config: MaskConfig, centres: Tensor, keys: Tensor) -> Tensor:
    """(B, G) bool, true for hidden patches, from centres (B, G, 3) and noise keys (B,) int64. At least one patch stays visible."""
    clouds, groups, _ = centres.shape
    noise = uniforms(keys, 2 + groups)
    low, high = config.ratio
    count = ((low + (high - low) * noise[:, 1]) * groups).long().clamp(1, groups - 1)
    if config.kind == "block":
        seed = (noise[:, 0] * groups).long().clamp(max=groups - 1)
        order = (centres - centres[torch.arange(clouds, device=centres.device), seed, None]).square().sum(-1)
        # equal centres must not push the seed itself out of its block
        order[torch.arange(clouds, device=centres.device), seed] = -1.0
    else:
        order = noise[:, 2:]
    rank = order.argsort(dim=1, stable=True).argsort(dim=1)
    return rank < count[:, None]
