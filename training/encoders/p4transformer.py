"""P4Transformer (Fan, Yang, Kankanhalli 2021, CVPR), an encoder of point-cloud videos, in two forms (methods-C, C.2.2 and C.3.3).

`tokens: frames`, as the published action segmentation of HOI4D has it, and the form that CrossVideo needs:

    tokens (B, L, n, C) = Tubes(points)
    x = max over anchors of tokens                      (B, L, C), the frame features `pre`
    y = Transformer(ReLU(x))                            (B, L, C), the frame features `post`
    f = max over L of y                                 (B, C), the video's feature

`tokens: anchors`, as the published recognition of actions has it: the transformer sees all L·n tokens, and the maxima over a frame's
anchors, or over all of them, come after it. `pre` is then the maximum of the tokens that enter.

[inferred] That y is the frame feature and its maximum the video's follows from the published code of neighbours, not from a text.

The defaults are the published sizes for HOI4D's actions: 150 frames of 2,048 points in metres. For two cores, 8 frames of 256 points in the
unit ball: radius 0.3, neighbours 8, spatial_stride 16, width 64, depth 1, heads 2, head_dim 32, mlp_width 128. For MSR-Action3D, 24 frames:
tokens anchors, radius 0.7, temporal_stride 2, padding (1, 0), width 1024, mlp_width 2048.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from training.encoders.sequence_transformer import SequenceTransformer
from training.encoders.tubes import TubeConfig, Tubes, carried

Stage = Literal["pre", "post"]


class P4TransformerConfig(TubeConfig):
    """Sizes of the network."""

    kind: Literal["p4transformer"] = "p4transformer"
    tokens: Literal["frames", "anchors"] = "frames"
    relu: bool | None = Field(default=None, description="before the transformer; without: yes for frames, no for anchors, as published")


class P4Transformer(nn.Module):
    """Clips (B, T, N, 3 + F) -> features (B, feature_dim). Dropout, drop path and time offset need `keys` (B,) int64, one for each clip."""

    def __init__(self, config: P4TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.feature_dim = self.frame_dim = config.width
        self.point_dim = 2 * config.width + 3
        self.relu = config.tokens == "frames" if config.relu is None else config.relu
        self.tubes = Tubes(config)
        self.transformer = SequenceTransformer(
            config.width, config.depth, config.heads, config.head_dim, config.mlp_width, config.drop_path, config.dropout
        )

    def frame_index(self, frames: int) -> Tensor:
        """The input frame that each output frame stands for: (L,) int64. Raises ValueError where the kernel does not fit `frames`."""
        return self.tubes.frame_index(frames)

    def frame_features(self, points: Tensor, keys: Tensor | None = None, stage: Stage = "post") -> Tensor:
        """Features of the output frames, before or after the transformer: (B, L, frame_dim)."""
        _, tokens = self.tubes(points, keys)
        return _of_frames(tokens) if stage == "pre" else self._after(tokens, keys)[1]

    def frame_stages(self, points: Tensor, keys: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What `frame_features` gives before and after the transformer, in one pass."""
        _, tokens = self.tubes(points, keys)
        before = _of_frames(tokens)
        return before, self._after(tokens, keys, before)[1]

    def point_features(self, points: Tensor, keys: Tensor | None = None) -> Tensor:
        """Features of every point: (B, T, N, point_dim), those of the nearest anchors, the frame's, and the coordinates.

        The anchors' are the tokens that enter the transformer for `frames`, those that leave it for `anchors`. [ours] At the
        default sizes that is 5 GB for a clip of 150 × 2,048 points; `p4unet` is made for points.
        """
        anchors, tokens = self.tubes(points, keys)
        tokens, frames = self._after(tokens, keys)
        return carried(points, anchors, tokens, frames, self.frame_index(points.shape[1]))

    def forward(self, points: Tensor, keys: Tensor | None = None) -> Tensor:
        return self.frame_features(points, keys).amax(1)

    def _after(self, tokens: Tensor, keys: Tensor | None, before: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Tokens of anchors, and of frames after the transformer; `before`: those of frames before it, where they are known."""
        if self.config.tokens == "anchors":
            entering = tokens.flatten(1, 2)
        else:
            entering = _of_frames(tokens) if before is None else before
        leaving = self.transformer(entering.relu() if self.relu else entering, keys)
        if self.config.tokens == "frames":
            return tokens, leaving
        leaving = leaving.view_as(tokens)
        return leaving, _of_frames(leaving)


def _of_frames(tokens: Tensor) -> Tensor:
    """(B, L, n, C) -> (B, L, C). Unlike amax, max does not keep its input, the network's largest tensor, for the gradient."""
    return tokens.max(2).values
