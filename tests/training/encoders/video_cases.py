"""Plain loops that the encoders of point-cloud videos are compared with, and clips to compare them on. All in float64."""

import torch
from torch import Tensor

from training.encoders.sequence_transformer import SequenceTransformer
from training.ops.point4d import Point4DConv


def clips(number: int, frames: int = 5, points: int = 24, columns: int = 0, seed: int = 0) -> Tensor:
    """(number, frames, points, 3 + columns): blobs that drift, so that frames differ."""
    generator = torch.Generator().manual_seed(seed)
    still = torch.randn(number, 1, points, 3 + columns, generator=generator, dtype=torch.float64)
    drift = torch.randn(number, frames, points, 3 + columns, generator=generator, dtype=torch.float64)
    return 0.5 * still + 0.1 * drift


def plain_farthest(points: Tensor, count: int) -> list[int]:
    chosen = [0]
    while len(chosen) < count:
        apart = [min(float((point - points[c]).square().sum()) for c in chosen) for point in points]
        chosen.append(max(range(len(points)), key=lambda i: (apart[i], -i)))
    return chosen


def plain_ball(points: Tensor, centre: Tensor, radius: float, k: int) -> list[int]:
    inside = [i for i, point in enumerate(points) if float((point - centre).square().sum()) < radius**2][:k]
    return inside + [inside[0] if inside else 0] * (k - len(inside))


def plain_batch_norm(rows: Tensor) -> Tensor:
    """Scale 1, shift 0, statistics of the rows."""
    return (rows - rows.mean(0)) / (rows.var(0, unbiased=False) + 1e-5).sqrt()


def plain_conv(conv: Point4DConv, xyz: Tensor, features: Tensor | None, pools: tuple[str, str], normed: bool) -> tuple[Tensor, Tensor]:
    """Point 4D convolution of (B, T, N, 3) and (B, T, N, C), copies as padding; with `normed` BN and ReLU after each linear layer."""
    anchors, moves, gathered = [], [], []
    last, half = xyz.shape[1] - 1, conv.kernel // 2
    outputs = range(half - conv.padding[0], xyz.shape[1] + conv.padding[1] - half, conv.temporal_stride)
    for clip in range(len(xyz)):
        for at in outputs:
            own = xyz[clip, min(max(at, 0), last)]
            for centre in own[plain_farthest(own, xyz.shape[2] // conv.spatial_stride)]:
                anchors.append(centre)
                for step in range(-half, half + 1):
                    frame = min(max(at + step, 0), last)
                    for i in plain_ball(xyz[clip, frame], centre, conv.radius, conv.neighbours):
                        moves.append(torch.cat([xyz[clip, frame, i] - centre, torch.tensor([float(step)], dtype=xyz.dtype)]))
                        gathered.append(None if features is None else features[clip, frame, i])

    def active(rows: Tensor) -> Tensor:
        return plain_batch_norm(rows).clamp(min=0) if normed else rows

    h = active(torch.stack(moves) @ conv.conv_d.weight.T)
    if features is not None:
        h = h + active(torch.stack(gathered) @ conv.conv_f.weight.T)
    for layer in conv.layers:
        h = active(h @ layer.weight.T)
    h = h.view(len(xyz), len(outputs), -1, conv.kernel, conv.neighbours, h.shape[-1])
    pooled = {"max": lambda x, axis: x.max(axis).values, "sum": lambda x, axis: x.sum(axis)}
    out = pooled[pools[1]](pooled[pools[0]](h, 4), 3)
    return torch.stack(anchors).view(*out.shape[:3], 3), out


def plain_norm(x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()


def plain_gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.erf(x / 2**0.5))


def plain_transformer(transformer: SequenceTransformer, rows: Tensor) -> Tensor:
    """(S, C): one sequence, a loop over heads and tokens; layer norms at scale 1 and shift 0."""
    x = rows
    for block in transformer.blocks:
        inner = block.qkv.weight.shape[0] // 3
        size = inner // block.heads
        q, k, v = (plain_norm(x) @ block.qkv.weight[part * inner : (part + 1) * inner].T for part in range(3))
        attended = torch.empty(len(x), inner, dtype=x.dtype)
        for head in range(block.heads):
            own = slice(head * size, (head + 1) * size)
            for token in range(len(x)):
                scores = torch.exp(k[:, own] @ q[token, own] * size**-0.5)
                attended[token, own] = (scores / scores.sum()) @ v[:, own]
        x = x + plain_gelu(attended @ block.out.weight.T + block.out.bias)
        hidden = plain_gelu(plain_norm(x) @ block.mlp[0].weight.T + block.mlp[0].bias)
        x = x + hidden @ block.mlp[1].weight.T + block.mlp[1].bias
    return x


def plain_carried(points: Tensor, centres: Tensor, features: Tensor, power: int) -> Tensor:
    """(N, 3), (G, 3), (G, C) -> (N, C): three nearest, weights 1 / (distance ** power + 1e-8)."""
    rows = []
    for point in points:
        distance = (centres - point).square().sum(-1).sqrt()
        near = distance.argsort(stable=True)[:3]
        weights = 1 / (distance[near] ** power + 1e-8)
        rows.append((weights / weights.sum()) @ features[near])
    return torch.stack(rows)
