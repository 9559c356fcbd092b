"""The interactive cross-modal encoder of Cross-BERT: tokens of a cloud see tokens of an image of the same object.

How the paper's encoder attends is not known; this one is [ours]: `depth` blocks, pre-norm, a stream for each modality, from the point
tokens P (B, 1 + G, C) and the image tokens Q (B, 1 + P, C); A is attention, F a feed-forward, LN a layer norm, each with its own weights.

    P ← P + p,  p = (CLS position ‖ MLP(centres))                     before each self-attention of the points
    P ← P + A(LN P)                Q ← Q + A(LN Q)
    P ← P + γ · A(LN P, LN Q)      Q ← Q + γ' · A(LN Q, LN P)         from P and Q before the exchange; gates γ = γ' = 1 at first
    P ← P + F(LN P)                Q ← Q + F(LN Q)

The output is P, not normalised. Modes:

    mutual            as above
    point_from_image  Q stays as it came, only the lines of P are computed
    shared_affinity   both directions of the third line read one S = (LN P) Wₚ ((LN Q) W_q)ᵀ / √d of each head: P gets softmax(S) times
                      values of Q, Q gets softmax(Sᵀ) times values of P
    joint             the transformer's own block on (P ‖ Q)
    none              the transformer's own block on P; the image is not seen

What of Q the output would not depend on, in the last block, is not there. Weights start from a truncated normal of 0.02, biases from 0.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from training.encoders.transformer import Attention, Block, attend, feed_forward, init_weights, learned, position_mlp

Mode = Literal["mutual", "point_from_image", "shared_affinity", "joint", "none"]


class FusionConfig(BaseModel):
    """Sizes; the width is that of the tokens. The paper's are not known: these are ours."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Mode = "mutual"
    depth: int = Field(default=3, ge=1)
    heads: int = Field(default=6, ge=1)
    mlp_ratio: float = Field(default=4.0, gt=0)


class Fusion(nn.Module):
    """points (B, 1 + G, C), centres (B, G, 3), images (B, 1 + P, C), CLS first -> (B, 1 + G, C). Keys are not used.

    Raises ValueError where the heads do not divide the width.
    """

    def __init__(self, config: FusionConfig, width: int) -> None:
        super().__init__()
        if width % config.heads:
            raise ValueError(f"A width of {width} does not divide among the fusion's {config.heads} heads: choose another number of heads.")
        self.config = config
        self.cls_position = learned(1, 1, width)
        self.position = position_mlp(width)
        self.blocks = nn.ModuleList(self._block(width, last=number == config.depth - 1) for number in range(config.depth))
        self.apply(init_weights)

    def _block(self, width: int, last: bool) -> nn.Module:
        mode, heads, ratio = self.config.mode, self.config.heads, self.config.mlp_ratio
        return Block(width, heads, ratio, 0.0) if mode in ("joint", "none") else FusionBlock(width, heads, ratio, mode, last)

    def forward(self, points: Tensor, centres: Tensor, images: Tensor, keys: Tensor | None = None) -> Tensor:
        position = torch.cat([self.cls_position.expand(len(centres), -1, -1), self.position(centres)], dim=1)
        count = points.shape[1]
        for block in self.blocks:
            points = points + position
            if self.config.mode == "none":
                points = block(points)
            elif self.config.mode == "joint":
                points, images = block(torch.cat([points, images], dim=1)).tensor_split([count], dim=1)
            else:
                points, images = block(points, images)
        return points


class FusionBlock(nn.Module):
    """Self-attention, exchange, feed-forward of both streams; the image's are there as far as mode and later blocks need them."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, mode: Mode, last: bool) -> None:
        super().__init__()
        moves = mode != "point_from_image"
        both = moves and not last
        self.points = Block(width, heads, mlp_ratio, 0.0)
        self.image_attention = nn.Sequential(nn.LayerNorm(width), Attention(width, heads)) if moves else None
        self.image_mlp = nn.Sequential(nn.LayerNorm(width), feed_forward(width, mlp_ratio)) if both else None
        self.point_norm = nn.LayerNorm(width)
        self.image_norm = nn.LayerNorm(width)
        self.exchange = SharedAffinity(width, heads, both) if mode == "shared_affinity" else Exchange(width, heads, both)

    def forward(self, points: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        points = self.points.attended(points)
        if self.image_attention is not None:
            images = images + self.image_attention(images)
        for_points, for_images = self.exchange(self.point_norm(points), self.image_norm(images))
        points = self.points.fed(points + for_points)
        if self.image_mlp is not None:
            images = images + for_images
            images = images + self.image_mlp(images)
        return points, images


class CrossAttention(nn.Module):
    """x (B, L, C) attends to y (B, S, C): a gated branch (B, L, C)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width)
        self.gate = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        key, value = self.key_value(y).chunk(2, dim=-1)
        out: Tensor = self.gate * self.out(attend(self.query(x), key, value, self.heads))
        return out


class Exchange(nn.Module):
    """Points (B, L, C) and images (B, S, C) to the branches of the points and, with `both`, of the images (else None)."""

    def __init__(self, width: int, heads: int, both: bool) -> None:
        super().__init__()
        self.points = CrossAttention(width, heads)
        self.images = CrossAttention(width, heads) if both else None

    def forward(self, points: Tensor, images: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.points(points, images), None if self.images is None else self.images(images, points)


class SharedAffinity(nn.Module):
    """As `Exchange`, with the same scores read by rows for the points and by columns for the images."""

    def __init__(self, width: int, heads: int, both: bool) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.points = GatedValues(width)
        self.images = GatedValues(width) if both else None

    def forward(self, points: Tensor, images: Tensor) -> tuple[Tensor, Tensor | None]:
        query, key = self.query(points), self.key(images)
        for_points = self.points(query, key, images, self.heads)
        return for_points, None if self.images is None else self.images(key, query, points, self.heads)


class GatedValues(nn.Module):
    """Values of y (B, S, C) mixed by given queries (B, L, C) and keys (B, S, C): a gated branch (B, L, C)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.value = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width)
        self.gate = nn.Parameter(torch.ones(1))

    def forward(self, query: Tensor, key: Tensor, y: Tensor, heads: int) -> Tensor:
        out: Tensor = self.gate * self.out(attend(query, key, self.value(y), heads))
        return out
