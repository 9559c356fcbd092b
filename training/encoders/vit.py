"""A vision transformer for the image branch (Dosovitskiy et al. 2021, arXiv 2010.11929) of the same blocks as the point transformer.

    x = (CLS ‖ W patches + b) + positions       patches: 3·patch·patch pixels, channels first, row by row of the image
    x ← Block(x);  tokens = LayerNorm(x)        (B, 1 + P, C); the feature is tokens[CLS]

The positions are learned and added once at the input, as in the ViT and unlike the point transformer ([ours]: how Cross-BERT encodes
images is not known). Weights start from a truncated normal of 0.02, biases from 0; queries, keys and values have no bias.
"""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from training.encoders.transformer import blocks, init_weights, learned


class ViTConfig(BaseModel):
    """Sizes of images and network."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["vit"] = "vit"
    size: int = Field(default=224, ge=1, description="pixels of an image's side, a multiple of patch")
    patch: int = Field(default=16, ge=1, description="pixels of a patch's side")
    width: int = Field(default=384, ge=1)
    depth: int = Field(default=12, ge=1)
    heads: int = Field(default=6, ge=1)
    mlp_ratio: float = Field(default=4.0, gt=0)
    drop_path: float = Field(default=0.1, ge=0, lt=1, description="of the last block; rises linearly from 0 at the first")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.size % self.patch:
            raise ValueError(f"an image of {self.size} pixels does not divide into patches of {self.patch}: choose a multiple")
        if self.width % self.heads:
            raise ValueError(f"a width of {self.width} does not divide among {self.heads} heads: choose a multiple")
        return self


class ViT(nn.Module):
    """Images (B, 3, size, size), normalised -> features (B, feature_dim). Drop path needs `keys` (B,) int64, one for each sample."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        self.feature_dim = config.width
        self.embed = nn.Linear(3 * config.patch**2, config.width)
        self.cls_token = learned(1, 1, config.width)
        self.positions = learned(1, 1 + (config.size // config.patch) ** 2, config.width)
        self.blocks = blocks(config.width, config.depth, config.heads, config.mlp_ratio, config.drop_path)
        self.norm = nn.LayerNorm(config.width)
        self.apply(init_weights)

    def tokens(self, images: Tensor, keys: Tensor | None = None) -> Tensor:
        """Tokens after the final norm, CLS first: (B, 1 + P, C). Raises ValueError for images of another size."""
        return self._tokens(images, keys, None)

    def _tokens(self, images: Tensor, keys: Tensor | None, first: int | None) -> Tensor:
        """All tokens, or the first ones alone."""
        side, patch = self.config.size, self.config.patch
        if images.shape[1:] != (3, side, side):
            raise ValueError(
                f"The images are {tuple(images.shape[1:])} and this ViT takes (3, {side}, {side}): "
                "set the same size in the image augmentation and in the encoder."
            )
        rows = side // patch
        pixels = images.view(-1, 3, rows, patch, rows, patch).permute(0, 2, 4, 1, 3, 5).reshape(len(images), rows**2, -1)
        x = torch.cat([self.cls_token.expand(len(images), -1, -1), self.embed(pixels)], dim=1) + self.positions
        *others, last = self.blocks
        for block in others:
            x = block(x, keys)
        x = last(x, keys, first)
        out: Tensor = self.norm(x)
        return out

    def forward(self, images: Tensor, keys: Tensor | None = None) -> Tensor:
        return self._tokens(images, keys, first=1)[:, 0]
