import copy
import functools

import pytest
import torch
from torch import Tensor, nn

from training.ops import edge_kernels, edge_torch
from training.ops.edgeconv import EdgeConv, edge_conv
from training.ops.neighbors import knn


def usual(x: Tensor, neighbors: Tensor, weight: Tensor, norm: nn.Module) -> Tensor:
    """The edge convolution as the paper writes it: every edge's vector, a 1×1 convolution, batch norm, LeakyReLU, maximum."""
    around = x[torch.arange(len(x))[:, None, None], neighbors]
    centre = x[:, :, None].expand_as(around)
    edges = torch.cat([around - centre, centre], -1).permute(0, 3, 1, 2)
    values = norm(nn.functional.conv2d(edges, weight[:, :, None, None]))
    return nn.functional.leaky_relu(values, 0.2).max(-1).values.transpose(1, 2)


def problem(k: int, channels: int = 5, out: int = 11, shift: float = 0.0):
    generator = torch.Generator().manual_seed(k)
    x = torch.randn(3, 300, channels, generator=generator, dtype=torch.float64) + shift
    weight = torch.randn(out, 2 * channels, generator=generator, dtype=torch.float64)
    norm = nn.BatchNorm2d(out).double()
    with torch.no_grad():
        norm.weight.copy_(torch.randn(out, generator=generator, dtype=torch.float64))
        norm.bias.copy_(torch.randn(out, generator=generator, dtype=torch.float64))
        norm.running_mean.copy_(torch.randn(out, generator=generator, dtype=torch.float64))
        norm.running_var.copy_(torch.rand(out, generator=generator, dtype=torch.float64) + 0.5)
    assert (norm.weight < 0).any()
    assert (norm.weight > 0).any()
    return x, knn(x, k), weight, norm, torch.randn(3, 300, out, generator=generator, dtype=torch.float64)


def outcome(function, x, neighbors, weight, norm, towards, dtype=torch.float64, train=True):
    """Values, all gradients and the running statistics."""
    x, weight = (tensor.to(dtype).clone().requires_grad_() for tensor in (x, weight))
    norm = copy.deepcopy(norm).to(dtype).train(train)
    y = function(x, neighbors, weight, norm)
    (y * towards.to(dtype)).sum().backward()
    found = {"y": y.detach(), "x": x.grad, "weight": weight.grad, "scale": norm.weight.grad, "shift": norm.bias.grad}
    found |= {name: buffer.double() for name, buffer in norm.named_buffers()}
    return {name: value.double() for name, value in found.items()}


def worst(found, expected):
    return {name: float((found[name] - expected[name]).abs().max() / expected[name].abs().max().clamp(min=1)) for name in expected}


@pytest.fixture(params=[edge_kernels, edge_torch], ids=["kernels", "torch"])
def ours(request):
    return functools.partial(edge_conv, operations=request.param)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("k", [1, 5, 7, 20])
def test_equals_the_usual_formulation_in_double_precision(ours, k, train):
    arguments = problem(k)
    errors = worst(outcome(ours, *arguments, train=train), outcome(usual, *arguments, train=train))
    assert max(errors.values()) < 1e-10, errors


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("shift", [0.0, 30.0])
def test_rounds_in_single_precision_no_more_than_the_usual_formulation_does(ours, shift, train):
    arguments = problem(15, shift=shift)
    truth = outcome(usual, *arguments, train=train)
    found = worst(outcome(ours, *arguments, dtype=torch.float32, train=train), truth)
    theirs = worst(outcome(usual, *arguments, dtype=torch.float32, train=train), truth)
    for name, error in found.items():
        assert error < 4 * theirs[name] + 1e-6 * (1 + shift), (name, found, theirs)


def test_gradients_are_those_of_finite_differences(ours):
    x, neighbors, weight, norm, _ = problem(4, channels=2, out=3)
    x, neighbors = x[:2, :9].clone(), knn(x[:2, :9], 4)
    norm.eval().track_running_stats = False
    norm.running_mean = norm.running_var = None  # batch statistics, and nothing that one call leaves for the next
    inputs = (x.requires_grad_(), weight.requires_grad_(), norm.weight, norm.bias)
    assert torch.autograd.gradcheck(lambda x, weight, *_: ours(x, neighbors, weight, norm), inputs, eps=1e-6, atol=1e-7)


def test_copies_of_a_point_share_its_gradient():
    x, _, weight, norm, towards = problem(10)
    x[:, 100:220] = x[:, :1]
    neighbors = knn(x, 10)
    ours, theirs = outcome(edge_conv, x, neighbors, weight, norm, towards), outcome(usual, x, neighbors, weight, norm, towards)
    copies = [0, *range(100, 220)]
    for result in (ours, theirs):  # which of the copies has the gradient is arbitrary, their sum is not
        result["x"][:, 0] = result["x"][:, copies].sum(1)
        result["x"][:, 100:220] = 0
    errors = worst(ours, theirs)
    assert max(errors.values()) < 1e-10, errors


def test_the_number_of_threads_changes_nothing():
    x, neighbors, *_ = problem(15)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            sums = edge_kernels.reduce_edges(uw := x.float().repeat(1, 1, 2), neighbors)
            spread = edge_kernels.spread(*sums[:1], *sums[1:3], uw, neighbors, *(x[0, i, :].float() for i in range(4)))
            found.append([*sums[:3], *sums[3], spread])
    finally:
        torch.set_num_threads(before)
    for others in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], others, strict=True))


def test_nothing_is_kept_for_backward_that_grows_with_the_neighbours_and_channels_at_once():
    x = torch.randn(2, 256, 32, requires_grad=True)
    layer = EdgeConv(32, 64, k=32)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        layer(x)
    edges = 2 * 256 * 32 * 64 * 4  # bytes of one (B, N, k, 2C) or (B, N, k, O) tensor
    assert sum(tensor.nbytes for tensor in kept) < edges / 4


def test_evaluation_leaves_the_running_statistics_alone_and_training_counts_batches():
    layer = EdgeConv(3, 4, k=3)
    layer.eval()(torch.randn(2, 10, 3))
    assert int(layer.norm.num_batches_tracked) == 0
    assert torch.equal(layer.norm.running_mean, torch.zeros(4))
    layer.train()(torch.randn(2, 10, 3))
    assert int(layer.norm.num_batches_tracked) == 1


def test_autocast_does_not_reach_the_edges():
    layer, x = EdgeConv(3, 8, k=5).eval(), 10 + torch.randn(2, 100, 3)
    with torch.autocast("cpu", torch.bfloat16):
        under = layer(x)
    assert under.dtype == torch.float32
    torch.testing.assert_close(under, layer(x), rtol=0, atol=0)


@pytest.mark.parametrize("wrong", [-1, 10])
def test_neighbours_that_do_not_exist_are_refused(wrong):
    neighbors = torch.zeros(1, 10, 2, dtype=torch.int64)
    neighbors[0, 3, 1] = wrong
    with pytest.raises(ValueError, match="number of points, 10"):
        EdgeConv(3, 4, k=2)(torch.zeros(1, 10, 3), neighbors)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"\(O, 6\)"):
        edge_conv(torch.zeros(1, 10, 3), torch.zeros(1, 10, 2, dtype=torch.int64), torch.zeros(4, 8), nn.BatchNorm2d(4))
