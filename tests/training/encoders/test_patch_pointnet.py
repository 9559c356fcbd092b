import pytest
import torch
from torch import Tensor, nn

from training.encoders.patch_pointnet import PatchPointNet


def written_out(network: PatchPointNet, patches: Tensor) -> Tensor:
    """1×1 convolutions along the points with the concatenation made, in (R, C, M) layout."""

    def convolve(layer: nn.Linear, x: Tensor) -> Tensor:
        return nn.functional.conv1d(x, layer.weight.unsqueeze(-1), layer.bias)

    def norm(layer: nn.BatchNorm1d, x: Tensor) -> Tensor:
        return torch.relu(nn.functional.batch_norm(x, None, None, layer.weight, layer.bias, training=True))

    x = convolve(network.second, norm(network.norm1, convolve(network.first, patches.transpose(1, 2))))
    x = torch.cat([x.max(-1, keepdim=True).values.expand_as(x), x], 1)
    return convolve(network.last, norm(network.norm2, convolve(network.third, x))).max(-1).values


@pytest.mark.parametrize(("out", "count"), [(256, 428_800), (384, 494_464)])
def test_parameters_are_as_many_as_in_the_published_network(out, count):
    assert sum(parameter.numel() for parameter in PatchPointNet((128, 256, 512), out).parameters()) == count


def test_equals_convolutions_of_the_concatenation_in_values_and_gradients():
    torch.manual_seed(0)
    network = PatchPointNet((4, 6, 10), 5).double()
    for norm in (network.norm1, network.norm2):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    patches = torch.randn(9, 7, 3, dtype=torch.float64)
    found, expected = network(patches), written_out(network, patches)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
    towards = torch.randn_like(expected)
    parameters = list(network.parameters())
    ours = torch.autograd.grad((found * towards).sum(), parameters)
    theirs = torch.autograd.grad((expected * towards).sum(), parameters)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


def test_the_order_of_a_patchs_points_does_not_matter():
    torch.manual_seed(0)
    network = PatchPointNet((4, 6, 10), 5).double().eval()
    patches = torch.randn(9, 7, 3, dtype=torch.float64)
    torch.testing.assert_close(network(patches[:, torch.randperm(7)]), network(patches), rtol=1e-12, atol=1e-12)


def test_no_patches_have_no_features():
    assert PatchPointNet((4, 6, 10), 5).eval()(torch.empty(0, 7, 3)).shape == (0, 5)


def test_without_gradient_the_folded_weights_give_what_gradients_see():
    torch.manual_seed(0)
    network = PatchPointNet((4, 6, 10), 5).double()
    for norm in (network.norm1, network.norm2):
        for tensor in (norm.weight, norm.bias, norm.running_mean):
            nn.init.normal_(tensor)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    patches = torch.randn(150, 7, 3, dtype=torch.float64)
    expected = network.eval()(patches)
    with torch.no_grad():
        torch.testing.assert_close(network(patches), expected, rtol=1e-11, atol=1e-11)


def test_running_statistics_are_those_of_the_layers_themselves():
    torch.manual_seed(0)
    network, patches = PatchPointNet((4, 6, 10), 5).double(), torch.randn(9, 7, 3, dtype=torch.float64)
    network(patches)
    values = network.first(patches).flatten(0, 1)
    torch.testing.assert_close(network.norm1.running_mean, 0.1 * values.mean(0), rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(network.norm1.running_var, 0.9 + 0.1 * values.var(0), rtol=1e-11, atol=1e-12)
    assert int(network.norm1.num_batches_tracked) == int(network.norm2.num_batches_tracked) == 1
