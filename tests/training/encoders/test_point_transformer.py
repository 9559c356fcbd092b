import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from training import encoder_file
from training.encoders import PointTransformer, PointTransformerConfig, build
from training.encoders.point_transformer import pool_tokens
from training.ops.grouping import Patches

TINY = PointTransformerConfig(groups=8, group_size=8, patch_widths=(8, 16, 32), patch_feature=16, width=32, depth=2, heads=2, drop_path=0.5)


@pytest.fixture
def tiny() -> PointTransformer:
    """In eval mode, in double precision, its batch norms with the moments of a batch, without which tokens hardly depend on offsets."""
    torch.manual_seed(0)
    encoder = PointTransformer(TINY).double()
    for norm in (encoder.embed.norm1, encoder.embed.norm2):
        norm.momentum = None
    encoder(cloud(4))
    return encoder.eval().requires_grad_(False)


def cloud(batch: int, points: int = 128) -> Tensor:
    x = torch.randn(batch, points, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return x / x.norm(dim=-1).amax(1)[:, None, None]


def mask_of(batch: int, groups: int = 8) -> Tensor:
    """Another number of masked patches in each cloud, none in the first."""
    return torch.arange(groups).expand(batch, -1) < torch.arange(batch)[:, None]


def test_the_backbone_has_the_published_number_of_parameters():
    with torch.device("meta"):
        encoder = build(PointTransformerConfig())
    patch_network, bridge, cls, position, block, norm = 428_800, 98_688, 384 + 384, 50_048, 1_773_312, 768
    assert sum(parameter.numel() for parameter in encoder.parameters()) == patch_network + bridge + cls + position + 12 * block + norm
    assert (encoder.feature_dim, encoder.point_dim) == (768, 3 * 384)


def test_there_is_no_bridge_where_widths_agree():
    encoder = PointTransformer(TINY.model_copy(update={"patch_feature": 32}))
    assert not [name for name in encoder.state_dict() if name.startswith("bridge")]
    assert encoder(cloud(2).float()).shape == (2, 64)


def test_weights_start_from_a_truncated_normal_and_biases_from_zero():
    encoder = PointTransformer(PointTransformerConfig(depth=1))
    tokens = torch.cat([encoder.cls_token.flatten(), encoder.cls_position.flatten()])
    assert float(tokens.detach().std()) == pytest.approx(0.02, rel=0.1)
    for module in encoder.modules():
        if isinstance(module, nn.Linear):
            assert float(module.weight.detach().std()) == pytest.approx(0.02, rel=0.15)
            assert module.bias is None or not bool(module.bias.any())


def test_tokens_are_the_formula_with_positions_before_every_block(tiny):
    points, mask, token = cloud(3), mask_of(3), torch.randn(32, dtype=torch.float64)
    patches = tiny.patch(points)
    embedded = tiny.bridge(tiny.embed(patches.offsets.flatten(0, 1))).view(3, 8, 32)
    rows = []
    for b in range(3):
        x = [tiny.cls_token[0, 0]] + [token if mask[b, g] else embedded[b, g] for g in range(8)]
        p = [tiny.cls_position[0, 0]] + [tiny.position(patches.centres[b, g]) for g in range(8)]
        state = torch.stack(x)[None]
        for block in tiny.blocks:
            state = block(state + torch.stack(p)[None])
        rows.append(tiny.norm(state)[0])
    expected = torch.stack(rows)
    torch.testing.assert_close(tiny.tokens(patches, mask=mask, mask_token=token), expected, rtol=1e-10, atol=1e-10)
    whole = tiny.tokens(patches)
    torch.testing.assert_close(whole[0], expected[0], rtol=1e-10, atol=1e-10)
    assert torch.equal(tiny(points), torch.cat([whole[:, 0], whole[:, 1:].max(1).values], 1))


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
def test_nothing_of_a_masked_patch_but_its_centre_is_seen(train):
    torch.manual_seed(0)
    encoder, token, keys = PointTransformer(TINY), torch.randn(32), torch.arange(4)
    encoder(cloud(4).float())
    patches, mask = encoder.patch(cloud(4).float()), mask_of(4)
    encoder.train(train)
    start = {name: value.clone() for name, value in encoder.state_dict().items()}

    def run(offsets: Tensor, centres: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        encoder.load_state_dict(start)
        tokens = encoder.tokens(Patches(centres, offsets), keys, mask, token)
        return tokens, {name: value.clone() for name, value in encoder.state_dict().items()}

    before, buffers = run(patches.offsets, patches.centres)
    other = torch.where(mask[:, :, None, None], torch.full_like(patches.offsets, float("nan")), patches.offsets)
    after, buffers_after = run(other, patches.centres)
    assert torch.equal(before, after)
    assert all(torch.equal(buffers[name], buffers_after[name]) for name in buffers)
    assert any(not torch.equal(start[name], buffers[name]) for name in start) is train

    touched = patches.offsets.clone()
    touched[3, 7] *= 1.5  # visible
    assert bool((run(touched, patches.centres)[0][3] != before[3]).any())
    moved = patches.centres.clone()
    moved[3, 0] += 0.5  # masked: its centre is known
    assert bool((run(patches.offsets, moved)[0][3] != before[3]).any())


def test_gradients_reach_the_mask_token_and_every_weight_but_not_masked_offsets():
    torch.manual_seed(0)
    encoder, token = PointTransformer(TINY), torch.randn(32, requires_grad=True)
    patches, mask = encoder.patch(cloud(4).float()), mask_of(4)
    patches.offsets.requires_grad_()
    encoder.tokens(patches, mask=mask, mask_token=token).sin().sum().backward()
    assert bool(token.grad.any())
    cancelled = {"embed.first.bias"}  # batch norm takes it out again
    assert {name for name, parameter in encoder.named_parameters() if not parameter.grad.any()} <= cancelled
    assert torch.equal(patches.offsets.grad.flatten(2).any(-1), ~mask)


def test_all_patches_may_be_masked(tiny):
    patches, token = tiny.patch(cloud(2)), torch.randn(32, dtype=torch.float64)
    tokens = tiny.tokens(patches, mask=torch.ones(2, 8, dtype=torch.bool), mask_token=token)
    assert bool(tokens.isfinite().all())


def test_a_mask_needs_a_mask_token(tiny):
    with pytest.raises(ValueError, match="mask token"):
        tiny.tokens(tiny.patch(cloud(2)), mask=mask_of(2))


def test_moving_the_cloud_moves_centres_alone_and_scaling_changes_tokens(tiny):
    points, shift = cloud(3), torch.tensor([0.3, -2.0, 1.1], dtype=torch.float64)
    here, there, larger = tiny.patch(points), tiny.patch(points + shift), tiny.patch(1.5 * points)
    torch.testing.assert_close(there.offsets, here.offsets, rtol=0, atol=1e-14)
    torch.testing.assert_close(there.centres, here.centres + shift, rtol=0, atol=1e-14)
    same_centres = Patches(here.centres, there.offsets)
    torch.testing.assert_close(tiny.tokens(same_centres), tiny.tokens(here), rtol=1e-10, atol=1e-10)
    scaled = Patches(here.centres, larger.offsets)
    assert float((tiny.tokens(scaled) - tiny.tokens(here)).abs().max()) > 0.1


def test_the_order_of_points_within_patches_does_not_matter(tiny):
    patches = tiny.patch(cloud(3))
    turned = Patches(patches.centres, patches.offsets[:, :, torch.randperm(8)])
    torch.testing.assert_close(tiny.tokens(turned), tiny.tokens(patches), rtol=1e-12, atol=1e-12)


def test_the_order_of_patches_turns_the_tokens_and_leaves_the_feature(tiny):
    patches, order = tiny.patch(cloud(3)), torch.randperm(8)
    tokens = tiny.tokens(patches)
    turned = tiny.tokens(Patches(patches.centres[:, order], patches.offsets[:, order]))
    torch.testing.assert_close(turned[:, 1:], tokens[:, 1:][:, order], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(pool_tokens(turned), pool_tokens(tokens), rtol=1e-10, atol=1e-10)


def test_a_sample_is_the_same_alone_and_in_a_batch_in_eval_mode(tiny):
    points, keys = cloud(4), torch.arange(4)
    torch.testing.assert_close(tiny(points[2:3]), tiny(points, keys)[2:3], rtol=1e-11, atol=1e-11)


def test_training_is_random_by_keys_alone():
    torch.manual_seed(0)
    encoder, points = PointTransformer(TINY), cloud(6).float()
    keys = torch.arange(6)
    first = encoder(points, keys)
    torch.manual_seed(7)
    assert torch.equal(encoder(points, keys), first)
    assert not torch.equal(encoder(points, keys + 100), first)
    assert not torch.equal(encoder(points), first)


def test_point_features_carry_the_levels_tokens_to_the_points(tiny):
    points = cloud(2)
    patches = tiny.patch(points)
    encoder = tiny
    position = torch.cat([encoder.cls_position.expand(2, -1, -1), encoder.position(patches.centres)], 1)
    embedded = encoder.bridge(encoder.embed(patches.offsets.flatten(0, 1))).view(2, 8, 32)
    x, levels = torch.cat([encoder.cls_token.expand(2, -1, -1), embedded], 1), []
    for block in encoder.blocks:
        x = block(x + position)
        levels.append(encoder.norm(x)[:, 1:])
    tokens = torch.cat(levels, -1)
    found = encoder.point_features(points)
    assert found.shape == (2, 128, encoder.point_dim) == (2, 128, 64)
    for b, n in ((0, 0), (0, 77), (1, 127)):
        squared = (patches.centres[b] - points[b, n]).square().sum(-1)
        near = squared.argsort()[:3]
        if float(squared[near[0]]) < 1e-6:  # the point is a centre
            torch.testing.assert_close(found[b, n], tokens[b, near[0]], rtol=1e-4, atol=1e-4)
            continue
        weights = 1 / (squared[near] + 1e-8)
        torch.testing.assert_close(found[b, n], (weights / weights.sum()) @ tokens[b, near], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("depth", "levels"), [(12, (4, 8, 12)), (4, (2, 3, 4)), (2, (1, 2)), (1, (1,))])
def test_levels_are_the_ends_of_the_depths_thirds(depth, levels):
    config = PointTransformerConfig(depth=depth)
    assert config.point_levels == levels
    with torch.device("meta"):
        assert PointTransformer(config).point_dim == 384 * len(levels)


def test_chosen_levels_stop_at_the_last_of_them():
    encoder = PointTransformer(TINY.model_copy(update={"levels": (1,)})).eval()
    points = cloud(2).float()
    before = encoder.point_features(points)
    nn.init.ones_(encoder.blocks[1].mlp[2].weight)
    assert torch.equal(encoder.point_features(points), before)
    assert before.shape == (2, 128, encoder.point_dim) == (2, 128, 32)


def test_an_encoder_on_disk_loads_with_no_missing_and_no_extra_weight(tmp_path):
    torch.manual_seed(0)
    encoder = PointTransformer(TINY)
    encoder_file.save(tmp_path, encoder, TINY, {})
    loaded = encoder_file.load(tmp_path)
    assert loaded.config == TINY
    points = cloud(2).float()
    assert torch.equal(loaded.module(points), encoder.eval()(points))
    state = encoder.state_dict()
    PointTransformer(TINY).load_state_dict(state)
    state.pop("cls_position")
    with pytest.raises(RuntimeError, match="cls_position"):
        PointTransformer(TINY).load_state_dict(state)


@pytest.mark.parametrize(
    "wrong",
    [
        {"heads": 5},
        {"levels": (4, 2)},
        {"levels": (13,)},
        {"levels": ()},
        {"levels": (0, 4)},
        {"drop_path": 1.0},
        {"patch_widths": (8, 16)},
    ],
)
def test_a_configuration_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValidationError):
        PointTransformerConfig(**wrong)


def test_the_cls_token_alone_is_the_first_of_all_tokens_with_its_gradients():
    torch.manual_seed(0)
    encoder, keys = PointTransformer(TINY).double().train(), torch.arange(3) + 2**40
    patches = encoder.patch(cloud(3))
    found, expected = encoder.cls(patches, keys), encoder.tokens(patches, keys)[:, 0]
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    parameters = list(encoder.parameters())
    ours, theirs = (torch.autograd.grad(y.sin().sum(), parameters) for y in (found, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)
