import itertools
import json

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from tests.training.encoders.video_cases import clips, plain_carried, plain_conv, plain_transformer
from training import encoder_file
from training.encoders import P4Transformer, P4TransformerConfig, build, is_video
from training.files import FileError

TINY = P4TransformerConfig(radius=0.6, neighbours=4, spatial_stride=6, width=6, depth=2, heads=2, head_dim=4, mlp_width=5)


def made(seed: int = 0, **changes: object) -> P4Transformer:
    torch.manual_seed(seed)
    return P4Transformer(TINY.model_copy(update=changes)).double().eval()


def plain_tokens(encoder: P4Transformer, points: Tensor) -> tuple[Tensor, Tensor]:
    config = encoder.config
    features = points[..., 3:] if config.features else None
    anchors, tubes = plain_conv(encoder.tubes.conv, points[..., :3], features, (config.spatial_pool, config.temporal_pool), False)
    weight, bias = encoder.tubes.position.weight, encoder.tubes.position.bias
    tokens = torch.empty_like(tubes)
    for t in range(tubes.shape[1]):
        place = anchors[:, t] if not config.time_term else torch.cat([anchors[:, t], torch.full_like(anchors[:, t, :, :1], t + 1)], -1)
        tokens[:, t] = tubes[:, t] + place @ weight.T + bias
    return anchors, tokens


VARIANTS = [{}, {"tokens": "anchors"}, {"features": 2}, {"temporal_stride": 2, "padding": (1, 0), "tokens": "anchors", "time_term": False}]


@pytest.mark.parametrize("changes", VARIANTS)
def test_features_of_video_frames_and_points_are_those_of_plain_loops(changes):
    encoder = made(**changes)
    thinned = encoder.config.temporal_stride == 2
    number = 6 if thinned else 5
    points = clips(2, number, columns=encoder.config.features)
    anchors, tokens = plain_tokens(encoder, points)
    frames = encoder.config.tokens == "frames"
    pre = tokens.max(2).values
    if frames:
        post = torch.stack([plain_transformer(encoder.transformer, rows.clamp(min=0)) for rows in pre])
    else:
        leaving = torch.stack([plain_transformer(encoder.transformer, rows) for rows in tokens.flatten(1, 2)]).view_as(tokens)
        post = leaving.max(2).values
    close = {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(encoder.frame_features(points, stage="pre"), pre, **close)
    torch.testing.assert_close(encoder.frame_features(points), post, **close)
    torch.testing.assert_close(encoder.frame_stages(points), (pre, post), **close)
    torch.testing.assert_close(encoder(points), post.max(1).values, **close)
    found = encoder.point_features(points)
    assert found.shape == (2, number, 24, encoder.point_dim)
    stands = [0, 0, 1, 1, 2, 2] if thinned else range(5)
    for clip, t in ((0, 0), (1, 1), (0, 4)):
        out = stands[t]
        near = plain_carried(points[clip, t, :, :3], anchors[clip, out], (tokens if frames else leaving)[clip, out], power=2)
        expected = torch.cat([near, post[clip, out].expand(24, -1), points[clip, t, :, :3]], -1)
        torch.testing.assert_close(found[clip, t], expected, rtol=1e-6, atol=1e-6)


def test_gradients_are_those_of_plain_loops():
    encoder = made()
    points = clips(1)

    def plain() -> Tensor:
        tokens = plain_tokens(encoder, points)[1].max(2).values
        return plain_transformer(encoder.transformer, tokens[0].clamp(min=0)).max(0).values

    wanted = [p for name, p in encoder.named_parameters() if "norm" not in name]
    ours, theirs = (torch.autograd.grad(y.sin().sum(), wanted) for y in (encoder(points), plain()))
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-9)


def head(width: int, hidden: int, classes: int) -> int:
    """Parameters of the published heads: LayerNorm, linear, GELU, linear."""
    return 2 * width + (width + 1) * hidden + (hidden + 1) * classes


def test_published_sizes_have_the_published_numbers_of_parameters():
    with torch.device("meta"):
        actions = P4Transformer(P4TransformerConfig())
        sizes = {"radius": 0.7, "temporal_stride": 2, "padding": (1, 0), "width": 1024, "mlp_width": 2048}
        msr = P4Transformer(P4TransformerConfig(tokens="anchors", **sizes))
    assert sum(p.numel() for p in actions.parameters()) + head(2048, 1024, 19) == 65_121_299  # 65.1 M
    assert sum(p.numel() for p in msr.parameters()) + head(1024, 2048, 20) == 44_135_444  # 44.1 M


def test_moving_the_clip_leaves_tubes_and_moves_positions():
    encoder, points = made(), clips(2)
    shift = torch.tensor([0.3, -2.0, 1.1], dtype=torch.float64)
    (here, tubes), (there, moved) = (encoder.tubes.conv(p) for p in (points, points + shift))
    torch.testing.assert_close(moved, tubes, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(there, here + shift, rtol=1e-12, atol=1e-12)
    (_, tokens), (_, moved) = encoder.tubes(points), encoder.tubes(points + shift)
    torch.testing.assert_close(moved - tokens, (encoder.tubes.position.weight[:, :3] @ shift).expand_as(tokens), rtol=1e-8, atol=1e-8)


def test_the_order_of_points_does_not_matter_where_every_point_is_an_anchor_and_a_neighbour():
    encoder, points = made(spatial_stride=1, neighbours=24, radius=50.0), clips(2)
    order = torch.randperm(24)
    torch.testing.assert_close(encoder(points[:, :, order]), encoder(points), rtol=1e-9, atol=1e-9)


def test_frames_beyond_the_kernel_do_not_reach_a_tube_and_reach_every_frame_after_the_transformer():
    encoder = made(features=1)
    points = clips(2, columns=1).requires_grad_()
    for t in range(5):
        tubes = encoder.tubes(points)[1][:, t]
        (gradient,) = torch.autograd.grad(tubes.sin().sum(), points)
        assert gradient.flatten(2).any(-1).tolist() == [[abs(t - u) <= 1 for u in range(5)]] * 2
    (gradient,) = torch.autograd.grad(encoder.frame_features(points)[:, 0].sin().sum(), points)
    assert bool(gradient.flatten(2).any(-1).all())


@pytest.mark.parametrize(
    ("changes", "frames", "expected"),
    [
        ({}, 5, [0, 1, 2, 3, 4]),
        ({"temporal_stride": 2, "padding": (1, 0)}, 6, [0, 2, 4]),
        ({"temporal_stride": 2, "padding": (0, 0)}, 7, [1, 3, 5]),
        ({"kernel": 1, "padding": (0, 0)}, 3, [0, 1, 2]),
        ({"kernel": 5, "padding": (2, 1)}, 5, [0, 1, 2, 3]),
    ],
)
def test_frame_index_names_the_frame_whose_points_are_the_anchors(changes, frames, expected):
    encoder, points = made(**changes), clips(1, frames)
    index = encoder.frame_index(frames)
    assert index.tolist() == expected
    assert index.dtype == torch.int64
    anchors = encoder.tubes(points)[0]
    assert anchors.shape[1] == len(index)
    for out, t in enumerate(expected):
        assert bool((anchors[0, out, :, None] == points[0, t]).all(-1).any(-1).all())


def test_a_clip_is_the_same_alone_and_in_a_batch():
    encoder, points = made(), clips(4)
    torch.testing.assert_close(encoder(points[2:3]), encoder(points, torch.arange(4))[2:3], rtol=1e-11, atol=1e-11)


def test_training_is_random_by_keys_alone():
    encoder, points, keys = made(dropout=0.1, drop_path=0.2, time_offset=3).train(), clips(6), torch.arange(6)
    first = encoder(points, keys)
    torch.manual_seed(7)
    assert torch.equal(encoder(points, keys), first)
    torch.testing.assert_close(encoder(points[4:5], keys[4:5]), first[4:5], rtol=1e-11, atol=1e-11)
    assert not torch.equal(encoder(points, keys + 100), first)
    assert torch.equal(encoder(points), encoder.eval()(points, keys))


def test_dropout_and_drop_path_reach_the_blocks_and_each_draws_for_itself():
    encoder = made(dropout=0.1, drop_path=0.2)
    assert [(b.dropout, b.drop_path, b.number) for b in encoder.transformer.blocks] == [(0.1, 0.2, 0), (0.1, 0.2, 1)]


def test_skip_origin_leaves_out_anchors_near_the_origin():
    points = clips(1)
    points[:, :, 1:9] *= 0.03 / points[:, :, 1:9].norm(dim=-1, keepdim=True)
    nearest = {skip: float(made(spatial_stride=1, skip_origin=skip).tubes(points)[0].norm(dim=-1).min()) for skip in (False, True)}
    assert nearest[False] < 0.04 < nearest[True]


def test_the_time_offset_alone_shifts_all_tokens_of_a_clip_by_the_time_terms_slope():
    encoder, points = made(time_offset=3).train(), clips(6)
    apart = (encoder.tubes(points, torch.arange(6))[1] - encoder.tubes(points)[1]) / encoder.tubes.position.weight[:, 3]
    torch.testing.assert_close(apart, apart[:, :1, :1, :1].round().expand_as(apart), rtol=1e-8, atol=1e-8)
    assert len(apart[:, 0, 0, 0].round().unique()) > 1


@pytest.mark.parametrize("tokens", ["frames", "anchors"])
def test_without_the_time_term_a_repeated_frame_has_equal_features_in_every_place_of_a_still_clip(tokens):
    still = clips(2, 1).expand(-1, 4, -1, -1)
    for stage in ("pre", "post"):
        without = made(tokens=tokens, time_term=False).frame_features(still, stage=stage)
        torch.testing.assert_close(without, without[:, :1].expand_as(without), rtol=1e-10, atol=1e-10)
        told = made(tokens=tokens).frame_features(still, stage=stage)
        assert not torch.allclose(told, told[:, :1].expand_as(told))


@pytest.mark.parametrize("fill", [0.0, 0.7])
def test_frames_of_copies_of_one_point_have_finite_features_and_gradients(fill):
    encoder, points = made().train(), clips(2)
    points[0] = fill
    points[1, 2, 5:] = points[1, 2, :1]  # five true points, then copies
    points.requires_grad_()
    for features in (encoder(points), encoder.point_features(points)):
        assert bool(features.isfinite().all())
        gradients = torch.autograd.grad(features.sum(), [points, *encoder.parameters()])
        assert all(bool(gradient.isfinite().all()) for gradient in gradients)


def test_an_empty_ball_of_a_neighbouring_frame_stays_finite():
    encoder, points = made(), clips(1)
    points[0, 3] += 1_000
    assert bool(encoder(points).isfinite().all())


def test_every_weight_gets_a_gradient():
    encoder = made(features=1)
    encoder(clips(4, columns=1)).sin().sum().backward()
    assert [name for name, parameter in encoder.named_parameters() if not parameter.grad.any()] == []


def test_a_clip_with_other_columns_is_refused_and_one_that_the_kernel_does_not_fit():
    with pytest.raises(ValueError, match=r"\(B, T, N, 4\).*encoder.features"):
        made(features=1)(clips(1))
    encoder = made(temporal_stride=2, padding=(0, 0))
    for asked in (lambda: encoder(clips(1, 4)), lambda: encoder.frame_index(4)):
        with pytest.raises(ValueError, match="frames"):
            asked()


@pytest.mark.parametrize(
    "wrong", [{"kernel": 2}, {"tokens": "points"}, {"drop_path": 1.0}, {"padding": (1, -1)}, {"radius": 0}, {"wide": 3}]
)
def test_a_configuration_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValidationError):
        P4TransformerConfig(**wrong)


@pytest.mark.parametrize(("kernel", "padding"), [(1, (1, 1)), (1, (0, 1)), (3, (2, 0)), (5, (1, 3))])
def test_pads_that_would_make_several_outputs_of_one_frame_are_refused(kernel, padding):
    with pytest.raises(ValidationError, match=rf"padding .* a kernel of {kernel} .*: give at most \({kernel // 2}, {kernel // 2}\)"):
        P4TransformerConfig(kernel=kernel, padding=padding)


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_no_two_outputs_stand_for_one_frame_whatever_the_pads(kernel):
    for before, after, stride in itertools.product(range(kernel // 2 + 1), range(kernel // 2 + 1), (1, 2)):
        config = P4TransformerConfig(**TINY.model_dump() | {"kernel": kernel, "padding": (before, after), "temporal_stride": stride})
        frames = kernel - before - after + 4 * stride
        index = P4Transformer(config).frame_index(frames).tolist()
        assert index == sorted(set(index))
        assert set(index) <= set(range(frames))


@pytest.mark.parametrize("changes", [{}, {"features": 2, "tokens": "anchors"}])
def test_an_encoder_on_disk_brings_back_every_tensor(tmp_path, changes):
    config = TINY.model_copy(update=changes)
    torch.manual_seed(0)
    encoder = build(config)
    mark = encoder_file.save(tmp_path, encoder, config, {})
    loaded = encoder_file.load(tmp_path)
    assert is_video(loaded.config)
    assert (loaded.config, loaded.fingerprint) == (config, mark)
    ours, theirs = encoder.state_dict(), loaded.module.state_dict()
    assert list(theirs) == list(ours)
    assert len(ours) == len(list(encoder.parameters())) == (4 if config.features else 3) + 2 * 11
    assert all(torch.equal(theirs[name], value) for name, value in ours.items())
    points = clips(2, columns=config.features).float()
    assert torch.equal(loaded.module(points), encoder.eval()(points))
    assert (
        encoder_file.random(config, 3).fingerprint
        == encoder_file.random(config, 3).fingerprint
        != encoder_file.random(config, 4).fingerprint
    )


def test_weights_of_another_size_or_with_one_missing_are_refused(tmp_path):
    encoder = build(TINY)
    encoder_file.save(tmp_path / "other", encoder, TINY, {})
    record = json.loads((tmp_path / "other" / "encoder.json").read_text())
    del record["config"]["depth"]  # the default of five instead of two
    with pytest.raises(RuntimeError, match="blocks"):
        build(P4TransformerConfig.model_validate(record["config"])).load_state_dict(encoder.state_dict())
    state = encoder.state_dict()
    state.pop("tubes.position.bias")
    with pytest.raises(RuntimeError, match=r"tubes\.position\.bias"):
        build(TINY).load_state_dict(state)
    deeper = TINY.model_copy(update={"depth": 3})
    encoder_file.save(tmp_path / "deeper", encoder, deeper, {})
    with pytest.raises(FileError, match="p4transformer"):
        encoder_file.load(tmp_path / "deeper")


@pytest.mark.parametrize("stage", ["pre", "post"])
def test_late_frames_keep_what_tells_clips_apart_in_mixed_precision(stage):
    encoder = made(width=128, neighbours=4, spatial_stride=6).float()
    points = clips(2, 300, points=12).float()
    with torch.no_grad():
        exact = encoder.frame_features(points, stage=stage)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = encoder.frame_features(points, stage=stage)
    apart, error = exact[0] - exact[1], (mixed[0] - mixed[1]) - (exact[0] - exact[1])
    assert float(error[-50:].std()) < 0.05 * float(apart[-50:].std())


def test_transformer_products_stay_in_mixed_precision_and_every_weight_gets_a_gradient():
    encoder, points = made(features=1).float().train(), clips(4, columns=1).float()
    products = []
    for block in encoder.transformer.blocks:
        for linear in (block.qkv, block.out, *block.mlp):
            linear.register_forward_hook(lambda _, __, out: products.append(out.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = encoder(points)
    assert products == [torch.bfloat16] * 8
    out.float().sin().sum().backward()
    assert [name for name, parameter in encoder.named_parameters() if not parameter.grad.any()] == []
