from itertools import pairwise

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from tests.training.encoders.video_cases import clips, plain_batch_norm, plain_carried, plain_conv, plain_transformer
from training import encoder_file
from training.encoders import P4UNet, P4UNetConfig, build, is_video
from training.ops.batchnorm import BatchNorm1d

TINY = P4UNetConfig(
    radius=0.5,
    neighbours=3,
    spatial_strides=(2, 3),
    kernels=(1, 3),
    widths=((3, 4), (5, 6)),
    up_widths=((5,), (4, 3)),
    depth=1,
    heads=2,
    head_dim=4,
    mlp_width=5,
)


def made(**changes: object) -> P4UNet:
    torch.manual_seed(0)
    return P4UNet(TINY.model_copy(update=changes)).double()


@pytest.mark.parametrize("columns", [0, 2])
def test_features_of_video_frames_and_points_are_those_of_plain_loops(columns):
    encoder, points = made(features=columns).train(), clips(2, 3, columns=columns)
    xyz, own = points[..., :3], points[..., 3:] if columns else None
    first, h1 = plain_conv(encoder.levels[0], xyz, own, ("max", "sum"), True)
    second, h2 = plain_conv(encoder.levels[1], first, h1, ("max", "sum"), True)
    assert encoder.levels[1].radius == 2 * encoder.levels[0].radius
    z = torch.stack([plain_transformer(encoder.transformer, rows) for rows in h2.flatten(1, 2)]).view_as(h2)
    close = {"rtol": 1e-8, "atol": 1e-8}
    torch.testing.assert_close(encoder.frame_features(points, stage="pre"), h2.max(2).values, **close)
    torch.testing.assert_close(encoder.frame_features(points), z.max(2).values, **close)
    torch.testing.assert_close(encoder.frame_stages(points), (h2.max(2).values, z.max(2).values), **close)
    torch.testing.assert_close(encoder(points), z.flatten(1, 2).max(1).values, **close)

    def up(number, places, above, features, skip):
        rows = [
            torch.cat([plain_carried(places[b, t], above[b, t], features[b, t], power=1), *([] if skip is None else [skip[b, t]])], -1)
            for b in range(2)
            for t in range(3)
        ]
        rows = torch.cat(rows)
        for linear in encoder.ups[number].linears:
            rows = plain_batch_norm(rows @ linear.weight.T).clamp(min=0)
        return rows.view(2, 3, -1, rows.shape[-1])

    expected = up(1, xyz, first, up(0, first, second, z, h1), own)
    found = encoder.point_features(points)
    assert found.shape == (2, 3, 24, encoder.point_dim) == (2, 3, 24, 3)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_the_published_size_has_its_layers_and_parameters():
    with torch.device("meta"):
        encoder = P4UNet(P4UNetConfig(features=3))

    def conv(channels, widths):  # linear without bias and batch norm, for displacement and features, then for each further width
        sizes = [(4, widths[0]), (channels, widths[0]), *pairwise(widths)]
        return sum(c * o + 2 * o for c, o in sizes)

    down = conv(3, (32, 64, 128)) + conv(128, (128, 128, 256)) + conv(256, (256, 256, 512)) + conv(512, (512, 512, 1024))
    block = 2 * 2048 + 1024 * 3072 + 1025 * 1024 + 2 * 1025 * 1024
    ups = [(1024 + 512, 256), (256, 256), (256 + 256, 256), (256, 256), (256 + 128, 128), (128, 128), (128 + 3, 128), (128, 128)]
    assert sum(p.numel() for p in encoder.parameters()) == down + 2 * block + sum(c * o + 2 * o for c, o in ups)
    assert [level.radius for level in encoder.levels] == [0.9, 1.8, 3.6, 7.2]
    assert (encoder.feature_dim, encoder.frame_dim, encoder.point_dim) == (1024, 1024, 128)
    assert encoder.frame_index(3).tolist() == [0, 1, 2]


def test_points_own_features_reach_their_point_wherever_its_relus_are_open():
    encoder = made(features=2).eval()
    points = clips(1, 3, columns=2).requires_grad_()
    found = encoder.point_features(points)
    reached = [bool(torch.autograd.grad(found[0, 1, n].sum(), points, retain_graph=True)[0][0, 1, n, 3:].any()) for n in range(24)]
    assert reached == found[0, 1].any(-1).tolist()
    assert sum(reached) > 12


def test_a_clip_is_the_same_alone_and_in_a_batch_in_eval_mode_and_copies_of_points_are_finite():
    encoder, points = made().train(), clips(3, 3)
    same = points.clone()
    same[1, 1] = 0
    same.requires_grad_()
    found = encoder.point_features(same, torch.arange(3))
    assert all(bool(x.isfinite().all()) for x in torch.autograd.grad(found.sin().sum(), [same, *encoder.parameters()]))
    encoder.eval()
    torch.testing.assert_close(encoder(points[2:]), encoder(points)[2:], rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(encoder.point_features(points[2:]), encoder.point_features(points)[2:], rtol=1e-11, atol=1e-11)


def test_batch_norms_are_those_of_the_global_batch_and_dropout_reaches_the_transformer():
    encoder = made(dropout=0.1, drop_path=0.2)
    norms = [module for module in encoder.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert len(norms) == 2 + 3 + 3  # without features, with those of the first level, going up
    assert all(isinstance(norm, BatchNorm1d) for norm in norms)
    assert [(b.dropout, b.drop_path) for b in encoder.transformer.blocks] == [(0.1, 0.2)]


def test_every_weight_gets_a_gradient_from_the_points_and_none_above_the_transformer_from_the_frames():
    encoder, points = made(features=1).train(), clips(3, 3, columns=1)
    encoder.point_features(points).sin().sum().backward()
    assert [name for name, parameter in encoder.named_parameters() if not parameter.grad.any()] == []
    encoder.zero_grad()
    encoder(points).sin().sum().backward()
    assert {name.split(".")[0] for name, parameter in encoder.named_parameters() if parameter.grad is None} == {"ups"}


@pytest.mark.parametrize(
    "wrong", [{"kernels": (1, 2, 3, 1)}, {"kernels": (1, 3)}, {"up_widths": ((4,),) * 3}, {"widths": ((), (4,), (4,), (4,))}]
)
def test_a_configuration_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValidationError):
        P4UNetConfig(**wrong)


def test_an_encoder_on_disk_brings_back_every_tensor(tmp_path):
    torch.manual_seed(0)
    encoder = build(TINY)
    encoder.point_features(clips(2, 3).float())  # running statistics move
    encoder_file.save(tmp_path, encoder, TINY, {})
    loaded = encoder_file.load(tmp_path)
    assert loaded.config == TINY
    assert is_video(loaded.config)
    ours, theirs = encoder.state_dict(), loaded.module.state_dict()
    assert list(theirs) == list(ours)
    assert all(torch.equal(theirs[name], value) for name, value in ours.items())
    assert bool(theirs["ups.0.norms.0.running_mean"].any())
