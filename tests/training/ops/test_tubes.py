import pytest
import torch

from training.ops.tubes import _TubeMaxTorch, displacements, tube_max


def sets(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("number", "vectors", "outputs"), [(1, 1, 1), (5, 7, 20), (3, 8, 513), (21, 33, 6), (40, 96, 17)])
def test_the_maximum_and_its_gradient_are_those_of_all_products_on_every_device(number, vectors, outputs):
    d, weight = sets(number, vectors), sets(outputs).requires_grad_()
    expected = (d @ weight.T).amax(1)
    towards = torch.randn_like(expected)
    (wanted,) = torch.autograd.grad((expected * towards).sum(), weight)
    moving = d.clone().requires_grad_()
    for found in (tube_max(d, weight), tube_max(moving, weight), _TubeMaxTorch.apply(d, weight, 4)):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        (gradient,) = torch.autograd.grad((found * towards).sum(), weight, retain_graph=True)
        torch.testing.assert_close(gradient, wanted, rtol=1e-10, atol=1e-12)
    (expected_d,) = torch.autograd.grad((moving @ weight.T).amax(1).sum(), moving)
    (found_d,) = torch.autograd.grad(tube_max(moving, weight).sum(), moving)
    torch.testing.assert_close(found_d, expected_d, rtol=1e-10, atol=1e-12)


def test_of_equal_neighbours_the_first_has_the_gradient_wherever_they_stand():
    d = sets(4, 1).expand(4, 19, 4).contiguous()
    d[:, 11, 3] += 1  # differs only where the weight is zero
    weight = torch.tensor([[1.0, -2, 0.5, 0]], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(tube_max(d, weight).sum(), weight)
    torch.testing.assert_close(gradient[0], d[:, 0].sum(0))


def test_what_is_not_a_number_is_the_largest_as_in_torch():
    d, weight = sets(3, 17), sets(5)
    d[1, 9, 0] = torch.nan
    assert tube_max(d, weight).isnan().all(1).tolist() == [False, True, False]
    weight[2] = torch.nan
    assert tube_max(d, weight)[0].isnan().tolist() == [False, False, True, False, False]


def test_displacements_with_and_without_gradient_are_differences_and_whole_frames():
    generator = torch.Generator().manual_seed(0)
    points, anchors = torch.randn(50, 3, generator=generator), torch.randn(4, 6, 3, generator=generator)
    rows, moves = torch.randint(0, 50, (4, 6, 3, 7), generator=generator), torch.tensor([-1.0, 0, 1])
    d = displacements(points, anchors, rows, moves)
    assert torch.equal(d[2, 3, 0, 5], torch.cat([points[rows[2, 3, 0, 5]] - anchors[2, 3], torch.tensor([-1.0])]))
    assert torch.equal(d, displacements(points.requires_grad_(), anchors, rows, moves))
