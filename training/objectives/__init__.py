"""The objectives that an encoder can be pretrained with. A new one: a file beside this one, a line in the union and in `build`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import nn

from training.encoders import PointEncoderConfig
from training.objectives.crosspoint import CrossPoint, CrossPointConfig

ObjectiveConfig = Annotated[CrossPointConfig, Field()]

__all__ = ["CrossPoint", "CrossPointConfig", "ObjectiveConfig", "build"]


def build(config: CrossPointConfig, encoder: PointEncoderConfig) -> CrossPoint:
    """The module that computes an objective's loss, with fresh weights from torch's global generator."""
    return CrossPoint(config, encoder)


def parameters(module: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
