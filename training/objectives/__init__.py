"""The objectives that an encoder can be pretrained with. A new one: a file here, its case in `build` and in `training.pretrain`."""

from __future__ import annotations

from training.encoders import PointEncoderConfig
from training.objectives.crosspoint import CrossPoint, CrossPointConfig

ObjectiveConfig = CrossPointConfig

__all__ = ["CrossPoint", "CrossPointConfig", "ObjectiveConfig", "build"]


def build(config: CrossPointConfig, encoder: PointEncoderConfig) -> CrossPoint:
    """The module that computes an objective's loss, with fresh weights from torch's global generator."""
    return CrossPoint(config, encoder)
