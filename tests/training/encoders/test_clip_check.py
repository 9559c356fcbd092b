"""Clips that an encoder cannot take are named before one is built, and only those."""

import itertools
from typing import Any

import pytest
import torch

from tests.training.encoders.video_cases import clips
from training.encoders import P4TransformerConfig, P4UNetConfig, PointNetConfig, PPTrConfig, build, check_clip

TINY: dict[str, Any] = {"radius": 0.6, "neighbours": 2, "width": 4, "depth": 1, "heads": 1, "head_dim": 2, "mlp_width": 2}
UNET: dict[str, Any] = {
    "neighbours": 2, "spatial_strides": (2, 3), "kernels": (1, 3), "widths": ((4,), (4,)), "up_widths": ((4,), (4,)), "depth": 0
}  # fmt: skip


def fits(config: Any, frames: int, points: int | None) -> bool:
    try:
        check_clip(config, frames, points)
    except ValueError:
        return False
    return True


def runs(config: Any, frames: int, points: int) -> bool:
    """Whether the encoder itself takes a clip of that size."""
    try:
        with torch.no_grad():
            build(config).eval()(clips(1, frames, points).float())
    except ValueError:
        return False
    return True


TIMES = [
    {"kernel": kernel, "temporal_stride": stride, "padding": padding}
    for kernel, stride, padding in itertools.product((1, 3), (1, 2, 3), ((0, 0), (1, 0), (1, 1)))
    if max(padding) <= kernel // 2
]


@pytest.mark.parametrize("times", TIMES, ids=str)
def test_it_says_of_every_number_of_frames_what_the_encoder_says(times: dict[str, Any]) -> None:
    config = P4TransformerConfig(spatial_stride=4, **TINY, **times)
    said = [fits(config, frames, None) for frames in range(1, 8)]
    assert said == [runs(config, frames, 8) for frames in range(1, 8)]
    assert any(said)


@pytest.mark.parametrize(
    "config",
    [P4TransformerConfig(spatial_stride=4, **TINY), PPTrConfig(spatial_stride=4, groups=2, **TINY), P4UNetConfig(**UNET)],
    ids=lambda config: config.kind,
)
def test_it_says_of_every_number_of_points_what_the_encoder_says(config: Any) -> None:
    said = [fits(config, 2, points) for points in range(1, 17)]
    assert said == [runs(config, 2, points) for points in range(1, 17)]
    assert sorted(set(said)) == [False, True]


@pytest.mark.parametrize(
    ("config", "frames", "points", "what"),
    [
        (P4TransformerConfig(temporal_stride=3), 8, 2048, "A clip of 8 frames padded to 10 .* kernels of 3 at stride 3: change"),
        (PPTrConfig(temporal_stride=2, padding=(1, 0)), 9, None, "A clip of 9 frames padded to 10 .* kernels of 3 at stride 2: change"),
        (PPTrConfig(spatial_stride=16), 8, 100, "6 anchors of a frame do not divide into 8 groups: change"),
        (P4TransformerConfig(), 8, 31, "31 points of a frame leave no anchor at a spatial stride of 32: show more"),
        (P4UNetConfig(), 3, 100, "100 points of a frame leave no anchor at a spatial stride of 128: show more"),
    ],
)
def test_what_does_not_fit_is_said_in_one_sentence(config: Any, frames: int, points: int | None, what: str) -> None:
    with pytest.raises(ValueError, match=rf"^{what}[^.]*\.$"):
        check_clip(config, frames, points)


def test_points_that_are_not_known_yet_and_encoders_of_clouds_are_not_judged() -> None:
    check_clip(PPTrConfig(spatial_stride=16), 8, None)
    check_clip(P4UNetConfig(), 8, None)
    check_clip(PointNetConfig(), 8, 1)
