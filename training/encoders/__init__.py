"""Encoders: point clouds or images to one feature vector each, each with the configuration that builds it."""

from typing import Annotated, overload

from pydantic import Field

from training.encoders.dgcnn import DGCNN, DGCNNConfig
from training.encoders.fusion import Fusion, FusionConfig
from training.encoders.point_transformer import PointTransformer, PointTransformerConfig
from training.encoders.pointnet import PointNet, PointNetConfig
from training.encoders.resnet import ResNet, ResNetConfig
from training.encoders.vit import ViT, ViTConfig

PointEncoder = PointNet | DGCNN | PointTransformer
ImageEncoder = ResNet | ViT
PointEncoderConfig = Annotated[PointNetConfig | DGCNNConfig | PointTransformerConfig, Field(discriminator="kind")]
ImageEncoderConfig = Annotated[ResNetConfig | ViTConfig, Field(discriminator="kind")]


@overload
def build(config: PointNetConfig | DGCNNConfig | PointTransformerConfig) -> PointEncoder: ...
@overload
def build(config: ResNetConfig | ViTConfig) -> ImageEncoder: ...
def build(config: PointNetConfig | DGCNNConfig | PointTransformerConfig | ResNetConfig | ViTConfig) -> PointEncoder | ImageEncoder:
    """The encoder of a configuration with random weights. It has the attribute `feature_dim`, the width of its features.

    A point encoder also has `point_features` and their width `point_dim`, an image encoder `tokens` of the width `feature_dim`.
    """
    match config:
        case PointNetConfig():
            return PointNet(config)
        case DGCNNConfig():
            return DGCNN(config)
        case PointTransformerConfig():
            return PointTransformer(config)
        case ResNetConfig():
            return ResNet(config)
        case ViTConfig():
            return ViT(config)


__all__ = [
    "DGCNN",
    "DGCNNConfig",
    "Fusion",
    "FusionConfig",
    "ImageEncoder",
    "ImageEncoderConfig",
    "PointEncoder",
    "PointEncoderConfig",
    "PointNet",
    "PointNetConfig",
    "PointTransformer",
    "PointTransformerConfig",
    "ResNet",
    "ResNetConfig",
    "ViT",
    "ViTConfig",
    "build",
]
