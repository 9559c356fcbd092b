"""The training's operations against their usual formulations, and the branches of a pretraining step: turn by turn in one process.

Times are of forward and backward together, except for neighbours, which have no backward. A ratio is the usual formulation's time over the
candidate's within one turn, so that what else the machine does meets both; given are its median and quartiles over the turns. Memory is the
highest sum of live allocations over the start: on a CPU by adding up the profiler's record of every allocation by torch (the kernels'
outputs are such too), on CUDA by the allocator's own peak.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from training.encoders import DGCNN, DGCNNConfig, PointNet, PointNetConfig, ResNetConfig, build
from training.ops import edge_torch
from training.ops.edgeconv import edge_conv
from training.ops.neighbors import knn
from training.ops.pool import norm_pool

_LEAK = 0.2


@dataclass(frozen=True)
class Row:
    """ratio: the usual formulation's time over this one's (quartiles over the turns). peak_mib: live allocations beyond the start."""

    subject: str
    candidate: str
    device: str
    threads: int
    ms: float
    ratio: float
    ratio_q1: float
    ratio_q3: float
    peak_mib: float


@dataclass(frozen=True)
class Branch:
    """share: of the time of a step. samples_per_s: objects, of which each has two clouds and one image."""

    branch: str
    device: str
    precision: str
    threads: int
    ms: float
    share: float
    samples_per_s: float


def bench_ops(
    *, clouds: int = 8, points: int = 1024, k: int = 20, repeats: int = 7, threads: int = 1, device: str = "cpu", seed: int = 0
) -> list[dict[str, Any]]:
    """A row for each operation and candidate: neighbours, edge convolutions of DGCNN's four sizes, pooling, whole steps of the encoders.

    Raises ValueError where the device is not there.
    """
    rows: list[Row] = []
    with setting(threads, device, seed):
        for subject, candidates in _subjects(clouds, points, k, device):
            rows += compare(subject, candidates, repeats, threads, device)
    return [asdict(row) for row in rows]


def bench_branches(
    point: PointNetConfig | DGCNNConfig | None = None,
    image: ResNetConfig | None = None,
    *,
    objects: int = 16,
    points: int = 1024,
    size: int = 224,
    repeats: int = 5,
    threads: int = 1,
    device: str = "cpu",
    precisions: Sequence[str] = ("float32",),
    seed: int = 0,
) -> list[dict[str, Any]]:
    """What share of a step of CrossPoint each branch takes.

    2·objects clouds go through the point encoder, one image for each object through the image encoder, both forward and backward; then one
    step of Adam. The heads and the loss are left out. precisions: of "float32" and "bfloat16" (autocast).
    Raises ValueError where the device is not there.
    """
    point, image = point or DGCNNConfig(), image or ResNetConfig()
    rows: list[Branch] = []
    with setting(threads, device, seed):
        encoders = {"points": build(point).to(device), "images": build(image).to(device)}
        inputs = {
            "points": torch.randn(2 * objects, points, 3, device=device),
            "images": torch.randn(objects, 3, size, size, device=device),
        }
        optimiser = torch.optim.Adam([parameter for encoder in encoders.values() for parameter in encoder.parameters()])
        for precision in precisions:
            seconds = np.zeros((repeats + 1, 3))
            for turn in range(repeats + 1):
                for part, name in enumerate(encoders):
                    seconds[turn, part] = timed(partial(_pass, encoders[name], inputs[name], device, precision), device)
                seconds[turn, 2] = timed(optimiser.step, device)
                optimiser.zero_grad()
            parts = np.median(seconds[1:], axis=0)
            for name, spent in (*zip((*encoders, "optimiser"), parts, strict=True), ("step", parts.sum())):
                rows.append(
                    Branch(name, device, precision, threads, 1e3 * float(spent), float(spent / parts.sum()), objects / float(spent))
                )
    return [asdict(row) for row in rows]


def _pass(encoder: nn.Module, inputs: Tensor, device: str, precision: str) -> None:
    with torch.autocast(device.partition(":")[0], torch.bfloat16, enabled=precision == "bfloat16"):
        features = encoder(inputs)
    features.float().square().mean().backward()


@contextmanager
def setting(threads: int, device: str, seed: int) -> Iterator[None]:
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"the benchmark was asked for {device}, which torch does not find here; leave the device out for the CPU.")
    before, state = torch.get_num_threads(), torch.get_rng_state()
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        torch.set_rng_state(state)


Run = Callable[[], Any]


def _subjects(clouds: int, points: int, k: int, device: str) -> Iterator[tuple[str, dict[str, Run]]]:
    """Per subject the candidates, the usual formulation first."""
    xyz = torch.randn(clouds, points, 3, device=device)
    for channels in (3, 64, 128):
        x = torch.randn(clouds, points, channels, device=device)
        yield f"{k} nearest of {points} in {channels}", {"cdist, topk": partial(_usual_knn, x, k), "ours": partial(knn, x, k)}
    near = knn(xyz, k)
    for channels, width in ((3, 64), (64, 64), (64, 128), (128, 256)):
        x = torch.randn(clouds, points, channels, device=device, requires_grad=True)
        weight = torch.randn(width, 2 * channels, device=device, requires_grad=True)
        norm = nn.BatchNorm2d(width).to(device)
        towards = torch.randn(clouds, points, width, device=device)
        routes: dict[str, Callable[..., Tensor]] = {"usual": usual_edge_conv, "usual, channels last": _channels_last_edge_conv}
        if device == "cpu":
            routes["without the tensor, torch operations"] = _torch_edge_conv
        routes["ours"] = edge_conv
        inputs = (x, near, weight, norm, _LEAK)
        yield (
            f"edge convolution {channels} to {width}",
            {name: partial(both_ways, route, inputs, towards) for name, route in routes.items()},
        )
    h = torch.randn(clouds, points, 1024, device=device, requires_grad=True)
    towards = torch.randn(clouds, 2048, device=device)
    pooled = (h, nn.BatchNorm1d(1024).to(device), _LEAK, True)
    pools: dict[str, Callable[..., Tensor]] = {"usual": _usual_pool, "ours": norm_pool}
    yield "norm, activation, pooling of 1024", {name: partial(both_ways, pool, pooled, towards) for name, pool in pools.items()}
    encoders: list[tuple[str, nn.Module, Callable[..., Tensor]]] = [
        ("DGCNN", DGCNN(DGCNNConfig(k=k)).to(device), _usual_dgcnn),
        ("PointNet", PointNet(PointNetConfig()).to(device), _usual_pointnet),
    ]
    for name, encoder, usual in encoders:
        optimiser = torch.optim.Adam(encoder.parameters())
        routes = {"usual": partial(usual, encoder), "ours": encoder}
        yield f"{name} step", {route: partial(_step, forward, xyz, optimiser) for route, forward in routes.items()}


def both_ways(route: Callable[..., Tensor], inputs: tuple[Any, ...], towards: Tensor) -> None:
    torch.autograd.backward(route(*inputs), towards)


def _step(forward: Callable[[Tensor], Tensor], xyz: Tensor, optimiser: torch.optim.Optimizer) -> None:
    optimiser.zero_grad()
    torch.autograd.backward(forward(xyz).square().mean())
    optimiser.step()


def compare(subject: str, candidates: dict[str, Run], repeats: int, threads: int, device: str) -> list[Row]:
    names = list(candidates)
    for run in candidates.values():
        run()
    seconds = np.empty((repeats, len(names)))
    for turn in range(repeats):
        for c in np.roll(np.arange(len(names)), turn).tolist():
            seconds[turn, c] = timed(candidates[names[c]], device)
    rows = []
    for c, name in enumerate(names):
        low, middle, high = np.quantile(seconds[:, 0] / seconds[:, c], (0.25, 0.5, 0.75))
        peak = _peak_bytes(candidates[name], device) / 2**20
        ms = 1e3 * float(np.median(seconds[:, c]))
        rows.append(Row(subject, name, device, threads, ms, float(middle), float(low), float(high), peak))
    return rows


def timed(run: Run, device: str) -> float:
    cuda = device.startswith("cuda")
    if cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _peak_bytes(run: Run, device: str) -> int:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        start = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - start
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    assert profile.profiler is not None
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(0, int(np.cumsum(changes).max())) if changes else 0


def _usual_knn(x: Tensor, k: int) -> Tensor:
    return torch.cdist(x, x).topk(k, dim=-1, largest=False).indices


def usual_edge_conv(x: Tensor, near: Tensor, weight: Tensor, norm: nn.Module, negative_slope: float = _LEAK) -> Tensor:
    """The layer as it is usually written: all edge vectors (B, 2C, N, k), a 1×1 convolution, batch norm, LeakyReLU, maximum."""
    clouds, points, channels = x.shape
    offsets = torch.arange(clouds, device=x.device)[:, None, None] * points
    around = x.reshape(-1, channels)[(near + offsets).flatten()].view(*near.shape, channels)
    centre = x.unsqueeze(2).expand_as(around)
    edges = torch.cat([around - centre, centre], -1).permute(0, 3, 1, 2).contiguous()
    values = norm(nn.functional.conv2d(edges, weight[:, :, None, None]))
    return nn.functional.leaky_relu(values, negative_slope).max(-1).values.transpose(1, 2)


def _channels_last_edge_conv(x: Tensor, near: Tensor, weight: Tensor, norm: nn.Module, negative_slope: float = _LEAK) -> Tensor:
    clouds, points, channels = x.shape
    offsets = torch.arange(clouds, device=x.device)[:, None, None] * points
    around = x.reshape(-1, channels).index_select(0, (near + offsets).flatten()).view(*near.shape, channels)
    edges = torch.cat([around - x.unsqueeze(2), x.unsqueeze(2).expand_as(around)], -1)
    values = norm(nn.functional.linear(edges, weight).view(-1, len(weight), 1, 1))
    return nn.functional.leaky_relu(values, negative_slope).view(*near.shape, -1).max(2).values


def _torch_edge_conv(x: Tensor, near: Tensor, weight: Tensor, norm: nn.BatchNorm2d, negative_slope: float = _LEAK) -> Tensor:
    return edge_conv(x, near, weight, norm, negative_slope, operations=edge_torch)


def _usual_pool(h: Tensor, norm: nn.Module, negative_slope: float, average: bool) -> Tensor:
    y = nn.functional.leaky_relu(norm(h.transpose(1, 2).contiguous()), negative_slope)
    return torch.cat([y.max(2).values, y.mean(2)], -1) if average else y.max(2).values


def _usual_dgcnn(encoder: DGCNN, x: Tensor) -> Tensor:
    outputs = []
    layer: Any
    for layer in encoder.edge_convs:
        x = usual_edge_conv(x, _usual_knn(x, encoder.config.k), layer.linear.weight, layer.norm)
        outputs.append(x)
    return _usual_pool(encoder.linear(torch.cat(outputs, -1)), encoder.norm, _LEAK, True)


def _usual_pointnet(encoder: PointNet, x: Tensor) -> Tensor:
    x = x.transpose(1, 2)
    linear: Any
    for linear, norm in zip(encoder.linears, encoder.norms, strict=True):
        x = nn.functional.relu(norm(nn.functional.conv1d(x, linear.weight.unsqueeze(-1))))
    return x.max(-1).values
