"""Random weights get the batch statistics of real clouds, and keep their weights and mode."""

import numpy as np
import torch

from training.encoders import DGCNNConfig, PointNetConfig, PointTransformerConfig, build
from training.evaluation.norms import settle


def clouds(n: int = 12) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=(64, 3)).astype(np.float32) for _ in range(n)]


def test_the_first_norm_has_the_mean_over_batches_of_its_inputs_moments() -> None:
    torch.manual_seed(0)
    encoder = build(PointNetConfig(widths=(8, 16))).eval()
    settle(encoder, clouds(), "cpu", 4)
    inputs = torch.from_numpy(np.stack(clouds())).view(3, -1, 3)
    hidden = encoder.linears[0](inputs)
    torch.testing.assert_close(encoder.norms[0].running_mean, hidden.mean(1).mean(0), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(encoder.norms[0].running_var, hidden.var(1).mean(0), rtol=1e-4, atol=1e-6)


def test_weights_mode_and_momentum_stay() -> None:
    for config in (PointNetConfig(widths=(8, 16)), DGCNNConfig(k=4, widths=(8,), embedding=16)):
        encoder = build(config).eval()
        before = {name: value.clone() for name, value in encoder.named_parameters()}
        settle(encoder, clouds(), "cpu", 5)  # the last two clouds make no batch
        assert not encoder.training
        assert all(torch.equal(before[name], value) for name, value in encoder.named_parameters())
        assert {m.momentum for m in encoder.modules() if hasattr(m, "momentum")} == {0.1}


def test_a_random_transformer_sees_the_shape_of_patches_only_with_settled_norms() -> None:
    torch.manual_seed(0)
    sizes = PointTransformerConfig(groups=4, group_size=16, patch_widths=(16, 32, 64), patch_feature=32, width=32, depth=1, heads=2)
    encoder = build(sizes).eval()
    cloud = torch.from_numpy(clouds()[0])[None]
    patches = encoder.patch(cloud)
    spread = []
    for _ in range(2):
        spread.append(float(encoder.embed(patches.offsets.flatten(0, 1)).detach().std(0).mean()))
        settle(encoder, clouds(), "cpu", 4)
    assert spread[1] > 100 * spread[0]
