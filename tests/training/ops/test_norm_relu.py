import pytest
import torch
from torch import Tensor, nn

from training.ops.norm_relu import norm_relu


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def layer(channels: int) -> nn.BatchNorm1d:
    norm = nn.BatchNorm1d(channels).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    nn.init.normal_(norm.running_mean)
    return norm


def usual(h: Tensor, norm: nn.BatchNorm1d, common: Tensor) -> Tensor:
    joined = (h + common[:, None]).flatten(0, 1)
    return torch.relu(norm(joined)).view_as(h)


@pytest.mark.parametrize("training", [True, False])
def test_equals_the_usual_operations_in_values_gradients_and_running_statistics(training):
    h, common = torch.randn(5, 7, 6, dtype=torch.float64), torch.randn(5, 6, dtype=torch.float64)
    one, other = (layer(6).train(training) for _ in range(2))
    other.load_state_dict(one.state_dict())
    inputs = [[h.clone().requires_grad_(), common.clone().requires_grad_()] for _ in range(2)]
    found, expected = norm_relu(inputs[0][0], one, inputs[0][1]), usual(inputs[1][0], other, inputs[1][1])
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
    towards = torch.randn_like(found)
    ours = torch.autograd.grad((found * towards).sum(), [*inputs[0], one.weight, one.bias])
    theirs = torch.autograd.grad((expected * towards).sum(), [*inputs[1], other.weight, other.bias])
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(dict(one.named_buffers()), dict(other.named_buffers()), rtol=1e-12, atol=1e-12)


def test_what_is_not_a_number_stays_so():
    h = torch.randn(3, 2, 4)
    h[1, 0, 2] = torch.nan
    assert bool(norm_relu(h, nn.BatchNorm1d(4))[..., 2].isnan().all())
    found = norm_relu(h, nn.BatchNorm1d(4).eval())
    assert torch.equal(found.isnan(), h.isnan())


def test_threads_change_no_bit():
    h, norm = torch.randn(40, 9, 16), nn.BatchNorm1d(16)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            x = h.clone().requires_grad_()
            found = norm_relu(x, norm)
            found.square().sum().backward()
            results.append((found.detach(), x.grad))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
