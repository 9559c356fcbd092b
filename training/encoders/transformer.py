"""The transformer block of Point-BERT's encoder and of the ViT: pre-norm, GELU, no bias on queries, keys and values, drop path by sample.

    x ← x + d₁ · Attention(LayerNorm(x))        Attention(x) = W_o concat_h softmax(q_h k_hᵀ / √(C/H)) v_h + b_o,  (q, k, v) = W x
    x ← x + d₂ · W₂ GELU(W₁ LayerNorm(x))       W₁ to mlp_ratio · C

d is 0 with probability p and 1 / (1 − p) otherwise (stochastic depth, Huang et al. 2016, arXiv 1603.09382), drawn for each sample from the
sample's own key, so that neither the batch nor the number of workers changes what is dropped.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.noise import fold, uniforms


def attend(queries: Tensor, keys: Tensor, values: Tensor, heads: int) -> Tensor:
    """Multi-head attention of queries (B, L, C) on keys and values (B, S, C) -> (B, L, C), by torch's fused kernels."""
    q, k, v = (x.view(*x.shape[:2], heads, -1).transpose(1, 2) for x in (queries, keys, values))
    return nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def drop_path(x: Tensor, probability: float, keys: Tensor) -> Tensor:
    """x (B, ...) with whole samples set to 0 with `probability`, the others scaled by 1 / (1 − probability); keys (B,) int64."""
    kept = (uniforms(keys) >= probability).to(x.dtype) / (1 - probability)
    return x * kept.view(-1, *[1] * (x.dim() - 1))


def feed_forward(width: int, ratio: float) -> nn.Sequential:
    """Linear, GELU, linear."""
    hidden = int(width * ratio)
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))


def position_mlp(width: int) -> nn.Sequential:
    """Coordinates (..., 3) to a position (..., width): 3 → 128 → GELU → width, as in Point-BERT."""
    return nn.Sequential(nn.Linear(3, 128), nn.GELU(), nn.Linear(128, width))


def init_weights(module: nn.Module) -> None:
    """For `Module.apply`: linear layers start from a truncated normal of 0.02 and zero biases."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def learned(*shape: int) -> nn.Parameter:
    """A learned token or position, from a truncated normal of 0.02."""
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(*shape), std=0.02))


class Attention(nn.Module):
    """Self-attention of (B, L, C); with `first` only that many of its rows come out, at what these rows alone take."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, first: int | None = None) -> Tensor:
        if first is None:
            q, k, v = self.qkv(x).chunk(3, dim=-1)
        else:
            of_query, of_others = self.qkv.weight.tensor_split([self.qkv.in_features])
            q = nn.functional.linear(x[:, :first], of_query)
            k, v = nn.functional.linear(x, of_others).chunk(2, dim=-1)
        out: Tensor = self.out(attend(q, k, v, self.heads))
        return out


class Block(nn.Module):
    """Attention and feed-forward, each with its residual: (B, L, C) -> (B, L, C).

    `number` is the block's place in its network: its branches draw from the streams 2·number and 2·number + 1 of a sample's key. Nothing is
    dropped without keys (B,) int64, or in eval mode. With `first` only that many rows of the output are computed.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float, drop_path: float, number: int = 0) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.number = number
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = feed_forward(width, mlp_ratio)

    def forward(self, x: Tensor, keys: Tensor | None = None, first: int | None = None) -> Tensor:
        return self.fed(self.attended(x, keys, first), keys)

    def attended(self, x: Tensor, keys: Tensor | None = None, first: int | None = None) -> Tensor:
        """The block's first half."""
        return x[:, :first] + self._dropped(self.attention(self.norm1(x), first), keys, 0)

    def fed(self, x: Tensor, keys: Tensor | None = None) -> Tensor:
        """The block's second half."""
        return x + self._dropped(self.mlp(self.norm2(x)), keys, 1)

    def _dropped(self, branch: Tensor, keys: Tensor | None, stream: int) -> Tensor:
        if keys is None or not self.training or self.drop_path == 0:
            return branch
        return drop_path(branch, self.drop_path, fold(keys, 2 * self.number + stream))


def blocks(width: int, depth: int, heads: int, mlp_ratio: float, drop_path: float) -> nn.ModuleList:
    """`depth` blocks whose drop path rises linearly from 0 to `drop_path`."""
    rates = [drop_path * number / max(depth - 1, 1) for number in range(depth)]
    return nn.ModuleList(Block(width, heads, mlp_ratio, rate, number) for number, rate in enumerate(rates))
