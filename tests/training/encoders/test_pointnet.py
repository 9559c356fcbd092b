import pytest
import torch
from pydantic import TypeAdapter
from torch import nn

from training.encoders import PointEncoderConfig, PointNet, PointNetConfig, build


def test_the_encoder_has_150336_parameters_and_1024_features():
    encoder = build(PointNetConfig())
    assert sum(parameter.numel() for parameter in encoder.parameters()) == 150_336
    assert encoder.feature_dim == 1024


def test_equals_convolutions_along_the_points():
    torch.manual_seed(0)
    encoder = PointNet(PointNetConfig(widths=(8, 16, 32))).double()
    for norm in encoder.norms:
        nn.init.normal_(norm.weight)
    points = torch.randn(4, 70, 3, dtype=torch.float64)
    x = points.transpose(1, 2)
    for linear, norm in zip(encoder.linears, encoder.norms, strict=True):
        x = nn.functional.conv1d(x, linear.weight.unsqueeze(-1))
        x = nn.functional.relu(nn.functional.batch_norm(x, None, None, norm.weight, norm.bias, training=True))
    torch.testing.assert_close(encoder(points), x.max(-1).values, rtol=1e-10, atol=1e-10)


def test_point_features_are_those_of_all_layers_but_the_last():
    torch.manual_seed(0)
    encoder = PointNet(PointNetConfig(widths=(8, 16, 32))).double()
    points = torch.randn(4, 70, 3, dtype=torch.float64)
    x, layers = points.transpose(1, 2), []
    for linear in encoder.linears[:-1]:
        x = nn.functional.conv1d(x, linear.weight.unsqueeze(-1))
        x = nn.functional.relu(nn.functional.batch_norm(x, None, None, training=True))
        layers.append(x)
    found = encoder.point_features(points, torch.arange(4))
    torch.testing.assert_close(found, torch.cat(layers, 1).transpose(1, 2), rtol=1e-10, atol=1e-10)
    assert encoder.point_dim == found.shape[2] == 24


def test_one_layer_has_no_point_features():
    with pytest.raises(ValueError, match="two widths or more"):
        PointNet(PointNetConfig(widths=(8,))).point_features(torch.randn(2, 5, 3))


def test_copies_and_order_of_points_do_not_matter_in_evaluation():
    encoder = PointNet(PointNetConfig(widths=(8, 16))).double().eval()
    points = torch.randn(2, 50, 3, dtype=torch.float64)
    more = torch.cat([points, points[:, 7:9]], 1)[:, torch.randperm(52)]
    torch.testing.assert_close(encoder(more), encoder(points), rtol=1e-12, atol=1e-12)


def test_the_kind_chooses_the_configuration():
    read = TypeAdapter(PointEncoderConfig).validate_python
    assert read({"kind": "pointnet"}) == PointNetConfig()
    assert read({"kind": "dgcnn", "k": 20}).k == 20
    assert read({"kind": "point_transformer", "depth": 3}).depth == 3
