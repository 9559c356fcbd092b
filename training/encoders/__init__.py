"""Encoders: point clouds, images or videos of either to one feature vector each, each with the configuration that builds it."""

from typing import Annotated, overload

from pydantic import BaseModel, Field

from training.encoders.clip_check import check_clip, output_frames
from training.encoders.dgcnn import DGCNN, DGCNNConfig
from training.encoders.fusion import Fusion, FusionConfig
from training.encoders.image_video import ImageVideo, ImageVideoConfig
from training.encoders.p4transformer import P4Transformer, P4TransformerConfig
from training.encoders.p4unet import P4UNet, P4UNetConfig
from training.encoders.point_transformer import PointTransformer, PointTransformerConfig
from training.encoders.pointnet import PointNet, PointNetConfig
from training.encoders.pptr import PPTr, PPTrConfig
from training.encoders.resnet import ResNet, ResNetConfig
from training.encoders.tubes import TubeConfig
from training.encoders.vit import ViT, ViTConfig

CloudEncoder = PointNet | DGCNN | PointTransformer
VideoEncoder = P4Transformer | PPTr | P4UNet
PointEncoder = CloudEncoder | VideoEncoder
ImageEncoder = ResNet | ViT
CloudEncoderConfig = Annotated[PointNetConfig | DGCNNConfig | PointTransformerConfig, Field(discriminator="kind")]
VideoEncoderConfig = Annotated[P4TransformerConfig | PPTrConfig | P4UNetConfig, Field(discriminator="kind")]
PointEncoderConfig = Annotated[
    PointNetConfig | DGCNNConfig | PointTransformerConfig | P4TransformerConfig | PPTrConfig | P4UNetConfig, Field(discriminator="kind")
]
ImageEncoderConfig = Annotated[ResNetConfig | ViTConfig, Field(discriminator="kind")]


@overload
def build(config: PointNetConfig | DGCNNConfig | PointTransformerConfig) -> CloudEncoder: ...
@overload
def build(config: P4TransformerConfig | PPTrConfig | P4UNetConfig) -> VideoEncoder: ...
@overload
def build(
    config: PointNetConfig | DGCNNConfig | PointTransformerConfig | P4TransformerConfig | PPTrConfig | P4UNetConfig,
) -> PointEncoder: ...
@overload
def build(config: ResNetConfig | ViTConfig) -> ImageEncoder: ...
@overload
def build(config: ImageVideoConfig) -> ImageVideo: ...
def build(
    config: PointNetConfig
    | DGCNNConfig
    | PointTransformerConfig
    | P4TransformerConfig
    | PPTrConfig
    | P4UNetConfig
    | ResNetConfig
    | ViTConfig
    | ImageVideoConfig,
) -> PointEncoder | ImageEncoder | ImageVideo:
    """The encoder of a configuration with random weights. It has the attribute `feature_dim`, the width of its features.

    An encoder of clouds or of point-cloud videos also has `point_features` and their width `point_dim`, an encoder of videos of either
    kind `frame_features` and `frame_stages` of the width `frame_dim`, one of point-cloud videos `frame_index`, an image encoder `tokens`
    of the width `feature_dim`.
    """
    match config:
        case PointNetConfig():
            return PointNet(config)
        case DGCNNConfig():
            return DGCNN(config)
        case PointTransformerConfig():
            return PointTransformer(config)
        case P4TransformerConfig():
            return P4Transformer(config)
        case PPTrConfig():
            return PPTr(config)
        case P4UNetConfig():
            return P4UNet(config)
        case ResNetConfig():
            return ResNet(config)
        case ViTConfig():
            return ViT(config)
        case ImageVideoConfig():
            return ImageVideo(config)


def is_video(config: BaseModel) -> bool:
    """Whether the encoder of this configuration takes point-cloud videos (B, T, N, 3 + F), and not clouds (B, N, 3)."""
    return isinstance(config, P4TransformerConfig | PPTrConfig | P4UNetConfig)


def temporal_stride(config: BaseModel) -> int:
    """Input frames from one output frame of this configuration's encoder to the next."""
    return config.temporal_stride if isinstance(config, TubeConfig) else 1


__all__ = [
    "DGCNN",
    "CloudEncoder",
    "CloudEncoderConfig",
    "DGCNNConfig",
    "Fusion",
    "FusionConfig",
    "ImageEncoder",
    "ImageEncoderConfig",
    "ImageVideo",
    "ImageVideoConfig",
    "P4Transformer",
    "P4TransformerConfig",
    "P4UNet",
    "P4UNetConfig",
    "PPTr",
    "PPTrConfig",
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
    "VideoEncoder",
    "VideoEncoderConfig",
    "build",
    "check_clip",
    "is_video",
    "output_frames",
    "temporal_stride",
]
