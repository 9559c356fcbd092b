import copy

import pytest
import torch
from torch import nn

from training.ops.pool import norm_pool


def plain(h, norm, slope, average):
    y = nn.functional.leaky_relu(norm(h.transpose(1, 2)), slope)
    return torch.cat([y.max(2).values, y.mean(2)], -1) if average else y.max(2).values


def outcome(function, h, norm, towards, slope, average, dtype):
    h, norm = h.to(dtype, copy=True).requires_grad_(), copy.deepcopy(norm).to(dtype)
    y = function(h, norm, slope, average)
    (y * towards[:, : y.shape[1]].to(dtype)).sum().backward()
    return [y.detach(), h.grad, norm.weight.grad, norm.bias.grad, *norm.buffers()]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize(("slope", "average"), [(0.2, True), (0.0, True), (0.0, False)])
@pytest.mark.parametrize("points", [1, 7, 130, 257])
def test_equals_batch_norm_activation_and_pooling_one_after_another(points, slope, average, train, dtype):
    generator = torch.Generator().manual_seed(points)
    h = 3 + torch.randn(3, points, 17, generator=generator, dtype=torch.float64)
    norm = nn.BatchNorm1d(17).double().train(train)
    with torch.no_grad():
        norm.weight.copy_(torch.randn(17, generator=generator))
        norm.bias.copy_(torch.randn(17, generator=generator))
        norm.running_mean += 2.5
    towards = torch.randn(3, 34, generator=generator, dtype=torch.float64)
    expected = outcome(plain, h, norm, towards, slope, average, torch.float64)
    found = outcome(norm_pool, h, norm, towards, slope, average, dtype)
    bound = 1e-10 if dtype == torch.float64 else 2e-5
    for ours, theirs in zip(found, expected, strict=True):
        assert float((ours.double() - theirs).abs().max()) <= bound * max(1.0, float(theirs.abs().max()))


def test_statistics_do_not_cancel_far_from_the_origin():
    h = 1e4 + torch.randn(4, 500, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rounded = h.float()
    norm = nn.BatchNorm1d(3, momentum=1.0)
    norm_pool(rounded, norm, 0.0, False)
    torch.testing.assert_close(norm.running_var.double(), rounded.double().flatten(0, 1).var(0), rtol=1e-5, atol=0)
