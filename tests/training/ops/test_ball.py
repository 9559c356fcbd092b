import numpy as np
import pytest
import torch

from training.ops.ball import _ball_torch, ball_query


def one_ball(points: np.ndarray, centre: np.ndarray, radius: np.floating, k: int) -> list[int]:
    """Point by point, in the arithmetic of the arrays' dtype."""
    found: list[int] = []
    for j, point in enumerate(points):
        dx, dy, dz = centre - point
        if len(found) < k and dx * dx + dy * dy + dz * dz < radius * radius:
            found.append(j)
    return (found + [found[0] if found else 0] * k)[:k]


def test_the_example_of_five_points_on_a_line():
    points = torch.zeros(1, 5, 3)
    points[0, :, 0] = torch.tensor([5, 0, 0.1, 0.2, 0.05])
    anchor = torch.zeros(1, 1, 3)
    assert ball_query(points, anchor, 0.15, 2).tolist() == [[[1, 2]]]
    assert ball_query(points, anchor, 0.15, 4).tolist() == [[[1, 2, 4, 1]]]
    assert ball_query(points, anchor + 50, 0.15, 3).tolist() == [[[0, 0, 0]]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("number", "k", "radius"), [(1, 3, 0.5), (9, 40, 0.7), (64, 4, 0.9), (65, 16, 0.3), (200, 8, 0.2), (300, 64, 2)])
def test_equals_the_plain_loop(number, k, radius, dtype):
    generator = np.random.default_rng(number)
    points, centres = generator.uniform(-1, 1, (3, number, 3)).astype(dtype), generator.uniform(-1, 1, (3, 11, 3)).astype(dtype)
    centres[:, 0] = 9  # an empty ball
    expected = [[one_ball(cloud, centre, dtype(radius), k) for centre in some] for cloud, some in zip(points, centres, strict=True)]
    found = ball_query(torch.from_numpy(points), torch.from_numpy(centres), radius, k)
    np.testing.assert_array_equal(found.numpy(), expected)


def test_a_point_on_the_surface_and_a_point_that_is_not_finite_are_outside():
    points = torch.tensor([[[0.5, 0, 0], [torch.nan, 0, 0], [torch.inf, 0, 0], [0.25, 0, 0]]])
    assert ball_query(points, torch.zeros(1, 1, 3), 0.5, 2).tolist() == [[[3, 3]]]


def test_other_devices_and_any_number_of_threads_compute_the_same():
    generator = torch.Generator().manual_seed(0)
    points, centres = torch.rand(4, 150, 3, generator=generator), torch.rand(3, 20, 3, generator=generator)
    which = torch.tensor([[0, 1, 1], [3, 2, 0], [2, 2, 2]])
    centres[1, 4] = 7
    from training.ops.ball import ball_query_in

    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(ball_query_in(points, centres, which, 0.3, 12))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)
    limit = torch.tensor(0.3).square().item()
    assert torch.equal(found[0], _ball_torch(points, centres, which, limit, 12))
    assert torch.equal(ball_query_in(points, centres, which, 0.3, 200), _ball_torch(points, centres, which, limit, 200))
    for p, clouds in enumerate(which):
        assert torch.equal(found[0][p].transpose(0, 1), ball_query(points[clouds], centres[p].expand(3, -1, -1), 0.3, 12))


@pytest.mark.parametrize(("number", "k"), [(4, 0), (0, 3)])
def test_balls_of_nothing_are_refused(number, k):
    with pytest.raises(ValueError, match=f"k={k} for {number} points"):
        ball_query(torch.zeros(1, number, 3), torch.zeros(1, 1, 3), 1, k)
