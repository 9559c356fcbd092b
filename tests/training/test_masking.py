"""Masks: exact counts, blocks that are balls of centres, and nothing but the key decides."""

import torch

from training.masking import MaskConfig, draw_mask
from training.noise import key_for, uniforms


def drawn(config: MaskConfig, clouds: int = 200, groups: int = 32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    centres = torch.randn(clouds, groups, 3, generator=torch.Generator().manual_seed(1))
    keys = torch.tensor([key_for(0, 0, str(i)) for i in range(clouds)])
    return draw_mask(config, centres, keys), centres, keys


def test_a_block_is_the_ball_about_its_seed_and_its_count_is_the_share_rounded_down() -> None:
    mask, centres, keys = drawn(MaskConfig())
    noise = uniforms(keys, 34)
    for hidden, places, (where, share) in zip(mask, centres, noise[:, :2].tolist(), strict=True):
        seed = int(where * 32)
        assert hidden[seed]
        assert int(hidden.sum()) == int((0.25 + 0.2 * share) * 32)
        distance = (places - places[seed]).norm(dim=1)
        assert distance[hidden].max() <= distance[~hidden].min()
    assert mask.sum(1).min() == 8
    assert mask.sum(1).max() == 14


def test_random_masks_have_the_exact_count_and_hide_every_patch_as_often() -> None:
    mask, _, _ = drawn(MaskConfig(kind="random", ratio=(0.6, 0.6)), clouds=2000)
    assert (mask.sum(1) == 19).all()
    often = mask.float().mean(0)
    assert ((often - 19 / 32).abs() < 0.05).all()  # 4.5 standard deviations


def test_a_mask_is_a_function_of_the_samples_own_key_and_centres() -> None:
    for config in (MaskConfig(), MaskConfig(kind="random")):
        mask, centres, keys = drawn(config, clouds=8)
        alone = torch.cat([draw_mask(config, centres[i : i + 1], keys[i : i + 1]) for i in range(8)])
        assert torch.equal(mask, alone)
        assert not torch.equal(mask, draw_mask(config, centres, keys + 1))


def test_something_is_hidden_and_something_is_seen_even_where_centres_coincide() -> None:
    keys = torch.tensor([key_for(0, 0, str(i)) for i in range(50)])
    for ratio in ((0.0, 0.0), (0.99, 0.99)):
        mask = draw_mask(MaskConfig(ratio=ratio), torch.zeros(50, 4, 3), keys)
        assert mask.any(1).all()
        assert not mask.all(1).any()
