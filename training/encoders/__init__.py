"""Encoders: point clouds or images to one feature vector each, each with the configuration that builds it."""

from typing import Annotated

from pydantic import Field

from training.encoders.dgcnn import DGCNN, DGCNNConfig
from training.encoders.pointnet import PointNet, PointNetConfig
from training.encoders.resnet import ResNet, ResNetConfig

PointEncoderConfig = Annotated[PointNetConfig | DGCNNConfig, Field(discriminator="kind")]


def build(config: PointNetConfig | DGCNNConfig | ResNetConfig) -> PointNet | DGCNN | ResNet:
    """The encoder of a configuration with random weights. It has the attribute `feature_dim`, the width of its features."""
    match config:
        case PointNetConfig():
            return PointNet(config)
        case DGCNNConfig():
            return DGCNN(config)
        case ResNetConfig():
            return ResNet(config)


__all__ = ["DGCNN", "DGCNNConfig", "PointEncoderConfig", "PointNet", "PointNetConfig", "ResNet", "ResNetConfig", "build"]
