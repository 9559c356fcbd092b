"""The discrete VAE of Point-BERT (Yu et al. 2022, arXiv 2111.14819, as its released code computes it): patches to tokens and back.

    f      = PatchPointNet(offsets)                                  (B, G, C)
    logits = GraphNet₁(f)                                            (B, G, V)
    c      = softmax((logits + Gumbel noise) / τ) · codebook         (B, G, D)
    h      = GraphNet₂(c)                                            (B, G, C)
    coarse = MLP(h)                                                  (B·G, M/4, 3)
    fine   = coarse point + fold(h, coarse point, seed of a 2×2 grid)  (B·G, M, 3)

Both graph networks share the graph of the k nearest centres, the centre itself included. Points are relative to their centre throughout.
The logits leave a group norm and a LeakyReLU: their scale is a learned one, tied across the patches of a cloud.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Annotated, Self

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from training.encoders.patch_pointnet import PatchPointNet
from training.noise import fold, uniforms
from training.ops.batchnorm import BatchNorm1d
from training.ops.edge_group_norm import edge_group_norm
from training.ops.grouping import Patches, gather_rows, make_patches, nearest
from training.ops.norm_relu import norm_relu

_NORM_GROUPS = 4
_SLOPE = 0.2
_SEED_REACH = 0.05
_GUMBEL = 11  # the stream of the sample's key that the Gumbel noise comes from

Width = Annotated[int, Field(ge=1)]
NormWidth = Annotated[int, Field(ge=_NORM_GROUPS, multiple_of=_NORM_GROUPS)]


class DVAEConfig(BaseModel):
    """Sizes; the defaults are those of Point-BERT's release, for clouds of 1024 points."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    groups: int = Field(64, ge=1, description="patches of a cloud")
    group_size: int = Field(32, ge=4, multiple_of=4, description="points of a patch")
    skip_origin: bool = Field(False, description="farthest points pass over points near the origin, as the release's kernel does")
    patch_widths: tuple[Width, Width, Width] = (128, 256, 512)
    patch_feature: NormWidth = Field(256, description="width of a patch before the tokens and after them")
    vocabulary: NormWidth = 8192
    codebook: Width = Field(256, description="width of a token's vector")
    dgcnn_in: Width = 128
    dgcnn_widths: tuple[NormWidth, NormWidth, NormWidth, NormWidth] = (256, 512, 512, 1024)
    k: int = Field(4, ge=1, description="nearest centres of a centre, itself included")
    logit_scale: float = Field(1.0, gt=0, description="initial scale of the logits' norm; the release's 1 takes a long run to grow")
    decoder: int = Field(1024, ge=2, multiple_of=2, description="width of the coarse decoder; the folding has half of it")

    @model_validator(mode="after")
    def _neighbours(self) -> Self:
        if self.k > self.groups:
            raise ValueError(f"k must be at most the number of groups, got k={self.k} for {self.groups} groups")
        return self


@dataclass(frozen=True)
class Graph:
    """neighbours (B, G, k) int64 of each node, and how often j is a neighbour of i: adjacency (B, G, G)."""

    neighbours: Tensor
    adjacency: Tensor

    @classmethod
    def of(cls, centres: Tensor, k: int) -> Graph:
        """The k nearest centres of each, itself included."""
        neighbours = nearest(centres, centres, k)
        return cls(neighbours, F.one_hot(neighbours, centres.shape[1]).sum(2).to(centres.dtype))


def group_norm(x: Tensor, norm: nn.GroupNorm) -> Tensor:
    """torch's group norm with channels last: x (B, L, C), moments over L and the channels of a group."""
    mean = _over_groups(x.mean(1), norm)
    centred = x - mean[:, None]
    variance = _over_groups(centred.square().mean(1), norm)
    return centred * (torch.rsqrt(variance + norm.eps) * norm.weight)[:, None] + norm.bias


def _over_groups(values: Tensor, norm: nn.GroupNorm) -> Tensor:
    """(B, C) to the mean over each group's channels, (B, C)."""
    size = values.shape[1] // norm.num_groups
    return values.view(len(values), norm.num_groups, size).mean(-1).repeat_interleave(size, dim=1)


class EdgeLayer(nn.Module):
    """max over j of LeakyReLU(GroupNorm(W [f_j − f_i, f_i])): (B, G, C) on a graph -> (B, G, O).

    W [f_j − f_i, f_i] = u_j + w_i with u = W₁ f, w = (W₂ − W₁) f, so all products are on nodes. Group norm's moments are those of all G·k
    edges: their squares are Σⱼ degⱼ uⱼ² + k Σᵢ wᵢ² + 2 Σᵢⱼ aᵢⱼ wᵢ uⱼ about the mean, with the adjacency a. Norm and LeakyReLU are monotone
    in each channel, so the largest edge, or the least where the norm's scale is negative, is taken before them.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * in_channels, out_channels, bias=False)
        self.norm = nn.GroupNorm(_NORM_GROUPS, out_channels)

    def forward(self, f: Tensor, graph: Graph) -> Tensor:
        first, second = self.linear.weight.chunk(2, dim=1)
        ends = F.linear(f, torch.cat([first, second - first]))
        ends = ends.to(torch.promote_types(ends.dtype, torch.float32))
        if ends.device.type == "cpu":
            return edge_group_norm(ends, graph.neighbours, self.norm, _SLOPE)
        u, w = ends.chunk(2, dim=-1)
        with torch.autocast(f.device.type, enabled=False):
            nodes, k = graph.neighbours.shape[1:]
            degree = graph.adjacency.sum(1)[..., None]
            u = u - _over_groups((degree * u).mean(1) / k, self.norm)[:, None]
            w = w - _over_groups(w.mean(1), self.norm)[:, None]
            squares = degree * u.square() + w * (k * w + 2 * torch.bmm(graph.adjacency.to(u.dtype), u))
            variance = _over_groups(squares.sum(1) / (nodes * k), self.norm).clamp(min=0)
            sign = torch.where(self.norm.weight.detach() < 0, -1.0, 1.0).to(u.dtype)
            extreme = gather_rows(u * sign, graph.neighbours).amax(2) * sign + w
            return F.leaky_relu(extreme * (torch.rsqrt(variance + self.norm.eps) * self.norm.weight)[:, None] + self.norm.bias, _SLOPE)


class GraphNet(nn.Module):
    """A linear map, four edge layers on one graph, and a layer over the outputs of all: (B, G, C) -> (B, G, O) float32."""

    def __init__(self, in_channels: int, config: DVAEConfig, out_channels: int) -> None:
        super().__init__()
        widths = (config.dgcnn_in, *config.dgcnn_widths)
        self.input = nn.Linear(in_channels, widths[0])
        self.layers = nn.ModuleList(EdgeLayer(a, b) for a, b in itertools.pairwise(widths))
        self.output = nn.Linear(sum(config.dgcnn_widths), out_channels, bias=False)
        self.norm = nn.GroupNorm(_NORM_GROUPS, out_channels)

    def forward(self, f: Tensor, graph: Graph) -> Tensor:
        found = [self.input(f)]
        for layer in self.layers:
            found.append(layer(found[-1], graph))
        out = self.output(torch.cat(found[1:], dim=-1))
        return F.leaky_relu(group_norm(out.to(torch.promote_types(out.dtype, torch.float32)), self.norm), _SLOPE)


class FoldingDecoder(nn.Module):
    """Features (R, C) to coarse (R, M/4, 3) and fine (R, M, 3) points; fine point 4i + s is coarse point i unfolded by seed s."""

    def __init__(self, channels: int, width: int, points: int) -> None:
        super().__init__()
        half = width // 2
        self.coarse = nn.Sequential(
            nn.Linear(channels, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 3 * points // 4)
        )
        self.fold_in = nn.Linear(channels + 2 + 3, half)
        self.fold = nn.Sequential(BatchNorm1d(half), nn.ReLU(), nn.Linear(half, half), BatchNorm1d(half), nn.ReLU(), nn.Linear(half, 3))
        # torch's initial weights shrink, layer by layer, what tells patches apart; with He's the decoder learns it at once (our choice).
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)
        for last in (self.coarse[-1], self.fold[-1]):
            assert isinstance(last, nn.Linear)
            nn.init.normal_(last.weight, std=_SEED_REACH / math.sqrt(last.in_features))
        line = torch.tensor([-_SEED_REACH, _SEED_REACH])
        self.register_buffer("seeds", torch.cartesian_prod(line, line), persistent=False)
        self.seeds: Tensor

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        rows = len(h)
        coarse: Tensor = self.coarse(h)
        coarse = coarse.to(torch.promote_types(coarse.dtype, torch.float32)).view(rows, -1, 3)
        # The layer's product with [h, seed, coarse point], each part at the number of rows that it has.
        of_h, of_seed, of_point = torch.split(self.fold_in.weight, [h.shape[1], 2, 3], dim=1)
        joined = (F.linear(coarse, of_point)[:, :, None] + F.linear(self.seeds.to(h.dtype), of_seed)).flatten(1, 2)
        norm1, _, linear, norm2, _, last = self.fold
        assert isinstance(norm1, BatchNorm1d)
        assert isinstance(linear, nn.Linear)
        assert isinstance(norm2, BatchNorm1d)
        joined = norm_relu(joined, norm1, F.linear(h, of_h, self.fold_in.bias))
        moves = last(norm_relu(F.linear(joined, linear.weight), norm2, linear.bias.expand(rows, -1)))
        return coarse, (coarse[:, :, None] + moves.view(rows, -1, 4, 3)).flatten(1, 2)


@dataclass(frozen=True)
class Reconstruction:
    """logits (B, G, V); coarse (B, G, M/4, 3) and fine (B, G, M, 3) relative to the centres."""

    logits: Tensor
    coarse: Tensor
    fine: Tensor


class DVAE(nn.Module):
    """The tokenizer. After `freeze` it has no trainable parameter and stays in eval mode whatever its parent does."""

    def __init__(self, config: DVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.frozen = False
        self.patch_pointnet = PatchPointNet(config.patch_widths, config.patch_feature)
        self.encoder = GraphNet(config.patch_feature, config, config.vocabulary)
        nn.init.constant_(self.encoder.norm.weight, config.logit_scale)
        self.codebook = nn.Parameter(torch.randn(config.vocabulary, config.codebook))
        self.decoder_graph = GraphNet(config.codebook, config, config.patch_feature)
        self.decoder = FoldingDecoder(config.patch_feature, config.decoder, config.group_size)

    def train(self, mode: bool = True) -> Self:
        return super().train(mode and not self.frozen)

    def freeze(self) -> Self:
        """Fixes parameters and batch statistics for good."""
        self.frozen = True
        return self.requires_grad_(False).eval()

    def patch(self, points: Tensor) -> Patches:
        """Clouds (B, N, 3) to the patches of the configuration's number and size."""
        return make_patches(points, self.config.groups, self.config.group_size, self.config.skip_origin)

    def logits(self, patches: Patches) -> Tensor:
        """(B, G, V) float32."""
        return self._logits(patches, self._graph(patches))

    def labels(self, patches: Patches) -> Tensor:
        """The token of each patch: the largest logit's, (B, G) int64."""
        return self.logits(patches).argmax(-1)

    def forward(
        self, patches: Patches, temperature: float, keys: Tensor, hard: bool = False, labels: Tensor | None = None
    ) -> Reconstruction:
        """Through tokens drawn with the Gumbel noise of keys (B,) int64; `hard`: one token each, with the soft one's gradient.

        labels (B, G) int64, where given, are decoded in the place of what is drawn.
        """
        graph = self._graph(patches)
        logits = self._logits(patches, graph)
        choice = gumbel_softmax(logits, temperature, keys, hard) if labels is None else self._one_hot(labels)
        return self._decode(logits, choice, graph)

    def reconstruct(self, patches: Patches) -> Reconstruction:
        """Through the patches' labels, without noise."""
        graph = self._graph(patches)
        logits = self._logits(patches, graph)
        return self._decode(logits, self._one_hot(logits.argmax(-1)), graph)

    def _one_hot(self, labels: Tensor) -> Tensor:
        return F.one_hot(labels, self.config.vocabulary).to(self.codebook.dtype)

    def _graph(self, patches: Patches) -> Graph:
        return Graph.of(patches.centres, self.config.k)

    def _logits(self, patches: Patches, graph: Graph) -> Tensor:
        features = self.patch_pointnet(patches.offsets.flatten(0, 1))
        logits: Tensor = self.encoder(features.view(*patches.centres.shape[:2], -1), graph)
        return logits

    def _decode(self, logits: Tensor, choice: Tensor, graph: Graph) -> Reconstruction:
        h = self.decoder_graph(choice @ self.codebook, graph)
        coarse, fine = self.decoder(h.flatten(0, 1))
        return Reconstruction(logits, *(points.view(*h.shape[:2], -1, 3) for points in (coarse, fine)))


def gumbel_softmax(logits: Tensor, temperature: float, keys: Tensor, hard: bool = False) -> Tensor:
    """softmax((logits + Gumbel(0, 1) noise) / temperature) of logits (B, ..., V), the noise a function of keys (B,) int64.

    `hard` gives the largest entry as a one-hot vector that has the soft vector's gradient (straight through).
    """
    noise = -torch.log(-torch.log(uniforms(fold(keys, _GUMBEL), *logits.shape[1:])))
    soft = ((logits + noise.to(logits.dtype)) / temperature).softmax(-1)
    if not hard:
        return soft
    return F.one_hot(soft.argmax(-1), soft.shape[-1]).to(soft.dtype) + (soft - soft.detach())


def mean_log_distribution(logits: Tensor) -> Tensor:
    """log of the mean over patches of softmax(logits): (B, G, V) to (B, V), finite for every finite logit."""
    return torch.logsumexp(logits.log_softmax(-1), dim=1) - math.log(logits.shape[1])


def uniformity(log_distribution: Tensor) -> Tensor:
    """KL(uniform ‖ q) of log q (B, V), (B,): zero for a uniform q, unbounded where a token is never used."""
    return -math.log(log_distribution.shape[-1]) - log_distribution.mean(-1)
