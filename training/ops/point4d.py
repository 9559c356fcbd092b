"""Point 4D convolution: features of space-time tubes around points that lie far apart (methods-C, C.2.1).

The clip is padded in time; every s-th frame is an anchor frame. Of it, n = ⌊N/σ⌋ farthest points are anchors; in each of the k frames
around it the first K points within the radius of an anchor are its neighbours there, with displacements

    d = (x_j − x_anchor, i − anchor frame) ∈ R⁴,        h = conv_d(d)   or, with features,   conv_d(d) + conv_f(f_j)   (or their product)

Each conv is linear without bias, then batch norm and ReLU where asked for. More such layers follow; the pools are over K, then over the k
frames. [ours: a layer's batch statistics are over all tubes of all frames of all ranks, one set a step.]
"""

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from training.ops.ball import ball_query_in
from training.ops.batchnorm import BatchNorm1d
from training.ops.grouping import gather_rows
from training.ops.linear_max import linear_max
from training.ops.norm_max import linear_norm_max
from training.ops.norm_relu import norm_relu
from training.ops.sampling import farthest_points
from training.ops.tube_norm import folded, shared_norm
from training.ops.tubes import displacements, tube_layer, tube_max

_ELEMENTS = 1 << 22  # numbers of the widest layer at a time where nothing is kept for a gradient

Pool = Literal["max", "sum", "mean"]


def anchor_frames(frames: int, kernel: int, temporal_stride: int, padding: tuple[int, int]) -> Tensor:
    """(L,) int64: the frame of a clip of `frames` that output l is around; a padded one is below 0 or from T on.

    Raises ValueError where kernels at this stride do not divide the padded clip.
    """
    padded = frames + sum(padding)
    if frames < 1 or padded < kernel or (padded - kernel) % temporal_stride:
        raise ValueError(
            f"A clip of {frames} frames padded to {padded} does not divide into temporal kernels of {kernel} at stride "
            f"{temporal_stride}: change the number of frames, the padding or the stride."
        )
    return torch.arange(kernel // 2, padded - kernel // 2, temporal_stride) - padding[0]


def anchor_count(points: int, spatial_stride: int) -> int:
    """Anchors of a frame of so many points. Raises ValueError where there would be none."""
    if points < spatial_stride:
        raise ValueError(
            f"{points} points of a frame leave no anchor at a spatial stride of {spatial_stride}: show more points or lower the stride."
        )
    return points // spatial_stride


class Point4DConv(nn.Module):
    """points (B, T, N, 3), features (B, T, N, C) or None -> anchors (B, L, n, 3), out (B, L, n, widths[-1]).

    L = (T + p0 + p1 − k) / s + 1; output l is around input frame ⌊k/2⌋ + l·s − p0. `channels_in` is C, 0 for none. Pads are copies of the
    first and last frame, or with "zeros" frames and features of zeros. Time displacements are integers, also to padded copies.
    `skip_origin` as in `farthest_points`. Raises ValueError where the options or the clip's length do not fit.
    """

    def __init__(
        self,
        channels_in: int,
        widths: tuple[int, ...],
        radius: float,
        neighbours: int,
        spatial_stride: int,
        kernel: int,
        temporal_stride: int = 1,
        padding: tuple[int, int] = (0, 0),
        padding_mode: Literal["replicate", "zeros"] = "replicate",
        norm: bool = False,
        act: bool = False,
        operation: Literal["add", "mul"] = "add",
        spatial_pool: Pool = "max",
        temporal_pool: Pool = "sum",
        skip_origin: bool = False,
    ) -> None:
        super().__init__()
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"A point 4D convolution needs an odd temporal kernel, got {kernel}: choose 1, 3, 5, ….")
        if not widths or min(*widths, neighbours, spatial_stride, temporal_stride) < 1 or min(padding) < 0:
            raise ValueError("A point 4D convolution needs widths, neighbours and strides of at least 1 and pads of at least 0.")
        self.radius, self.neighbours, self.spatial_stride = radius, neighbours, spatial_stride
        self.kernel, self.temporal_stride, self.padding, self.padding_mode = kernel, temporal_stride, padding, padding_mode
        self.act, self.operation, self.skip_origin = act, operation, skip_origin
        self.spatial_pool, self.temporal_pool, self.widest = spatial_pool, temporal_pool, max(widths)
        self.conv_d = nn.Linear(4, widths[0], bias=False)
        self.norm_d = BatchNorm1d(widths[0]) if norm else None
        self.conv_f = nn.Linear(channels_in, widths[0], bias=False) if channels_in else None
        self.norm_f = BatchNorm1d(widths[0]) if norm and channels_in else None
        self.layers = nn.ModuleList(nn.Linear(a, b, bias=False) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(BatchNorm1d(width) if norm else nn.Identity() for width in widths[1:])

    def frame_index(self, frames: int) -> Tensor:
        """`anchor_frames` of this convolution."""
        return anchor_frames(frames, self.kernel, self.temporal_stride, self.padding)

    def forward(self, points: Tensor, features: Tensor | None = None) -> tuple[Tensor, Tensor]:
        clips, frames, number, _ = points.shape
        if (features is None) != (self.conv_f is None):
            raise ValueError("A point 4D convolution needs features exactly where it was made with channels_in > 0.")
        chosen = anchor_count(number, self.spatial_stride)
        outputs = self.frame_index(frames)
        moves = torch.arange(self.kernel) - self.kernel // 2
        around = outputs[:, None] + moves
        if self.padding_mode == "zeros":
            points = nn.functional.pad(points, (0, 0, 0, 0, 0, 1))
            features = None if features is None else nn.functional.pad(features, (0, 0, 0, 0, 0, 1))
            around = torch.where((around >= 0) & (around < frames), around, frames)
        else:
            around = around.clamp(0, frames - 1)
        around = around.to(points.device)
        own = points[:, around[:, self.kernel // 2]].flatten(0, 1)
        anchors = gather_rows(own, farthest_points(own, chosen, self.skip_origin))
        clip = torch.arange(clips, device=points.device)[:, None, None] * points.shape[1]
        which = (clip + around).flatten(0, 1)
        rows = ball_query_in(points.flatten(0, 1), anchors, which, self.radius, self.neighbours) + which[:, None, :, None] * number
        # coordinates and kernels keep full precision; mixed precision is for the other products of other devices
        mixed = points.device.type != "cpu" and torch.is_autocast_enabled(points.device.type)
        with torch.autocast(points.device.type, enabled=False):
            d = displacements(points.flatten(0, 2), anchors, rows, moves.to(points)).to(self.conv_d.weight.dtype)
            out = self._tubes(d, None if features is None else features.flatten(0, 2), rows, mixed)
        return anchors.view(clips, len(outputs), -1, 3), out.view(clips, len(outputs), -1, out.shape[-1])

    def _table(self, features: Tensor, rows: Tensor, mixed: bool) -> Tensor:
        """(P, C) -> (P, widths[0]): what conv_f makes of each point, once for all the anchors that it is a neighbour of."""
        assert self.conv_f is not None
        dtype = self.conv_d.weight.dtype
        with torch.autocast(features.device.type, enabled=mixed):
            v = self.conv_f(features.to(dtype)).to(dtype)
        v = v if self.norm_f is None else shared_norm(v, rows, self.norm_f)
        return nn.functional.relu(v) if self.act else v

    def _tubes(self, d: Tensor, features: Tensor | None, rows: Tensor, mixed: bool) -> Tensor:
        """d (P, n, k, K, 4), features (P', C), rows (P, n, k, K) into them -> (P, n, C')."""
        shape = d.shape
        together = self.spatial_pool == self.temporal_pool == "max"
        d = d.flatten(2, 3).flatten(0, 1) if together else d.flatten(0, 2)
        rows = rows.view(d.shape[:2])
        frozen = not torch.is_grad_enabled() and not (self.norm_d is not None and self.norm_d.training)
        step = max(1, _ELEMENTS // (d.shape[1] * self.widest)) if frozen else max(1, len(d))
        weight, bias = self.conv_d.weight, None
        if self.norm_d is not None:
            weight, bias = folded(d, weight, self.norm_d)
        linear = not self.act and self.operation == "add" and not len(self.layers) and self.spatial_pool == "max"
        if features is not None and linear:
            out = self._largest_of_both(d, features, rows, weight, bias)
        else:
            table = None if features is None else self._table(features, rows, mixed)
            pairs = zip(torch.split(d, step), torch.split(rows, step), strict=True)
            parts = [self._layers(self._first(some, weight, bias, table, places), mixed) for some, places in pairs]
            out = parts[0] if len(parts) == 1 else torch.cat(parts)
        return out.view(*shape[:2], -1) if together else _pool(out.view(*shape[:3], -1), 2, self.temporal_pool)

    def _largest_of_both(self, d: Tensor, features: Tensor, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """max of W d + V f: one map, linear in both, and no tensor of what it gives."""
        assert self.conv_f is not None
        near = nn.functional.embedding(rows, features.to(d.dtype))
        of_features = self.conv_f.weight
        if self.norm_f is not None and bias is not None:
            of_features, more = folded(near, of_features, self.norm_f)
            bias = bias + more
        y = linear_max(torch.cat([d, near], dim=-1), torch.cat([weight, of_features], dim=1))
        return y if bias is None else y + bias

    def _first(self, d: Tensor, weight: Tensor, bias: Tensor | None, table: Tensor | None, rows: Tensor) -> Tensor:
        """d (R, M, 4) -> (R, M, widths[0]), or already the maximum (R, widths[0]) where that is all that is asked for."""
        if table is not None or len(self.layers) > 0 or self.spatial_pool != "max":
            return tube_layer(d, weight, bias, self.act, table, rows, self.operation)
        y = tube_max(d, weight)
        y = y if bias is None else y + bias
        return nn.functional.relu(y) if self.act else y

    def _layers(self, h: Tensor, mixed: bool) -> Tensor:
        """The first layer's h (R, M, widths[0]) -> (R, C'), pooled over M; (R, C') as it is."""
        if h.dim() == 2:
            return h
        last = len(self.layers) - 1
        with torch.autocast(h.device.type, enabled=mixed):
            for place, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
                assert isinstance(layer, nn.Linear)
                normed = isinstance(norm, BatchNorm1d)
                if place == last and self.spatial_pool == "max" and (self.act or not normed):
                    if isinstance(norm, BatchNorm1d):
                        return linear_norm_max(h, layer.weight, norm)
                    y = linear_max(h, layer.weight)
                    return nn.functional.relu(y) if self.act else y
                h = layer(h)
                if isinstance(norm, BatchNorm1d) and self.act:
                    h = norm_relu(h, norm)
                else:
                    h = norm(h.flatten(0, 1)).view_as(h)
                    h = nn.functional.relu(h) if self.act else h
            return _pool(h, 1, self.spatial_pool)


def _pool(h: Tensor, axis: int, pool: Pool) -> Tensor:
    if pool == "max":
        return h.max(axis).values
    return h.sum(axis) if pool == "sum" else h.mean(axis)
