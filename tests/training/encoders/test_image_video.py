import pytest
import torch
from pydantic import ValidationError

from tests.training.encoders.video_cases import plain_transformer
from training.encoders import DGCNNConfig, ImageVideo, ImageVideoConfig, PointNetConfig, ResNetConfig, ViTConfig, build, is_video
from training.noise import fold

RESNET = ImageVideoConfig(image=ResNetConfig(depth=10, width=4), width=6, depth=1, heads=2, head_dim=4, mlp_width=5)
VIT = RESNET.model_copy(update={"image": ViTConfig(size=16, patch=8, width=8, depth=2, heads=2, mlp_ratio=2.0, drop_path=0.4)})


def made(config: ImageVideoConfig, **changes: object) -> ImageVideo:
    torch.manual_seed(0)
    return build(config.model_copy(update=changes)).double().eval()


def videos(number: int, frames: int = 3) -> torch.Tensor:
    return torch.randn(number, frames, 3, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("config", [RESNET, VIT], ids=["resnet", "vit"])
def test_features_are_those_of_each_frame_through_the_plain_transformer(config):
    encoder, images = made(config), videos(2)
    frames = torch.stack([encoder.project(encoder.image(video)) for video in images])
    times = torch.tensor([[1.0], [2.0], [3.0]]).double()
    pre = frames + times @ encoder.position.weight.T + encoder.position.bias
    post = torch.stack([plain_transformer(encoder.transformer, rows) for rows in pre])
    close = {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(encoder.frame_features(images, stage="pre"), pre, **close)
    torch.testing.assert_close(encoder.frame_features(images), post, **close)
    torch.testing.assert_close(encoder.frame_stages(images), (pre, post), **close)
    torch.testing.assert_close(encoder(images), post.max(1).values, **close)
    assert (encoder.feature_dim, encoder.frame_dim) == (6, 6)


def test_frames_are_independent_before_the_transformer_and_not_after_it():
    encoder = made(RESNET)
    images = videos(2).requires_grad_()
    for stage, expected in (("pre", [False, True, False]), ("post", [True, True, True])):
        (gradient,) = torch.autograd.grad(encoder.frame_features(images, stage=stage)[:, 1].sin().sum(), images)
        assert gradient.flatten(2).any(-1).tolist() == [expected] * 2


def test_without_the_time_term_the_order_of_frames_turns_the_features_and_with_it_does_not():
    images, order = videos(2), torch.tensor([2, 0, 1])
    without, told = made(RESNET, time_term=False), made(RESNET)
    torch.testing.assert_close(without.frame_features(images[:, order]), without.frame_features(images)[:, order], rtol=1e-9, atol=1e-9)
    assert not torch.allclose(told.frame_features(images[:, order]), told.frame_features(images)[:, order])


def test_training_is_random_by_keys_alone_and_every_frame_draws_for_itself():
    encoder, images, keys = made(VIT, dropout=0.1, drop_path=0.2).train(), videos(6), torch.arange(6)
    first = encoder(images, keys)
    torch.manual_seed(7)
    assert torch.equal(encoder(images, keys), first)
    torch.testing.assert_close(encoder(images[4:5], keys[4:5]), first[4:5], rtol=1e-10, atol=1e-10)
    assert not torch.equal(encoder(images, keys + 100), first)
    assert torch.equal(encoder(images), encoder.eval()(images, keys))
    still = images[:, :1].expand(-1, 3, -1, -1, -1)
    drawn = made(VIT, time_term=False).train().frame_features(still, fold(keys, 1), stage="pre")
    assert bool((drawn != drawn[:, :1]).any())


def test_the_time_offset_shifts_a_video_by_its_own_number_in_training_alone():
    encoder, images, keys = made(RESNET, time_offset=3, dropout=0.1, drop_path=0.2), videos(1).expand(8, -1, -1, -1, -1), torch.arange(8)
    assert [(b.dropout, b.drop_path) for b in encoder.transformer.blocks] == [(0.1, 0.2)]
    plain = encoder.frame_features(images, keys, stage="pre")
    torch.testing.assert_close(plain, plain[:1].expand_as(plain), rtol=1e-11, atol=1e-11)
    encoder.train()
    encoder.image.eval()
    apart = (encoder.frame_features(images, keys, stage="pre") - plain) / encoder.position.weight[:, 0]
    torch.testing.assert_close(apart, apart[:, :1, :1].round().expand_as(apart), rtol=1e-8, atol=1e-8)
    assert len(apart[:, 0, 0].round().unique()) > 1


def test_a_video_is_the_same_alone_and_in_a_batch_and_every_weight_gets_a_gradient():
    encoder, images = made(RESNET), videos(3)
    torch.testing.assert_close(encoder(images[1:2]), encoder(images)[1:2], rtol=1e-10, atol=1e-10)
    encoder.train()(images).sin().sum().backward()
    assert [name for name, parameter in encoder.named_parameters() if not parameter.grad.any()] == []


def test_it_is_no_encoder_of_point_cloud_videos():
    assert not any(is_video(config) for config in (RESNET, PointNetConfig(), DGCNNConfig()))
    with pytest.raises(ValidationError):
        ImageVideoConfig(image=PointNetConfig())


@pytest.mark.parametrize("stage", ["pre", "post"])
def test_late_frames_keep_what_tells_videos_apart_in_mixed_precision(stage):
    torch.manual_seed(0)
    encoder = build(RESNET.model_copy(update={"width": 256, "depth": 1})).eval()
    images = videos(2, 300).float()
    with torch.no_grad():
        exact = encoder.frame_features(images, stage=stage)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = encoder.frame_features(images, stage=stage)
    apart, error = exact[0] - exact[1], (mixed[0] - mixed[1]) - (exact[0] - exact[1])
    assert float(error[-50:].std()) < 0.05 * float(apart[-50:].std())


def test_transformer_products_stay_in_mixed_precision_and_every_weight_gets_a_gradient():
    encoder, images = made(RESNET).float().train(), videos(3).float()
    products = []
    for block in encoder.transformer.blocks:
        for linear in (block.qkv, block.out, *block.mlp):
            linear.register_forward_hook(lambda _, __, out: products.append(out.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = encoder(images)
    assert products == [torch.bfloat16] * 4
    out.float().sin().sum().backward()
    assert [name for name, parameter in encoder.named_parameters() if not parameter.grad.any()] == []


@pytest.mark.parametrize("config", [RESNET, VIT], ids=["resnet", "vit"])
def test_without_gradients_videos_pass_the_image_net_in_parts_and_only_in_eval_mode(config, monkeypatch):
    encoder, images, keys = made(config), videos(4), torch.arange(4)
    whole = encoder(images, keys)  # with gradients: all at once
    seen = []
    encoder.image.register_forward_hook(lambda _, given, __: seen.append(len(given[0])))
    monkeypatch.setattr("training.encoders.image_video._AT_ONCE", 5)
    with torch.no_grad():
        torch.testing.assert_close(encoder(images, keys), whole, rtol=1e-12, atol=1e-12)
        assert seen == [5, 5, 2]
        encoder.train()(images, keys)
    encoder.eval()(images)
    assert seen[3:] == [12, 12]
