import math

import pytest
import torch

from training.ops.chamfer import _to_nearest, chamfer_l1, chamfer_l2, nearest_squared


def loops(a, b):
    """Squared distances of each point of a to the nearest of b, and the first nearest, for lists of points."""
    squared = [[sum((x - y) ** 2 for x, y in zip(p, q, strict=True)) for q in b] for p in a]
    return [min(row) for row in squared], [row.index(min(row)) for row in squared]


def two_sets(pairs: int, m: int, k: int, dtype=torch.float64, lattice: bool = False):
    generator = torch.Generator().manual_seed(m * 100 + k)
    if lattice:
        return [torch.randint(-2, 3, (pairs, size, 3), generator=generator).to(dtype) for size in (m, k)]
    return [torch.randn(pairs, size, 3, generator=generator, dtype=torch.float64).to(dtype) for size in (m, k)]


@pytest.fixture(params=["kernels", "torch"])
def distances(request):
    return nearest_squared if request.param == "kernels" else lambda a, b: (_to_nearest(a, b), _to_nearest(b, a))


def test_two_points_by_hand():
    a, b = torch.zeros(1, 1, 3), torch.tensor([[[0.0, 0, 0], [1, 0, 0]]])
    assert chamfer_l1(a, b).tolist() == pytest.approx([0.25], abs=2e-6)
    assert chamfer_l2(a, b).tolist() == [0.5]


@pytest.mark.parametrize(("m", "k"), [(1, 1), (1, 5), (8, 32), (31, 33), (70, 3)])
def test_equals_loops(distances, m, k):
    a, b = two_sets(3, m, k)
    d_a, d_b = distances(a, b)
    for pair in range(3):
        forth, back = loops(a[pair].tolist(), b[pair].tolist())[0], loops(b[pair].tolist(), a[pair].tolist())[0]
        assert d_a[pair].tolist() == pytest.approx(forth, rel=1e-13)
        assert d_b[pair].tolist() == pytest.approx(back, rel=1e-13)
        l1 = (sum(map(math.sqrt, forth)) / m + sum(map(math.sqrt, back)) / k) / 2
        assert float(chamfer_l1(a, b)[pair]) == pytest.approx(l1, rel=1e-9)
        assert float(chamfer_l2(a, b)[pair]) == pytest.approx(sum(forth) / m + sum(back) / k, rel=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_follow_the_first_of_equally_near_points(distances, dtype):
    a, b = two_sets(4, 9, 40, dtype, lattice=True)
    a, b = a.requires_grad_(), b.requires_grad_()
    to_a, to_b = two_sets(4, 9, 40, dtype, lattice=True)
    d_a, d_b = distances(a, b)
    torch.autograd.backward([d_a, d_b], [to_a[:, :, 0], to_b[:, :, 0]])  # all of it small whole numbers: exact
    for pair in range(4):
        by_a, by_b = torch.zeros(9, 3, dtype=dtype), torch.zeros(40, 3, dtype=dtype)
        for i, j in enumerate(loops(a[pair].tolist(), b[pair].tolist())[1]):
            by_a[i] += 2 * to_a[pair, i, 0] * (a[pair, i] - b[pair, j]).detach()
            by_b[j] -= 2 * to_a[pair, i, 0] * (a[pair, i] - b[pair, j]).detach()
        for j, i in enumerate(loops(b[pair].tolist(), a[pair].tolist())[1]):
            by_b[j] += 2 * to_b[pair, j, 0] * (b[pair, j] - a[pair, i]).detach()
            by_a[i] -= 2 * to_b[pair, j, 0] * (b[pair, j] - a[pair, i]).detach()
        assert torch.equal(a.grad[pair], by_a)
        assert torch.equal(b.grad[pair], by_b)


@pytest.mark.parametrize("of", [nearest_squared, chamfer_l1, chamfer_l2])
def test_gradients_are_those_of_finite_differences(of):
    a, b = two_sets(2, 5, 7)
    assert torch.autograd.gradcheck(of, (a.requires_grad_(), b.requires_grad_()))
    assert torch.autograd.gradcheck(lambda a: of(a, b.detach()), (a,))
    assert torch.autograd.gradcheck(lambda b: of(a.detach(), b), (b,))


def test_one_of_the_two_results_may_be_left_unused():
    a, b = two_sets(2, 5, 7)
    assert torch.autograd.gradcheck(lambda a, b: nearest_squared(a, b)[1], (a.requires_grad_(), b.requires_grad_()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_coincident_points_have_finite_gradients(dtype):
    a = two_sets(2, 6, 6, dtype)[0].requires_grad_()
    b = a.detach().clone().requires_grad_()
    chamfer_l1(a, b).sum().backward()
    assert torch.equal(a.grad, torch.zeros_like(a))
    assert torch.equal(b.grad, torch.zeros_like(b))
    assert float(chamfer_l2(a, b).detach().abs().max()) == 0


def test_order_shift_and_exchange_of_the_sets():
    a, b = two_sets(3, 20, 50)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    d_a, d_b = nearest_squared(a, b)
    shuffled = nearest_squared(a[:, order], b)
    assert torch.equal(shuffled[0], d_a[:, order])
    assert torch.equal(shuffled[1], d_b)
    torch.testing.assert_close(nearest_squared(a + 3, b + 3), (d_a, d_b))
    assert torch.equal(chamfer_l1(a, b), chamfer_l1(b, a))
    torch.testing.assert_close(chamfer_l1(1e6 * a, 1e6 * b), 1e6 * chamfer_l1(a, b))
    torch.testing.assert_close(chamfer_l2(1e6 * a, 1e6 * b), 1e12 * chamfer_l2(a, b))


def test_views_and_half_precision_are_taken_as_they_are():
    a, b = two_sets(3, 20, 50, torch.float32)
    expected = nearest_squared(a[:, ::2], b)
    torch.testing.assert_close(nearest_squared(a.transpose(1, 2).contiguous().transpose(1, 2)[:, ::2], b), expected, rtol=0, atol=0)
    low = a.bfloat16().requires_grad_()
    d_a, _ = nearest_squared(low, b)
    assert d_a.dtype == torch.float32
    d_a.sum().backward()
    assert low.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_point_that_is_not_finite_is_seen_and_is_nobodys_nearest(distances, bad):
    a, b = two_sets(1, 6, 40)
    a[0, 2, 1] = bad
    d_a, d_b = distances(a, b)
    assert d_a.isfinite().logical_not().nonzero().tolist() == [[0, 2]]
    assert torch.equal(d_b, distances(a[:, [0, 1, 3, 4, 5]], b)[1])
    assert not distances(torch.full_like(a, bad), b)[1].isfinite().any()


def test_the_number_of_threads_changes_nothing():
    a, b = (x.requires_grad_() for x in two_sets(7, 40, 60, torch.float32))
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append([*nearest_squared(a, b), *torch.autograd.grad(chamfer_l1(a, b).sum(), [a, b])])
    finally:
        torch.set_num_threads(before)
    assert all(map(torch.equal, *found))


def test_empty_sets_are_refused_and_no_pairs_are_none():
    with pytest.raises(ValueError, match="got 0 and 4"):
        chamfer_l1(torch.zeros(2, 0, 3), torch.zeros(2, 4, 3))
    assert chamfer_l1(torch.zeros(0, 3, 3), torch.zeros(0, 4, 3)).shape == (0,)
