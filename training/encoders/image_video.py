"""An encoder of image videos: an image encoder for each frame, a transformer over the frames (methods-C, C.3.3).

    h = ImageEncoder(frame) for each frame;  x = W h + b + (W' (t + 1) + b')        (B, T, C)
    y = Transformer(x), the frames' features;  f = max over T of y                 (B, C)

[inferred] Frame encoder and transformer follow from published neighbours of CrossVideo; their sizes and the position in time are ours.
All weights start at random. For two cores, frames of 48² pixels: a ResNet of depth 10 and width 8, which has 64 features, width 64,
depth 1, heads 2, head_dim 32, mlp_width 128.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from training.encoders.resnet import ResNet, ResNetConfig
from training.encoders.sequence_transformer import SequenceTransformer, add_position, time_steps
from training.encoders.vit import ViT, ViTConfig
from training.noise import fold

_AT_ONCE = 256  # frames that the image encoder sees together where no gradient is asked for
_FRAME_STREAM = 1 << 21  # the image encoder draws for frame t from the stream _FRAME_STREAM + t of the clip's key


class ImageVideoConfig(BaseModel):
    """Sizes of the network."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["image_video"] = "image_video"
    image: Annotated[ResNetConfig | ViTConfig, Field(discriminator="kind")] = ResNetConfig(depth=18)
    width: int = Field(default=512, ge=1)
    depth: int = Field(default=2, ge=0)
    heads: int = Field(default=8, ge=1)
    head_dim: int = Field(default=64, ge=1)
    mlp_width: int = Field(default=1024, ge=1)
    drop_path: float = Field(default=0.0, ge=0, lt=1, description="of the transformer over frames")
    dropout: float = Field(default=0.0, ge=0, lt=1)
    time_term: bool = Field(default=True, description="whether a frame's feature carries its place in the video")
    time_offset: int = Field(default=0, ge=0, description="largest random shift of the time term in training, one for each clip")


class ImageVideo(nn.Module):
    """Videos (B, T, 3, S, S), normalised -> features (B, feature_dim). What is random in training comes from `keys` (B,) int64."""

    def __init__(self, config: ImageVideoConfig) -> None:
        super().__init__()
        self.config = config
        self.feature_dim = self.frame_dim = config.width
        self.image: ResNet | ViT = ResNet(config.image) if isinstance(config.image, ResNetConfig) else ViT(config.image)
        self.project = nn.Linear(self.image.feature_dim, config.width)
        self.position = nn.Linear(1, config.width) if config.time_term else None
        self.transformer = SequenceTransformer(
            config.width, config.depth, config.heads, config.head_dim, config.mlp_width, config.drop_path, config.dropout
        )

    def frame_features(self, images: Tensor, keys: Tensor | None = None, stage: Literal["pre", "post"] = "post") -> Tensor:
        """Features of the frames, before or after the transformer: (B, T, frame_dim). Before it and without `time_term`, a frame's feature
        depends on that frame alone, up to the image encoder's batch statistics."""
        x = self._entering(images, keys)
        return x if stage == "pre" else self.transformer(x, keys)

    def frame_stages(self, images: Tensor, keys: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What `frame_features` gives before and after the transformer, in one pass."""
        x = self._entering(images, keys)
        return x, self.transformer(x, keys)

    def forward(self, images: Tensor, keys: Tensor | None = None) -> Tensor:
        return self.frame_features(images, keys).amax(1)

    def _entering(self, images: Tensor, keys: Tensor | None) -> Tensor:
        length = images.shape[1]
        x: Tensor = self.project(self._of_images(images, keys)).unflatten(0, (-1, length))
        if self.position is not None:
            steps = time_steps(length, self.position.weight, self.config.time_offset, keys if self.training else None)
            x = add_position(x, self.position, steps[..., None])
        return x

    def _of_images(self, images: Tensor, keys: Tensor | None) -> Tensor:
        """The image encoder's features, (B·T, C'); in parts where no gradient is asked for and frames do not share batch statistics."""
        frames = images.flatten(0, 1)
        if not torch.is_grad_enabled() and not self.image.training:
            return torch.cat([self.image(part) for part in torch.split(frames, _AT_ONCE)])  # eval mode draws nothing from keys
        if keys is not None:
            keys = torch.stack([fold(keys, _FRAME_STREAM + t) for t in range(images.shape[1])], dim=1).flatten()
        together: Tensor = self.image(frames, keys)
        return together
