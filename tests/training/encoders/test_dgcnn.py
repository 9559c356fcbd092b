import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from training.encoders import DGCNN, DGCNNConfig, build

SMALL = DGCNNConfig(k=6, widths=(8, 8, 16), embedding=24)


def nearest(x: Tensor, k: int) -> Tensor:
    squared = (x[:, :, None] - x[:, None]).square().sum(-1)
    return squared.topk(k, largest=False).indices


def written_out(encoder: DGCNN, points: Tensor) -> Tensor:
    """The network as A.1.1 of the method's description gives it, in (B, C, N[, k]) layout and with nothing clever."""
    x, outputs = points.transpose(1, 2), []
    for layer in encoder.edge_convs:
        near = nearest(x.transpose(1, 2), encoder.config.k)
        around = torch.stack([x[b][:, near[b]] for b in range(len(x))])
        centre = x.unsqueeze(-1).expand_as(around)
        edges = nn.functional.conv2d(torch.cat([around - centre, centre], 1), layer.linear.weight[:, :, None, None])
        edges = nn.functional.batch_norm(edges, None, None, layer.norm.weight, layer.norm.bias, training=True)
        x = nn.functional.leaky_relu(edges, 0.2).max(-1).values
        outputs.append(x)
    x = nn.functional.conv1d(torch.cat(outputs, 1), encoder.linear.weight[:, :, None])
    x = nn.functional.leaky_relu(nn.functional.batch_norm(x, None, None, encoder.norm.weight, encoder.norm.bias, training=True), 0.2)
    return torch.cat([x.max(-1).values, x.mean(-1)], 1)


def test_the_papers_encoder_has_617856_parameters_and_2048_features():
    encoder = build(DGCNNConfig())
    assert sum(parameter.numel() for parameter in encoder.parameters()) == 617_856
    assert encoder.feature_dim == 2048


def test_equals_the_network_written_out_in_values_and_gradients():
    torch.manual_seed(0)
    encoder = DGCNN(SMALL).double()
    for layer in encoder.edge_convs:
        nn.init.normal_(layer.norm.weight)
    points = torch.randn(3, 60, 3, dtype=torch.float64)
    found, expected = encoder(points), written_out(encoder, points)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    towards = torch.randn_like(expected)
    parameters = list(encoder.parameters())
    ours = torch.autograd.grad((found * towards).sum(), parameters)
    theirs = torch.autograd.grad((expected * towards).sum(), parameters)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_the_order_of_points_does_not_matter():
    encoder = DGCNN(SMALL).double().eval()
    points = torch.randn(2, 50, 3, dtype=torch.float64)
    torch.testing.assert_close(encoder(points[:, torch.randperm(50)]), encoder(points), rtol=1e-10, atol=1e-10)


def test_point_features_are_those_of_all_layers():
    encoder, points = DGCNN(SMALL).eval(), torch.randn(2, 50, 3)
    features = encoder.point_features(points, torch.arange(2))
    assert features.shape == (2, 50, encoder.point_dim) == (2, 50, 32)
    assert torch.equal(features[..., :8], encoder.edge_convs[0](points))


def test_a_cloud_with_fewer_points_than_neighbours_is_refused():
    with pytest.raises(ValueError, match="k=6 for 5 points"):
        DGCNN(SMALL)(torch.randn(2, 5, 3))


@pytest.mark.parametrize("wrong", [{"k": 0}, {"widths": ()}, {"widths": (64, 0)}, {"embeding": 8}])
def test_a_configuration_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValidationError):
        DGCNNConfig(**wrong)
