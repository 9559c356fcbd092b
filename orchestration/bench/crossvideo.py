"""Point 4D convolution, its ops and a P4Transformer's step against the plain formulation: turn by turn in one process.

Plain is what the published networks do, written in torch: anchor frame by anchor frame, farthest points in a loop, balls from all distances
and a sort, displacements gathered for every neighbour, 1×1 convolutions on the tensor of all neighbours in a frame, the pools. Its batch
norm is over such a tensor, ours over all of them; else weights, draws and results are the same. Ratios and memory are
`orchestration.bench.train`'s.

"paper" is the published setting of HOI4D's actions, 150 frames of 2,048 points with 64 anchors a frame, the encoder's other layers left out
of the step; "small" is what two cores train.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from typing import Any, Literal, cast
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional

from orchestration.bench.train import compare, setting
from training.encoders.p4transformer import P4Transformer, P4TransformerConfig
from training.ops.ball import ball_query
from training.ops.point4d import Point4DConv
from training.ops.sampling import farthest_points

Size = Literal["small", "paper"]


def configs(size: Size) -> tuple[P4TransformerConfig, int, int]:
    """Encoder, frames of a clip, points of a frame."""
    if size == "paper":
        return P4TransformerConfig(), 150, 2048
    small = P4TransformerConfig(radius=0.3, neighbours=8, spatial_stride=16, width=64, depth=1, heads=2, head_dim=32, mlp_width=128)
    return small, 8, 256


def bench_crossvideo(
    *, size: Size = "small", clips: int = 8, repeats: int = 5, threads: int = 1, device: str = "cpu", seed: int = 0
) -> list[dict[str, Any]]:
    """A row for each subject, plain first. Raises ValueError where the device is not there."""
    rows: list[dict[str, Any]] = []
    with setting(threads, device, seed):
        for subject, candidates in _subjects(size, clips, device):
            rows += [asdict(row) for row in compare(subject, candidates, repeats, threads, device)]
    return rows


def _subjects(size: Size, clips: int, device: str) -> Iterator[tuple[str, dict[str, Callable[[], Any]]]]:
    config, frames, number = configs(size)
    # a box of a few radii, so that most balls are full, as in a scene
    points = (torch.rand(clips, frames, number, 3, device=device) - 0.5) * 4 * config.radius
    clouds, anchors = points[0], number // config.spatial_stride
    centres = clouds[:, :anchors]
    yield (
        f"{anchors} farthest of {number}, {frames} frames",
        {"plain": partial(plain_farthest, clouds, anchors), "ours": partial(farthest_points, clouds, anchors)},
    )
    balls = (clouds, centres, config.radius, config.neighbours)
    yield f"balls of {config.neighbours}, {frames} frames", {"plain": partial(_in_turn, *balls), "ours": partial(ball_query, *balls)}
    encoder = P4Transformer(config).to(device)
    conv = encoder.tubes.conv
    yield "point 4D convolution, 1 layer", _both(conv, points)
    widths = (config.width // 32, config.width // 16, config.width // 8) if size == "paper" else (16, 16, 32)
    more: dict[str, Any] = {"padding": conv.padding, "spatial_pool": "max", "temporal_pool": "max"}
    deep = Point4DConv(0, widths, config.radius, config.neighbours, config.spatial_stride, config.kernel, norm=True, act=True, **more)
    yield "point 4D convolution, 3 layers, norm", _both(deep.to(device), points)
    wide = Point4DConv(8, widths, config.radius, config.neighbours, config.spatial_stride, config.kernel, norm=True, act=True, **more)
    yield "the same with features", _both(wide.to(device), points, torch.randn(*points.shape[:3], 8, device=device))
    if size == "small":
        ours = partial(_step, encoder, points)
        yield "P4Transformer step", {"plain": partial(_plainly, ours), "ours": ours}


def _both(conv: Point4DConv, points: Tensor, features: Tensor | None = None) -> dict[str, Callable[[], Any]]:
    return {"plain": partial(_pass, partial(plain_conv, conv), points, features), "ours": partial(_pass, conv, points, features)}


def _pass(route: Callable[..., tuple[Tensor, Tensor]], points: Tensor, features: Tensor | None) -> None:
    _, out = route(points, features)
    out.backward(torch.ones_like(out))  # type: ignore[no-untyped-call]


def _step(encoder: P4Transformer, points: Tensor) -> None:
    encoder.zero_grad()
    torch.autograd.backward(encoder(points).square().mean())


def _plainly(run: Callable[[], None]) -> None:
    with mock.patch.object(Point4DConv, "forward", plain_conv):
        run()


def _in_turn(clouds: Tensor, centres: Tensor, radius: float, k: int) -> list[Tensor]:
    return [plain_ball(cloud[None], centre[None], radius, k) for cloud, centre in zip(clouds, centres, strict=True)]


# ---- the plain formulation ---------------------------------------------------------------------------------------------


def plain_farthest(points: Tensor, count: int) -> Tensor:
    found = torch.zeros(len(points), count, dtype=torch.int64, device=points.device)
    distances = torch.full(points.shape[:2], torch.inf, device=points.device, dtype=points.dtype)
    clouds = torch.arange(len(points), device=points.device)
    for step in range(1, count):
        latest = points[clouds, found[:, step - 1]]
        distances = torch.minimum(distances, (points - latest[:, None]).square().sum(-1))
        found[:, step] = distances.argmax(-1)
    return found


def plain_ball(points: Tensor, centres: Tensor, radius: float, k: int) -> Tensor:
    number = points.shape[1]
    squared = (centres[:, :, None] - points[:, None]).square().sum(-1)
    order = torch.where(squared < radius**2, torch.arange(number, device=points.device), number)
    first = order.sort(-1).values[..., :k]
    filler = torch.where(first[..., :1] < number, first[..., :1], 0)
    return torch.where(first < number, first, filler)


def plain_conv(conv: Point4DConv, points: Tensor, features: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """What `Point4DConv` computes, with copies as pads; batch norm over one frame of neighbours of one anchor frame."""
    half = conv.kernel // 2
    frames, contents = _padded(points, conv), None if features is None else _padded(features, conv)
    clips = torch.arange(len(points), device=points.device).view(-1, 1, 1)
    anchors, outputs = [], []
    for middle in range(half, len(frames) - half, conv.temporal_stride):
        own = frames[middle]
        chosen = own[clips[..., 0], plain_farthest(own, own.shape[1] // conv.spatial_stride)]
        pooled = []
        for at in range(middle - half, middle + half + 1):
            near = plain_ball(frames[at], chosen, conv.radius, conv.neighbours)
            apart = frames[at][clips, near] - chosen[:, :, None]
            d = torch.cat([apart, torch.full_like(apart[..., :1], at - middle)], -1)
            h = _layer(conv, d.permute(0, 3, 1, 2), conv.conv_d, conv.norm_d)
            if contents is not None and conv.conv_f is not None:
                f = _layer(conv, contents[at][clips, near].permute(0, 3, 1, 2), conv.conv_f, conv.norm_f)
                h = h + f if conv.operation == "add" else h * f
            for layer, norm in zip(conv.layers, conv.norms, strict=True):
                h = _layer(conv, h, cast("nn.Linear", layer), norm)
            pooled.append(_pool(h, -1, conv.spatial_pool))
        anchors.append(chosen)
        outputs.append(_pool(torch.stack(pooled), 0, conv.temporal_pool).transpose(1, 2))
    return torch.stack(anchors, 1), torch.stack(outputs, 1)


def _padded(x: Tensor, conv: Point4DConv) -> list[Tensor]:
    before, after = conv.padding
    return [x[:, 0]] * before + list(x.unbind(1)) + [x[:, -1]] * after


def _layer(conv: Point4DConv, x: Tensor, layer: nn.Linear, norm: nn.Module | None) -> Tensor:
    x = functional.conv2d(x, layer.weight[:, :, None, None])
    if isinstance(norm, nn.BatchNorm1d):
        x = functional.batch_norm(x, None, None, norm.weight, norm.bias, training=True, eps=norm.eps)
    return functional.relu(x) if conv.act else x


def _pool(x: Tensor, axis: int, pool: str) -> Tensor:
    if pool == "max":
        return x.max(axis).values
    return x.sum(axis) if pool == "sum" else x.mean(axis)
