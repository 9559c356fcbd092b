"""The first layer of the P4Transformer family: tubes of points around anchors, and where they lie (methods-C, C.2.1, C.2.2).

    anchors (B, L, n, 3), h (B, L, n, C) = Point4DConv(points);  token = h + W (x, y, z, t + 1) + b

t is the number of the output frame, so what it means depends on the temporal stride. A tube looks at `kernel` frames; frames beyond them
leave it as it is. Copies of a point, as fill up frames of too few, leave a frame's features as they are but for what `farthest_points` and
`ball_query` say of them. Weights start as torch's defaults.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from training.encoders.sequence_transformer import add_position, time_steps
from training.ops.interpolate import three_nearest
from training.ops.point4d import Point4DConv

Steps = Annotated[int, Field(ge=0)]


class TubeConfig(BaseModel):
    """Sizes of tubes and of the transformers on them; the defaults are those published for the action segmentation of HOI4D."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    features: int = Field(default=0, ge=0, description="columns of a point beyond x, y, z")
    radius: float = Field(default=0.9, gt=0, description="of a tube, in the unit of the points")
    neighbours: int = Field(default=32, ge=1, description="points of a tube in each of its frames")
    spatial_stride: int = Field(default=32, ge=1, description="points of a frame for each anchor")
    kernel: int = Field(default=3, ge=1, description="frames of a tube, odd")
    temporal_stride: int = Field(default=1, ge=1)
    padding: tuple[Steps, Steps] = Field(default=(1, 1), description="copies of the first frame before it and of the last one after it")
    spatial_pool: Literal["max", "sum", "mean"] = "max"
    temporal_pool: Literal["max", "sum", "mean"] = "max"
    skip_origin: bool = Field(default=False, description="farthest points as the published kernel: none within √0.001 of the origin")
    position: bool = Field(default=True, description="whether tokens have a position term")
    time_term: bool = Field(default=True, description="whether the position term has a fourth number, the time")
    time_offset: int = Field(default=0, ge=0, description="largest random shift of the time term in training, one for each clip")
    width: int = Field(default=2048, ge=1)
    depth: int = Field(default=5, ge=1)
    heads: int = Field(default=8, ge=1)
    head_dim: int = Field(default=128, ge=1)
    mlp_width: int = Field(default=1024, ge=1)
    drop_path: float = Field(default=0.0, ge=0, lt=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.kernel % 2 == 0:
            raise ValueError(f"a kernel of {self.kernel} frames has no middle: choose an odd number")
        reach = self.kernel // 2
        if max(self.padding) > reach:
            raise ValueError(
                f"padding {self.padding} is more than the {reach} frames that a kernel of {self.kernel} reaches to either side, and "
                f"several outputs would stand for one frame: give at most ({reach}, {reach})"
            )
        return self


class Tubes(nn.Module):
    """Clips (B, T, N, 3 + F) -> anchors (B, L, n, 3) and tokens (B, L, n, C)."""

    def __init__(self, config: TubeConfig) -> None:
        super().__init__()
        self.config = config
        self.conv = Point4DConv(
            config.features,
            (config.width,),
            config.radius,
            config.neighbours,
            config.spatial_stride,
            config.kernel,
            config.temporal_stride,
            padding=config.padding,
            norm=False,
            act=False,
            spatial_pool=config.spatial_pool,
            temporal_pool=config.temporal_pool,
            skip_origin=config.skip_origin,
        )
        self.position = nn.Linear(4 if config.time_term else 3, config.width) if config.position else None

    def forward(self, points: Tensor, keys: Tensor | None = None) -> tuple[Tensor, Tensor]:
        anchors, tubes = self.conv(*split_columns(points, self.config.features))
        if self.position is None:
            return anchors, tubes
        place = anchors
        if self.config.time_term:
            steps = time_steps(anchors.shape[1], anchors, self.config.time_offset, keys if self.training else None)
            place = torch.cat([anchors, steps[:, :, None, None].expand(*anchors.shape[:3], 1)], dim=-1)
        return anchors, add_position(tubes, self.position, place)

    def frame_index(self, frames: int) -> Tensor:
        """The input frame on which each output frame's anchors lie: (L,) int64, rising. Raises ValueError where the kernel does not fit."""
        return self.conv.frame_index(frames)


def split_columns(points: Tensor, features: int) -> tuple[Tensor, Tensor | None]:
    """Points (B, T, N, 3 + F) to coordinates and features, None where F is 0. Raises ValueError where they have not `features` columns."""
    if points.dim() != 4 or points.shape[-1] != 3 + features:
        raise ValueError(
            f"The clips are {tuple(points.shape)} and this encoder takes (B, T, N, {3 + features}): "
            "set encoder.features to the number of columns beyond x, y, z."
        )
    return points[..., :3], points[..., 3:] if features else None


def carried(points: Tensor, anchors: Tensor, tokens: Tensor, frames: Tensor, index: Tensor) -> Tensor:
    """What every point of every frame sees: (B, T, N, C + C' + 3).

    points (B, T, N, 3 + F), anchors (B, L, n, 3), their tokens (B, L, n, C), frame features (B, L, C'), index (L,) input frames of the
    outputs. A frame is served by the output nearest to it in time, the earlier one of two; its points by their three nearest anchors, side
    by side with the frame's feature and the point's own coordinates.
    """
    xyz = points[..., :3]
    number = xyz.shape[1]
    times = index.tolist()
    nearest = torch.tensor([min(range(len(times)), key=lambda place: abs(times[place] - t)) for t in range(number)], device=points.device)
    near = three_nearest(xyz.flatten(0, 1), anchors[:, nearest].flatten(0, 1), tokens[:, nearest].flatten(0, 1))
    per_frame = frames[:, nearest, None].expand(-1, -1, xyz.shape[2], -1)
    return torch.cat([near.view(*xyz.shape[:3], -1), per_frame, xyz.to(frames.dtype)], dim=-1)
