import pytest
import torch
from torch import Tensor, nn

from training.ops.norm_max import linear_norm_max


def layer(channels: int) -> nn.BatchNorm1d:
    norm = nn.BatchNorm1d(channels).double()
    for values in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(values)
    return norm


def usual(a: Tensor, weight: Tensor, norm: nn.BatchNorm1d) -> Tensor:
    y = a @ weight.T
    return norm(y.flatten(0, 1)).view_as(y).relu().amax(1)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("sets", "vectors", "channels", "outputs"), [(1, 2, 3, 4), (16, 5, 6, 7), (37, 9, 4, 20), (300, 32, 8, 40)])
def test_equals_the_usual_operations_in_values_gradients_and_running_statistics(sets, vectors, channels, outputs, training):
    torch.manual_seed(0)
    a = torch.randn(sets, vectors, channels, dtype=torch.float64) + 3
    weight = torch.randn(outputs, channels, dtype=torch.float64)
    one, other = (layer(outputs).train(training) for _ in range(2))
    other.load_state_dict(one.state_dict())
    inputs = [[a.clone().requires_grad_(), weight.clone().requires_grad_()] for _ in range(2)]
    found, expected = linear_norm_max(*inputs[0], one), usual(*inputs[1], other)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    towards = torch.randn_like(found)
    ours = torch.autograd.grad((found * towards).sum(), [*inputs[0], one.weight, one.bias])
    theirs = torch.autograd.grad((expected * towards).sum(), [*inputs[1], other.weight, other.bias])
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(dict(one.named_buffers()), dict(other.named_buffers()), rtol=1e-11, atol=1e-11)


def test_nearly_constant_channels_keep_their_gradient_in_single_precision():
    """y varies by a hundredth of its size: the products of a with itself must not swallow it."""
    torch.manual_seed(0)
    a = torch.rand(200, 8, 6, dtype=torch.float64)
    weight = torch.randn(9, 6, dtype=torch.float64)
    a = a - 0.99 * (a @ torch.linalg.pinv(weight[:3]) @ weight[:3]) + 1
    towards = torch.randn(200, 9, dtype=torch.float64)
    norm = layer(9)
    exact = [a.clone().requires_grad_(), weight.clone().requires_grad_()]
    wanted = torch.autograd.grad((usual(*exact, norm) * towards).sum(), exact)
    single = [x.detach().float().requires_grad_() for x in exact]
    got = torch.autograd.grad((linear_norm_max(*single, norm.float()) * towards.float()).sum(), single)
    for found, expected in zip(got, wanted, strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-5 * float(expected.abs().max()))


def test_what_is_not_a_number_spoils_its_channel_and_threads_change_no_bit():
    torch.manual_seed(0)
    a, weight, before, results = torch.randn(90, 4, 6), torch.randn(12, 6), torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            inputs = a.clone().requires_grad_(), weight.clone().requires_grad_()
            found = linear_norm_max(*inputs, nn.BatchNorm1d(12))
            results.append((found, *torch.autograd.grad(found.square().sum(), inputs)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(x, y) for x, y in zip(*results, strict=True))
    weight[3] = torch.nan
    assert linear_norm_max(a, weight, nn.BatchNorm1d(12)).isnan().any(0).tolist() == [o == 3 for o in range(12)]
