"""The point transformer of Point-BERT (Yu et al. 2022, arXiv 2111.14819, as its code has it): patches as words, a CLS token in front.

    centres (B, G, 3), offsets (B, G, M, 3) = farthest points and their nearest points, minus the centre, not rescaled
    e = bridge(PatchPointNet(offsets))        (B, G, C); the linear bridge only where the patch's feature has another width
    x = (CLS ‖ e),  p = (CLS position ‖ MLP(centres))
    x ← Block(x + p)                          for each block anew
    tokens = LayerNorm(x)                     (B, 1 + G, C)
    f = tokens[CLS] ‖ max over patches of tokens       (B, 2·C)

A masked patch keeps its position and gets the mask token instead of e. Only visible patches go through the PatchPointNet, so that batch
statistics carry nothing of what is masked ([ours]; Point-BERT embeds all and replaces). Features of points are the tokens of the levels,
each through the final norm, side by side, carried to the points by inverse distance from their three nearest centres.

Weights start from a truncated normal of 0.02, biases from 0. The defaults are Point-BERT's sizes.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from training.encoders.patch_pointnet import PatchPointNet
from training.encoders.transformer import blocks, init_weights, learned, position_mlp
from training.ops.grouping import Patches, make_patches
from training.ops.interpolate import three_nearest

Width = Annotated[int, Field(ge=1)]


class PointTransformerConfig(BaseModel):
    """Sizes of patches and network."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["point_transformer"] = "point_transformer"
    groups: int = Field(default=64, ge=1, description="patches of a cloud")
    group_size: int = Field(default=32, ge=1, description="points of a patch")
    patch_widths: tuple[Width, Width, Width] = Field(default=(128, 256, 512), description="hidden channels of the patch network")
    patch_feature: int = Field(default=256, ge=1, description="channels of a patch's feature before the bridge")
    width: int = Field(default=384, ge=1)
    depth: int = Field(default=12, ge=1)
    heads: int = Field(default=6, ge=1)
    mlp_ratio: float = Field(default=4.0, gt=0)
    drop_path: float = Field(default=0.1, ge=0, lt=1, description="of the last block; rises linearly from 0 at the first")
    levels: tuple[Width, ...] | None = Field(
        default=None, min_length=1, description="blocks, from 1, whose tokens are point features; without: the ends of the depth's thirds"
    )
    skip_origin: bool = Field(default=False, description="farthest points as Point-BERT's kernel: none within √0.001 of the origin")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"a width of {self.width} does not divide among {self.heads} heads: choose a multiple")
        if self.levels is not None and (list(self.levels) != sorted(set(self.levels)) or self.levels[-1] > self.depth):
            raise ValueError(f"levels {self.levels} are not block numbers in rising order from 1 to the depth of {self.depth}")
        return self

    @property
    def point_levels(self) -> tuple[int, ...]:
        """The levels, or where none are given the ends of the depth's thirds, rounded up: 4, 8, 12 of 12; 2, 3, 4 of 4; 1, 2 of 2."""
        return self.levels or tuple(sorted({-(-self.depth * third // 3) for third in (1, 2, 3)}))


class PointTransformer(nn.Module):
    """Clouds (B, N, 3) -> features (B, feature_dim), CLS and maximum. Drop path needs `keys` (B,) int64, one for each sample."""

    def __init__(self, config: PointTransformerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.feature_dim = 2 * width
        self.point_dim = len(config.point_levels) * width
        self.embed = PatchPointNet(config.patch_widths, config.patch_feature)
        self.bridge = nn.Identity() if config.patch_feature == width else nn.Linear(config.patch_feature, width)
        self.cls_token = learned(1, 1, width)
        self.cls_position = learned(1, 1, width)
        self.position = position_mlp(width)
        self.blocks = blocks(width, config.depth, config.heads, config.mlp_ratio, config.drop_path)
        self.norm = nn.LayerNorm(width)
        self.apply(init_weights)

    def patch(self, points: Tensor) -> Patches:
        """Points (B, N, 3) to patches, without gradient. Raises ValueError where a cloud has too few points."""
        return make_patches(points, self.config.groups, self.config.group_size, self.config.skip_origin)

    def tokens(self, patches: Patches, keys: Tensor | None = None, mask: Tensor | None = None, mask_token: Tensor | None = None) -> Tensor:
        """Tokens after the final norm, CLS first: (B, 1 + G, C).

        mask (B, G) bool, true where masked, and mask_token (C,) go together. Nothing of a masked patch but its centre is read.
        """
        last = len(self.blocks)
        return self._levels(self._embedded(patches, mask, mask_token), patches.centres, keys, (last,))[0]

    def cls(self, patches: Patches, keys: Tensor | None = None) -> Tensor:
        """The first of the `tokens` alone, (B, C), at less than their cost."""
        return self._levels(self._embedded(patches, None, None), patches.centres, keys, (len(self.blocks),), first=1)[0][:, 0]

    def point_features(self, points: Tensor, keys: Tensor | None = None) -> Tensor:
        """Features of every point: (B, N, 3) -> (B, N, point_dim)."""
        patches = self.patch(points)
        levels = self._levels(self._embedded(patches, None, None), patches.centres, keys, self.config.point_levels)
        return three_nearest(points, patches.centres, torch.cat([level[:, 1:] for level in levels], dim=-1))

    def forward(self, points: Tensor, keys: Tensor | None = None) -> Tensor:
        return pool_tokens(self.tokens(self.patch(points), keys))

    def _embedded(self, patches: Patches, mask: Tensor | None, mask_token: Tensor | None) -> Tensor:
        clouds, groups = patches.centres.shape[:2]
        offsets = patches.offsets.flatten(0, 1)
        if mask is None:
            embedded: Tensor = self.bridge(self.embed(offsets))
            return embedded.view(clouds, groups, -1)
        if mask_token is None:
            raise ValueError("A mask without a mask token: give `tokens` the vector that stands for a masked patch.")
        visible = (~mask).flatten().nonzero().squeeze(1)
        embedded = self.bridge(self.embed(offsets[visible]))
        everywhere = mask_token.to(embedded.dtype).expand(clouds * groups, -1)
        return everywhere.index_copy(0, visible, embedded).view(clouds, groups, -1)

    def _levels(
        self, embedded: Tensor, centres: Tensor, keys: Tensor | None, levels: tuple[int, ...], first: int | None = None
    ) -> list[Tensor]:
        """The tokens of each level; `first`: that many of the last level's."""
        position = torch.cat([self.cls_position.expand(len(centres), -1, -1), self.position(centres)], dim=1)
        x = torch.cat([self.cls_token.expand(len(centres), -1, -1), embedded], dim=1)
        outputs = []
        for number, block in enumerate(self.blocks[: levels[-1]], start=1):
            x = block(x + position, keys, first if number == levels[-1] else None)
            if number in levels:
                outputs.append(self.norm(x))
        return outputs


def pool_tokens(tokens: Tensor) -> Tensor:
    """Tokens (B, 1 + G, C) to CLS beside the maximum over patches: (B, 2·C)."""
    return torch.cat([tokens[:, 0], tokens[:, 1:].amax(1)], dim=-1)
