import pytest
import torch

from training.encoders import ResNetConfig, build
from training.ops.batchnorm import BatchNorm2d


@pytest.mark.parametrize(("depth", "count", "width"), [(50, 23_508_032, 2048), (18, 11_176_512, 512)])
def test_parameters_are_as_many_as_in_the_known_network_without_its_classifier(depth, count, width):
    encoder = build(ResNetConfig(depth=depth))
    assert sum(parameter.numel() for parameter in encoder.parameters()) == count
    assert encoder.feature_dim == width


def test_a_small_one_pools_every_image_to_its_feature_and_trains_every_weight():
    config = ResNetConfig(depth=10, width=8)
    encoder = build(config)
    features = encoder(torch.randn(3, 3, 64, 64))
    assert features.shape == (3, encoder.feature_dim) == (3, 64)
    features.square().sum().backward()
    assert all(parameter.grad is not None and bool(parameter.grad.abs().sum() > 0) for parameter in encoder.parameters())


def test_tokens_are_the_feature_and_the_map_it_is_the_mean_of():
    torch.manual_seed(0)
    encoder = build(ResNetConfig(depth=10, width=8)).eval()
    images = torch.randn(2, 3, 96, 64)
    tokens = encoder.tokens(images, torch.arange(2))
    assert tokens.shape == (2, 1 + 3 * 2, encoder.feature_dim)
    torch.testing.assert_close(tokens[:, 0], encoder(images), rtol=1e-5, atol=1e-6)
    rows = encoder.model(images).last_hidden_state
    assert torch.equal(tokens[:, 1 + 2 * 2 + 1], rows[:, :, 2, 1])


def test_all_its_batch_norms_are_ours():
    modules = build(ResNetConfig(depth=10, width=8)).modules()
    norms = [module for module in modules if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]
    assert norms
    assert all(type(norm) is BatchNorm2d for norm in norms)


def test_weights_are_random_and_differ_with_the_seed():
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        states.append(build(ResNetConfig(depth=10, width=8)).model.embedder.embedder.convolution.weight)
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])
