"""The transformer of the P4Transformer family (Fan, Yang, Kankanhalli 2021; as its code has it, methods-C, C.2.2).

    x ← x + d₁ · GELU(W_o Attention(LayerNorm(x)) + b_o)      heads of a width of their own; queries, keys and values without bias
    x ← x + d₂ · W₂ GELU(W₁ LayerNorm(x))

It differs from `training.encoders.transformer` in the GELU after the attention's output and in the width of its heads; no norm follows the
last block. Weights start as torch's defaults. Drop path (none in the source) and dropout after each GELU and at the end of the second
branch come from the samples' keys alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.encoders.transformer import attend, drop_path
from training.noise import fold, uniforms

_STREAMS = 8  # streams of a sample's key that one block may use


class SequenceBlock(nn.Module):
    """One block: (R, S, C) -> (R, S, C). `number` is its place among all blocks of its network.

    keys (B,) int64, one for each sample; R is a multiple of B, and rows i·R/B to (i + 1)·R/B − 1 are those of sample i. Nothing is dropped
    without keys or in eval mode.
    """

    def __init__(
        self, width: int, heads: int, head_dim: int, mlp_width: int, drop_path: float = 0.0, dropout: float = 0.0, number: int = 0
    ) -> None:
        super().__init__()
        self.heads = heads
        self.drop_path = drop_path
        self.dropout = dropout
        self.number = number
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * heads * head_dim, bias=False)
        self.out = nn.Linear(heads * head_dim, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.ModuleList([nn.Linear(width, mlp_width), nn.Linear(mlp_width, width)])

    def forward(self, x: Tensor, keys: Tensor | None = None) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).chunk(3, dim=-1)
        branch = nn.functional.gelu(self.out(attend(q, k, v, self.heads)))
        x = x + self._path(self._dropout(branch, keys, 0), keys, 1)
        branch = self._dropout(nn.functional.gelu(self.mlp[0](self.norm2(x))), keys, 2)
        return x + self._path(self._dropout(self.mlp[1](branch), keys, 3), keys, 4)

    def _path(self, branch: Tensor, keys: Tensor | None, stream: int) -> Tensor:
        if keys is None or not self.training or self.drop_path == 0:
            return branch
        keys = fold(keys, _STREAMS * self.number + stream).repeat_interleave(len(branch) // len(keys))
        return drop_path(branch, self.drop_path, keys)

    def _dropout(self, x: Tensor, keys: Tensor | None, stream: int) -> Tensor:
        if keys is None or not self.training or self.dropout == 0:
            return x
        draws = uniforms(fold(keys, _STREAMS * self.number + stream), x.numel() // len(keys)).view_as(x)
        return x * ((draws >= self.dropout).to(x.dtype) / (1 - self.dropout))


class SequenceTransformer(nn.Module):
    """`depth` blocks: (R, S, C) -> (R, S, C), keys as in `SequenceBlock`. Drop path is the same in all blocks."""

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        head_dim: int,
        mlp_width: int,
        drop_path: float = 0.0,
        dropout: float = 0.0,
        first_number: int = 0,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            SequenceBlock(width, heads, head_dim, mlp_width, drop_path, dropout, first_number + number) for number in range(depth)
        )

    def forward(self, x: Tensor, keys: Tensor | None = None) -> Tensor:
        for block in self.blocks:
            x = block(x, keys)
        return x


def add_position(x: Tensor, position: nn.Linear, place: Tensor) -> Tensor:
    """x (..., C) with the linear position term of `place` (..., F), in single precision at least, under autocast too: at a time of 100 a
    step of bf16 is half a unit, more than what tells one frame's features from another's."""
    with torch.autocast(x.device.type, enabled=False):
        moved: Tensor = x.to(torch.promote_types(x.dtype, torch.float32)) + position(place)
    return moved


def time_steps(length: int, like: Tensor, offset_max: int, keys: Tensor | None) -> Tensor:
    """The times that position terms see: 1 to `length` as (1, length), or with keys (B,) and offset_max each clip's own shift of 0 to
    offset_max steps added, (B, length); in the dtype and on the device of `like`."""
    steps = torch.arange(1, length + 1, device=like.device, dtype=like.dtype)[None]
    if keys is None or offset_max == 0:
        return steps
    shift = (uniforms(fold(keys, _OFFSET_STREAM)) * (offset_max + 1)).floor()
    return steps + shift.to(like)[:, None]


_OFFSET_STREAM = 1 << 20  # beyond those of any block
