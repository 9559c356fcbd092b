"""P4Transformer for the segmentation of points in videos (Fan, Yang, Kankanhalli 2021; methods-C, C.2.2, as its code for Synthia has it).

    a_i, h_i = Point4DConv_i(a_{i−1}, h_{i−1})          four levels, radius r·2^i, the third over three frames, BN and ReLU after each layer
    z = Transformer(h_4)                                all L·n₄ tokens, without positions; frame features: maxima over a frame's tokens
    u_i = MLP_i(carry(a_i → a_{i−1}, u_{i+1}) ‖ h_{i−1})     u_5 = z; frame by frame, from the three nearest anchors by 1 / (d + 1e-8)

u_1 are the features of the points (B, T, N, 128). h_0 are the points' own features; where a point has none, nothing stands beside the last
carried features. The published code has a ReLU before the transformer, where nothing is below 0. Every level has as many
frames as the clip. Weights start as torch's defaults.

The defaults are the published sizes, for 3 frames in metres. For two cores, 8 frames of 256 points in the unit ball: radius 0.15,
neighbours 8, widths 16 16 32 / 32 32 64 / 64 64 64 / 64 64 64, up_widths 64 64 / 64 64 / 32 32 / 32 32, depth 1, heads 2,
head_dim 32, mlp_width 128.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from training.encoders.p4transformer import Stage
from training.encoders.sequence_transformer import SequenceTransformer
from training.encoders.tubes import split_columns
from training.ops.batchnorm import BatchNorm1d
from training.ops.interpolate import three_nearest
from training.ops.point4d import Point4DConv

Width = Annotated[int, Field(ge=1)]
Widths = Annotated[tuple[Width, ...], Field(min_length=1)]


class P4UNetConfig(BaseModel):
    """Sizes of the network, levels from the points upwards; up_widths from the top downwards."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["p4unet"] = "p4unet"
    features: int = Field(default=0, ge=0, description="columns of a point beyond x, y, z")
    radius: float = Field(default=0.9, gt=0, description="of the first level's tubes, in the unit of the points; doubled at each level")
    neighbours: int = Field(default=32, ge=1, description="points of a tube in each of its frames")
    spatial_strides: tuple[Width, ...] = Field(default=(4, 4, 4, 2), min_length=1)
    kernels: tuple[Width, ...] = Field(default=(1, 1, 3, 1), description="frames of each level's tubes, odd")
    widths: tuple[Widths, ...] = ((32, 64, 128), (128, 128, 256), (256, 256, 512), (512, 512, 1024))
    up_widths: tuple[Widths, ...] = ((256, 256), (256, 256), (128, 128), (128, 128))
    spatial_pool: Literal["max", "sum", "mean"] = "max"
    temporal_pool: Literal["max", "sum", "mean"] = "sum"
    skip_origin: bool = Field(default=False, description="farthest points as the published kernel: none within √0.001 of the origin")
    depth: int = Field(default=2, ge=0)
    heads: int = Field(default=4, ge=1)
    head_dim: int = Field(default=256, ge=1)
    mlp_width: int = Field(default=1024, ge=1)
    drop_path: float = Field(default=0.0, ge=0, lt=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if len({len(self.spatial_strides), len(self.kernels), len(self.widths), len(self.up_widths)}) > 1:
            raise ValueError("spatial_strides, kernels, widths and up_widths need one entry for each level")
        if any(kernel % 2 == 0 for kernel in self.kernels):
            raise ValueError(f"kernels {self.kernels} must be odd")
        return self


class P4UNet(nn.Module):
    """Clips (B, T, N, 3 + F) -> features (B, feature_dim). Dropout and drop path need `keys` (B,) int64, one for each clip."""

    def __init__(self, config: P4UNetConfig) -> None:
        super().__init__()
        self.config = config
        ends = (config.features, *(widths[-1] for widths in config.widths))
        self.feature_dim = self.frame_dim = ends[-1]
        self.point_dim = config.up_widths[-1][-1]
        self.levels = nn.ModuleList(
            Point4DConv(
                ends[level],
                config.widths[level],
                config.radius * 2**level,
                config.neighbours,
                config.spatial_strides[level],
                config.kernels[level],
                padding=(config.kernels[level] // 2, config.kernels[level] // 2),
                norm=True,
                act=True,
                spatial_pool=config.spatial_pool,
                temporal_pool=config.temporal_pool,
                skip_origin=config.skip_origin,
            )
            for level in range(len(config.widths))
        )
        self.transformer = SequenceTransformer(
            ends[-1], config.depth, config.heads, config.head_dim, config.mlp_width, config.drop_path, config.dropout
        )
        below, above = ends[-2::-1], (ends[-1], *(widths[-1] for widths in config.up_widths[:-1]))
        self.ups = nn.ModuleList(
            Shared(carried + skipped, widths) for carried, skipped, widths in zip(above, below, config.up_widths, strict=True)
        )

    def frame_index(self, frames: int) -> Tensor:
        """The input frame that each output frame stands for: all of them, (frames,) int64."""
        return torch.arange(frames)

    def frame_features(self, points: Tensor, keys: Tensor | None = None, stage: Stage = "post") -> Tensor:
        """Features of the frames, before or after the transformer: (B, T, frame_dim)."""
        top = self._down(points)[2]
        return top.amax(2) if stage == "pre" else self._mixed(top, keys).amax(2)

    def frame_stages(self, points: Tensor, keys: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What `frame_features` gives before and after the transformer, in one pass."""
        top = self._down(points)[2]
        return top.amax(2), self._mixed(top, keys).amax(2)

    def point_features(self, points: Tensor, keys: Tensor | None = None) -> Tensor:
        """Features of every point: (B, T, N, point_dim)."""
        places, skips, top = self._down(points)
        u = self._mixed(top, keys).flatten(0, 1)
        for level, up in zip(reversed(range(len(skips))), self.ups, strict=True):
            u = three_nearest(places[level].flatten(0, 1), places[level + 1].flatten(0, 1), u, root=True)
            skip = skips[level]
            u = up(u if skip is None else torch.cat([u, skip.flatten(0, 1)], dim=-1))
        return u.view(*points.shape[:3], -1)

    def forward(self, points: Tensor, keys: Tensor | None = None) -> Tensor:
        return self.frame_features(points, keys).amax(1)

    def _down(self, points: Tensor) -> tuple[list[Tensor], list[Tensor | None], Tensor]:
        """Places (B, T, n, 3) of the points and each level's anchors; features (B, T, n, C) of all but the last; those of the last."""
        place, h = split_columns(points, self.config.features)
        places, skips = [place], []
        for level in self.levels:
            skips.append(h)
            place, h = level(place, h)
            places.append(place)
        assert h is not None
        return places, skips, h

    def _mixed(self, top: Tensor, keys: Tensor | None) -> Tensor:
        mixed: Tensor = self.transformer(top.flatten(1, 2), keys)
        return mixed.view_as(top)


class Shared(nn.Module):
    """Linear, batch norm, ReLU for each width, shared by all points: (..., C) -> (..., widths[-1])."""

    def __init__(self, channels: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        sizes = (channels, *widths)
        self.linears = nn.ModuleList(nn.Linear(c, o, bias=False) for c, o in zip(sizes, widths, strict=False))
        self.norms = nn.ModuleList(BatchNorm1d(o) for o in widths)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, -2)
        for linear, norm in zip(self.linears, self.norms, strict=True):
            rows = nn.functional.relu(norm(linear(rows)))
        return rows.view(*x.shape[:-1], -1)
