"""PPTr (Wen et al. 2022, ECCV) as its code for HOI4D has it: an encoder of point-cloud videos with groups between points and frames.

    tokens (B, L, n, C) = Tubes(points)                 anchors of a frame in the order of farthest points
    g = max over a group of Transformer₁(ReLU(tokens))  (B, L, G, C): G groups of n / G anchors that follow each other, each on its own
    x = max over groups of g                            (B, L, C), the frame features `pre`
    y = Transformer₂(ReLU(x))                           (B, L, C), the frame features `post`;  f = max over L of y

`hierarchy: groups`, as its recognition of actions has it (and there without `position`): transformer₂ sees all L·G tokens of groups, and
the maximum over a frame's groups comes after it. The paper fits planes to find its groups, and the published code for HOI4D fits none
(methods-C, C.2.3); nor does this.

The defaults are the published sizes for HOI4D's actions. For two cores, 8 frames of 256 points in the unit ball: radius 0.3, neighbours 8,
spatial_stride 16, groups 4, width 64, depth 1, heads 2, head_dim 32, mlp_width 128.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from training.encoders.p4transformer import Stage
from training.encoders.sequence_transformer import SequenceTransformer
from training.encoders.tubes import TubeConfig, Tubes, carried


class PPTrConfig(TubeConfig):
    """Sizes of the network; both transformers have the same."""

    kind: Literal["pptr"] = "pptr"
    groups: int = Field(default=8, ge=1, description="groups of a frame's anchors, whose number they divide")
    hierarchy: Literal["frames", "groups"] = "frames"


class PPTr(nn.Module):
    """Clips (B, T, N, 3 + F) -> features (B, feature_dim). Dropout, drop path and time offset need `keys` (B,) int64, one for each clip."""

    def __init__(self, config: PPTrConfig) -> None:
        super().__init__()
        self.config = config
        self.feature_dim = self.frame_dim = config.width
        self.point_dim = 2 * config.width + 3
        self.tubes = Tubes(config)
        sizes = (config.width, config.depth, config.heads, config.head_dim, config.mlp_width, config.drop_path, config.dropout)
        self.within = SequenceTransformer(*sizes)
        self.across = SequenceTransformer(*sizes, first_number=config.depth)

    def frame_index(self, frames: int) -> Tensor:
        """The input frame that each output frame stands for: (L,) int64. Raises ValueError where the kernel does not fit `frames`."""
        return self.tubes.frame_index(frames)

    def frame_features(self, points: Tensor, keys: Tensor | None = None, stage: Stage = "post") -> Tensor:
        """Features of the output frames, before or after transformer₂: (B, L, frame_dim)."""
        _, tokens = self._grouped(points, keys)
        return _of_groups(tokens).amax(2) if stage == "pre" else self._after(_of_groups(tokens), keys)

    def frame_stages(self, points: Tensor, keys: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What `frame_features` gives before and after transformer₂, in one pass."""
        _, tokens = self._grouped(points, keys)
        groups = _of_groups(tokens)
        return groups.amax(2), self._after(groups, keys)

    def point_features(self, points: Tensor, keys: Tensor | None = None) -> Tensor:
        """Features of every point: (B, T, N, point_dim), those of the nearest anchors after transformer₁, the frame's, and the
        coordinates. [ours]"""
        anchors, tokens = self._grouped(points, keys)
        return carried(points, anchors, tokens.flatten(2, 3), self._after(_of_groups(tokens), keys), self.frame_index(points.shape[1]))

    def forward(self, points: Tensor, keys: Tensor | None = None) -> Tensor:
        return self.frame_features(points, keys).amax(1)

    def _grouped(self, points: Tensor, keys: Tensor | None) -> tuple[Tensor, Tensor]:
        """Anchors (B, L, n, 3), and tokens after transformer₁, (B, L, G, n / G, C)."""
        anchors, tokens = self.tubes(points, keys)
        clips, length, number, width = tokens.shape
        groups = self.config.groups
        check_groups(number, groups)
        rows = tokens.relu().reshape(-1, number // groups, width)
        return anchors, self.within(rows, keys).view(clips, length, groups, -1, width)

    def _after(self, groups: Tensor, keys: Tensor | None) -> Tensor:
        entering = groups.amax(2) if self.config.hierarchy == "frames" else groups.flatten(1, 2)
        leaving: Tensor = self.across(entering.relu(), keys)
        return leaving if self.config.hierarchy == "frames" else leaving.view_as(groups).amax(2)


def check_groups(anchors: int, groups: int) -> None:
    """Raises ValueError where a frame's anchors do not divide into so many groups."""
    if anchors % groups:
        raise ValueError(f"{anchors} anchors of a frame do not divide into {groups} groups: change spatial_stride, groups or the points.")


def _of_groups(tokens: Tensor) -> Tensor:
    """(B, L, G, m, C) -> (B, L, G, C)."""
    return tokens.max(3).values
