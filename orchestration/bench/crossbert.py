"""Cross-BERT's two steps, and what they are made of, against the same model in its plain formulation: turn by turn in one process.

Plain is what a reader of the papers would write: attention as softmax(Q Kᵀ) V, Chamfer distances from the matrix of all pairs, farthest
points in a loop, neighbours by cdist and topk, the patch network and the graph networks with their concatenations as tensors, the token
head on every patch before the hidden ones are picked, every token through every block. Weights, draws and
results are the same up to rounding: `plain` swaps the functions below for the project's while it is open.

Ratios and memory are `orchestration.bench.train`'s. On CUDA each step is measured in bfloat16 too, with its matrix products' rate as a
share of what one large product reaches in the same run and precision.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from typing import Any, Literal
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from orchestration.bench.train import Row, both_ways, compare, setting, timed
from training.distributed import World
from training.encoders import PointTransformer, PointTransformerConfig, ViTConfig, fusion, transformer
from training.encoders.fusion import FusionConfig
from training.encoders.patch_pointnet import PatchPointNet
from training.encoders.vit import ViT
from training.loop import OptimizerConfig, Precision, Trained, make_optimizer, step_once
from training.noise import key_for
from training.objectives.crossbert import Alignment, CrossBert, CrossBertConfig
from training.ops import chamfer, grouping, sampling
from training.ops.chamfer import chamfer_l1
from training.ops.grouping import Patches, make_patches
from training.tokenizer import dvae
from training.tokenizer.dvae import DVAEConfig, EdgeLayer, FoldingDecoder, Graph
from training.tokenizer.train import TokenizerConfig, Tokenizing

_OPTIMIZER = OptimizerConfig(lr=5e-4, weight_decay=0.05, decoupled=True, spare_vectors=True, clip=10)
Size = Literal["small", "paper"]


def configs(size: Size) -> tuple[CrossBertConfig, PointTransformerConfig, int]:
    """Objective, encoder and points of a cloud: "paper" are the defaults, "small" what two cores train in an hour."""
    if size == "paper":
        return CrossBertConfig(), PointTransformerConfig(), 1024
    patches: dict[str, Any] = {"groups": 32, "group_size": 16, "patch_widths": (32, 64, 128), "patch_feature": 64}
    model = DVAEConfig(**patches, vocabulary=256, codebook=64, dgcnn_in=32, dgcnn_widths=(64, 128, 128, 256), decoder=256)
    config = CrossBertConfig(
        alignment=Alignment(width=64, queue=512),
        fusion=FusionConfig(depth=2, heads=3),
        image=ViTConfig(size=64, width=96, depth=4, heads=3, drop_path=0.0),
        tokenizer=TokenizerConfig(model=model),
    )
    return config, PointTransformerConfig(**patches, width=96, depth=4, heads=3, drop_path=0.0), 512


def bench_crossbert(
    *, size: Size = "small", clouds: int = 32, repeats: int = 7, threads: int = 1, device: str = "cpu", seed: int = 0
) -> list[dict[str, Any]]:
    """A row for each subject, plain first: times as in `Row`, samples_per_s in clouds, limit_share the part of the matrix rate reached.

    The last two are there for steps, limit_share on CUDA only. Raises ValueError where the device is not there.
    """
    rows: list[dict[str, Any]] = []
    with setting(threads, device, seed):
        for subject, ours in _parts(size, clouds, device):
            rows += [
                asdict(row) | {"samples_per_s": None, "limit_share": None}
                for row in _against_plain(subject, ours, repeats, threads, device)
            ]
        precisions: tuple[Precision, ...] = ("float32", "bf16") if device.startswith("cuda") else ("float32",)
        for subject, module, batch in _steps(size, clouds, device):
            for precision in precisions:
                ours = stepper(module, batch, precision, device)
                for row in _against_plain(f"{subject}, {precision}", ours, repeats, threads, device):
                    share = _limit_share(row, ours, precision, device) if device.startswith("cuda") else None
                    rows.append(asdict(row) | {"samples_per_s": 1e3 * clouds / row.ms, "limit_share": share})
    return rows


def stepper(module: Trained, batch: dict[str, Tensor], precision: Precision = "float32", device: str = "cpu") -> partial[None]:
    """One step of the optimiser, and what follows it, at each call."""
    return partial(_step, module, batch, make_optimizer(_OPTIMIZER, module), precision, World(device=torch.device(device)))


def _step(module: Trained, batch: dict[str, Tensor], optimizer: torch.optim.Optimizer, precision: Precision, world: World) -> None:
    step_once(module, batch, optimizer, precision, world, _OPTIMIZER.clip)
    module.after_step()


def _against_plain(subject: str, ours: partial[Any], repeats: int, threads: int, device: str) -> list[Row]:
    return compare(subject, {"plain": partial(_plainly, ours), "ours": ours}, repeats, threads, device)


def _plainly(run: partial[Any]) -> None:
    with plain():
        run()


def _parts(size: Size, clouds: int, device: str) -> Iterator[tuple[str, partial[Any]]]:
    """Functions that look up what `plain` swaps when they are called."""
    _, encoder, number = configs(size)
    points = _sphere(clouds, number, device)
    yield f"{encoder.groups} farthest of {number}", partial(lambda: sampling.farthest_points(points, encoder.groups))
    yield f"patches of {encoder.group_size}", partial(make_patches, points, encoder.groups, encoder.group_size)
    offsets = make_patches(points, encoder.groups, encoder.group_size).offsets.flatten(0, 1)
    network = PatchPointNet(encoder.patch_widths, encoder.patch_feature).to(device)
    towards = torch.randn(len(offsets), encoder.patch_feature, device=device)
    yield "patch network", partial(both_ways, network, (offsets,), towards)
    rows = torch.randn(3, clouds, 1 + encoder.groups, encoder.width, device=device, requires_grad=True)
    yield "attention", partial(lambda: both_ways(transformer.attend, (*rows, encoder.heads), torch.ones_like(rows[0])))
    made = torch.randn_like(offsets, requires_grad=True)
    yield "Chamfer distance", partial(both_ways, chamfer_l1, (made, offsets), torch.ones(len(offsets), device=device))


def _steps(size: Size, clouds: int, device: str) -> Iterator[tuple[str, Trained, dict[str, Tensor]]]:
    config, encoder, number = configs(size)
    batch = random_batch(config, clouds, number, device)
    yield "tokenizer step", Tokenizing(config.tokenizer).to(device), {"points": batch["points_a"], "noise": batch["noise"]}
    yield "Cross-BERT step", CrossBert(config, encoder).to(device), batch


def random_batch(config: CrossBertConfig, clouds: int, number: int, device: str = "cpu") -> dict[str, Tensor]:
    """Clouds on a sphere and noise for images, in the form of `crossbert.prepare`."""
    side = config.image.size if isinstance(config.image, ViTConfig) else 224
    noise = torch.tensor([key_for(0, 0, str(i)) for i in range(clouds)], device=device)
    batch = {"id": torch.arange(clouds, device=device), "noise": noise}
    for view in "ab":
        batch[f"points_{view}"] = _sphere(clouds, number, device)
        batch[f"image_{view}"] = torch.randn(clouds, 3, side, side, device=device)
    return batch


def _sphere(clouds: int, number: int, device: str) -> Tensor:
    return functional.normalize(torch.randn(clouds, number, 3, device=device), dim=-1)


def _limit_share(row: Row, ours: partial[None], precision: Precision, device: str) -> float:
    """The step's matrix products a second over those of one large product."""
    with FlopCounterMode(display=False) as counter, plain() if row.candidate == "plain" else ExitStack():
        ours()
    side = 8192
    a = torch.randn(side, side, device=device, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    b = torch.randn_like(a)
    times = sorted(timed(lambda: a @ b, device) for _ in range(7))
    return float(counter.get_total_flops() / (row.ms / 1e3) / (2 * side**3 / times[3]))


# ---- the plain formulation ---------------------------------------------------------------------------------------------


@contextmanager
def plain() -> Iterator[None]:
    """While open, every model computes by the plain formulation."""
    swaps: list[tuple[Any, str, Any]] = [
        (transformer, "attend", _attend),
        (fusion, "attend", _attend),
        (PatchPointNet, "forward", _patch_pointnet),
        (EdgeLayer, "forward", _edge_layer),
        (FoldingDecoder, "forward", _folding_decoder),
        (dvae, "group_norm", _group_norm),
        (dvae, "nearest", _nearest),
        (chamfer, "nearest_squared", _nearest_squared),
        (sampling, "farthest_points", _farthest_points),
        (grouping, "farthest_points", _farthest_points),
        (grouping, "nearest", _nearest),
        (grouping, "gather_rows", _gather_rows),
        (PointTransformer, "cls", _cls),
        (ViT, "forward", _image_cls),
        (CrossBert, "_predict", _predict),
    ]
    with ExitStack() as stack:
        for owner, name, replacement in swaps:
            stack.enter_context(mock.patch.object(owner, name, replacement))
        yield


def _attend(queries: Tensor, keys: Tensor, values: Tensor, heads: int) -> Tensor:
    q, k, v = (x.reshape(*x.shape[:2], heads, -1).transpose(1, 2) for x in (queries, keys, values))
    weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)
    mixed: Tensor = weights @ v
    return mixed.transpose(1, 2).flatten(2)


def _farthest_points(points: Tensor, count: int, skip_origin: bool = False) -> Tensor:
    found = torch.zeros(len(points), count, dtype=torch.int64, device=points.device)
    distances = torch.full(points.shape[:2], torch.inf, device=points.device, dtype=points.dtype)
    clouds = torch.arange(len(points), device=points.device)
    for step in range(1, count):
        latest = points[clouds, found[:, step - 1]]
        distances = torch.minimum(distances, (points - latest[:, None]).square().sum(-1))
        found[:, step] = distances.argmax(-1)
    return found


def _nearest(points: Tensor, centres: Tensor, k: int) -> Tensor:
    return torch.cdist(centres, points).topk(k, dim=-1, largest=False).indices


def _gather_rows(x: Tensor, index: Tensor) -> Tensor:
    return x[torch.arange(len(x), device=x.device).view(-1, *[1] * (index.dim() - 1)), index]


def _nearest_squared(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    wide = torch.promote_types(a.dtype, torch.float32)
    squared = (a.to(wide)[:, :, None] - b.to(wide)[:, None]).square().sum(-1)
    return squared.min(2).values, squared.min(1).values


def _patch_pointnet(self: PatchPointNet, offsets: Tensor) -> Tensor:
    relu = functional.relu
    local = _convolved(self.second, relu(self.norm1(_convolved(self.first, offsets.transpose(1, 2)))))
    whole = local.max(2, keepdim=True).values.expand_as(local)
    hidden = relu(self.norm2(_convolved(self.third, torch.cat([whole, local], dim=1))))
    return _convolved(self.last, hidden).max(2).values


def _convolved(layer: nn.Linear, x: Tensor) -> Tensor:
    return functional.conv1d(x, layer.weight.unsqueeze(-1), layer.bias)


def _edge_layer(self: EdgeLayer, f: Tensor, graph: Graph) -> Tensor:
    around = _gather_rows(f, graph.neighbours)
    own = f.unsqueeze(2).expand_as(around)
    edges = torch.cat([around - own, own], dim=-1).permute(0, 3, 1, 2).contiguous()
    values = self.norm(functional.conv2d(edges, self.linear.weight[:, :, None, None]))
    return functional.leaky_relu(values, 0.2).max(-1).values.transpose(1, 2)


def _group_norm(x: Tensor, norm: nn.GroupNorm) -> Tensor:
    normalised: Tensor = norm(x.transpose(1, 2))
    return normalised.transpose(1, 2)


def _folding_decoder(self: FoldingDecoder, h: Tensor) -> tuple[Tensor, Tensor]:
    coarse = self.coarse(h)
    coarse = coarse.to(torch.promote_types(coarse.dtype, torch.float32)).view(len(h), -1, 3)
    number = coarse.shape[1]
    centre = coarse.repeat_interleave(4, dim=1)
    seeds = self.seeds.repeat(number, 1).expand(len(h), -1, -1)
    whole = h[:, None].expand(-1, 4 * number, -1)
    joined = _convolved(self.fold_in, torch.cat([whole, seeds, centre], dim=-1).transpose(1, 2))
    for layer in self.fold:
        joined = _convolved(layer, joined) if isinstance(layer, nn.Linear) else layer(joined)
    return coarse, centre + joined.transpose(1, 2)


def _cls(self: PointTransformer, patches: Patches, keys: Tensor | None = None) -> Tensor:
    return self.tokens(patches, keys)[:, 0]


def _image_cls(self: ViT, images: Tensor, keys: Tensor | None = None) -> Tensor:
    return self.tokens(images, keys)[:, 0]


def _predict(self: CrossBert, tokens: Tensor, mask: Tensor) -> Tensor:
    logits: Tensor = self.token_head(tokens[:, 1:])
    return logits[mask].float()
