import torch
from torch import Tensor, nn

from training.ops.edge_group_norm import edge_group_norm


def with_edges(ends: Tensor, neighbours: Tensor, norm: nn.GroupNorm) -> Tensor:
    """Every edge's vector as a tensor (B, C, G, k), then torch's own norm, activation and maximum."""
    u, w = ends.chunk(2, dim=-1)
    edges = torch.stack([u[b, neighbours[b]] + w[b, :, None] for b in range(len(ends))]).permute(0, 3, 1, 2)
    return nn.functional.leaky_relu(norm(edges), 0.2).amax(-1).transpose(1, 2)


def test_equals_norm_activation_and_maximum_of_all_edges_in_values_and_gradients():
    torch.manual_seed(0)
    ends = (torch.randn(3, 9, 16, dtype=torch.float64) + 2).requires_grad_()
    neighbours = torch.stack([torch.stack([torch.randperm(9)[:4] for _ in range(9)]) for _ in range(3)])
    norm = nn.GroupNorm(4, 8).double()
    nn.init.normal_(norm.weight)  # of both signs
    nn.init.normal_(norm.bias)
    found, expected = edge_group_norm(ends, neighbours, norm, 0.2), with_edges(ends, neighbours, norm)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
    towards = torch.randn_like(found)
    ours, theirs = (torch.autograd.grad(y, [ends, norm.weight, norm.bias], towards) for y in (found, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


def test_a_cloud_does_not_see_the_others_and_a_bad_one_is_not_a_number():
    torch.manual_seed(0)
    ends, neighbours, norm = torch.randn(4, 6, 8), torch.randint(6, (4, 6, 3)), nn.GroupNorm(2, 4)
    whole = edge_group_norm(ends, neighbours, norm, 0.2)
    assert torch.equal(edge_group_norm(ends[2:3], neighbours[2:3], norm, 0.2), whole[2:3])
    ends[1] = torch.nan
    assert edge_group_norm(ends, neighbours, norm, 0.2).isnan().flatten(1).all(1).tolist() == [False, True, False, False]
