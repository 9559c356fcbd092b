"""Whether an encoder of point-cloud videos can take clips of a given size, said before anything is made, read or trained."""

from __future__ import annotations

import math

from pydantic import BaseModel

from training.encoders.p4unet import P4UNetConfig
from training.encoders.pptr import PPTrConfig, check_groups
from training.encoders.tubes import TubeConfig
from training.ops.point4d import anchor_count, anchor_frames


def check_clip(config: BaseModel, frames: int, points: int | None) -> None:
    """Does the encoder of this configuration take clips of so many frames of so many points each?

    points: None where they are not known yet; then the frames alone are looked at. An encoder of single clouds is not asked.
    ValueError, in one sentence, where it does not.
    """
    output_frames(config, frames)
    match config:
        case TubeConfig():
            stride = config.spatial_stride
        case P4UNetConfig():
            stride = math.prod(config.spatial_strides)
        case _:
            return
    if points is None:
        return
    anchors = anchor_count(points, stride)
    if isinstance(config, PPTrConfig):
        check_groups(anchors, config.groups)


def output_frames(config: BaseModel, frames: int) -> int:
    """Frames that the encoder of this configuration makes of a clip of so many. ValueError where its kernel does not fit them."""
    return len(anchor_frames(frames, config.kernel, config.temporal_stride, config.padding)) if isinstance(config, TubeConfig) else frames
