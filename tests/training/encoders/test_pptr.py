import pytest
import torch
from torch import Tensor

from tests.training.encoders.video_cases import clips, plain_carried, plain_conv, plain_transformer
from training import encoder_file
from training.encoders import PPTr, PPTrConfig, build, is_video

TINY = PPTrConfig(radius=0.6, neighbours=4, spatial_stride=4, groups=2, width=6, depth=1, heads=2, head_dim=4, mlp_width=5)


def made(**changes: object) -> PPTr:
    torch.manual_seed(0)
    return PPTr(TINY.model_copy(update=changes)).double().eval()


def plain_tokens(encoder: PPTr, points: Tensor) -> tuple[Tensor, Tensor]:
    """Anchors, and tokens after the first transformer: anchors 0 to 2 of a frame are one group, 3 to 5 the other."""
    anchors, tubes = plain_conv(encoder.tubes.conv, points, None, ("max", "max"), False)
    tokens = torch.empty_like(tubes)
    for clip in range(len(points)):
        for t in range(points.shape[1]):
            entering = tubes[clip, t]
            if encoder.tubes.position is not None:
                place = torch.cat([anchors[clip, t], torch.full((6, 1), t + 1.0).double()], -1)
                entering = entering + place @ encoder.tubes.position.weight.T + encoder.tubes.position.bias
            for group in (slice(0, 3), slice(3, 6)):
                tokens[clip, t, group] = plain_transformer(encoder.within, entering[group].clamp(min=0))
    return anchors, tokens


@pytest.mark.parametrize("changes", [{}, {"hierarchy": "groups", "position": False}])
def test_features_of_video_frames_and_points_are_those_of_plain_loops(changes):
    encoder, points = made(**changes), clips(2, 3)
    anchors, tokens = plain_tokens(encoder, points)
    groups = torch.stack([tokens[:, :, :3].max(2).values, tokens[:, :, 3:].max(2).values], 2)
    pre = groups.max(2).values
    if encoder.config.hierarchy == "frames":
        post = torch.stack([plain_transformer(encoder.across, rows.clamp(min=0)) for rows in pre])
    else:
        leaving = torch.stack([plain_transformer(encoder.across, rows.clamp(min=0)) for rows in groups.flatten(1, 2)])
        post = leaving.view_as(groups).max(2).values
    close = {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(encoder.frame_features(points, stage="pre"), pre, **close)
    torch.testing.assert_close(encoder.frame_features(points), post, **close)
    torch.testing.assert_close(encoder.frame_stages(points), (pre, post), **close)
    torch.testing.assert_close(encoder(points), post.max(1).values, **close)
    found = encoder.point_features(points)
    assert found.shape == (2, 3, 24, encoder.point_dim)
    near = plain_carried(points[1, 2], anchors[1, 2], tokens[1, 2], power=2)
    torch.testing.assert_close(found[1, 2], torch.cat([near, post[1, 2].expand(24, -1), points[1, 2]], -1), rtol=1e-6, atol=1e-6)


def test_the_published_size_has_the_published_number_of_parameters():
    with torch.device("meta"):
        encoder = PPTr(PPTrConfig())
    head = 2 * 2048 + 2049 * 1024 + 1025 * 19
    assert sum(p.numel() for p in encoder.parameters()) + head == 128_102_419  # 128 M


def test_a_change_inside_one_group_stays_there_before_the_maxima():
    encoder, points = made(spatial_stride=1, radius=1e-6, neighbours=1, kernel=1, padding=(0, 0)), clips(1, 1, points=6)
    before = encoder._grouped(points, None)[1]
    order = encoder.tubes.conv(points)[0][0, 0]  # farthest first
    moved = points.clone()
    last = int((points[0, 0] == order[-1]).all(-1).nonzero())
    moved[0, 0, last] = order[-1] * 1.001
    changed = (encoder._grouped(moved, None)[1] != before).flatten(3).any(-1)[0, 0]
    assert changed.tolist() == [False, True]


def test_frame_index_batch_keys_and_copies_of_points():
    encoder, points, keys = made(dropout=0.2, drop_path=0.2, temporal_stride=2, padding=(1, 0)), clips(6, 4), torch.arange(6)
    assert encoder.frame_index(4).tolist() == [0, 2]
    torch.testing.assert_close(encoder(points[2:3]), encoder(points)[2:3], rtol=1e-11, atol=1e-11)
    encoder.train()
    first = encoder(points, keys)
    assert torch.equal(encoder(points, keys), first)
    torch.testing.assert_close(encoder(points[4:5], keys[4:5]), first[4:5], rtol=1e-11, atol=1e-11)
    assert not torch.equal(encoder(points, keys + 7), first)
    same = points[:, :, :1].expand(-1, -1, 24, -1)
    gradients = torch.autograd.grad(encoder(same, keys).sum(), list(encoder.parameters()))
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)


def test_dropout_and_drop_path_reach_both_transformers_and_each_block_draws_for_itself():
    encoder = made(dropout=0.1, drop_path=0.2)
    blocks = [*encoder.within.blocks, *encoder.across.blocks]
    assert [(b.dropout, b.drop_path, b.number) for b in blocks] == [(0.1, 0.2, 0), (0.1, 0.2, 1)]


def test_anchors_that_do_not_divide_into_groups_are_refused():
    with pytest.raises(ValueError, match="6 anchors of a frame do not divide into 4 groups"):
        made(groups=4)(clips(1))


def test_an_encoder_on_disk_brings_back_every_tensor(tmp_path):
    torch.manual_seed(0)
    encoder = build(TINY)
    encoder_file.save(tmp_path, encoder, TINY, {})
    loaded = encoder_file.load(tmp_path)
    assert loaded.config == TINY
    assert is_video(loaded.config)
    ours, theirs = encoder.state_dict(), loaded.module.state_dict()
    assert list(theirs) == list(ours)
    assert len(ours) == 3 + 2 * 11
    assert all(torch.equal(theirs[name], value) for name, value in ours.items())
