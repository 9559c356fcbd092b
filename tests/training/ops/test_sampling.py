import numpy as np
import pytest
import torch

from training.ops.sampling import _farthest_torch, farthest_points


def one_cloud(points: np.ndarray, count: int, skip_origin: bool) -> list[int]:
    """Point by point, in the arithmetic of the array's dtype, in the order of the CUDA kernel whose habit `skip_origin` is."""
    distances = [np.inf] * len(points)
    found = [0]
    while len(found) < count:
        latest = points[found[-1]]
        best, farthest = -1.0, 0
        for j, point in enumerate(points):
            if skip_origin and point[0] * point[0] + point[1] * point[1] + point[2] * point[2] <= 1e-3:
                continue
            dx, dy, dz = point - latest
            distances[j] = min(distances[j], dx * dx + dy * dy + dz * dz)
            if distances[j] > best:
                best, farthest = distances[j], j
        found.append(farthest)
    return found


def ball(clouds: int, number: int, seed: int = 0) -> np.ndarray:
    """Many points near the centre of the unit ball, so that the habit of skipping the origin matters."""
    generator = np.random.default_rng(seed)
    directions = generator.normal(size=(clouds, number, 3))
    return directions / np.linalg.norm(directions, axis=-1, keepdims=True) * generator.random((clouds, number, 1)) ** 4


@pytest.mark.parametrize("skip_origin", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("number", "count"), [(1, 1), (5, 5), (31, 8), (32, 32), (33, 20), (150, 40)])
def test_equals_the_plain_loop(number, count, dtype, skip_origin):
    points = ball(3, number).astype(dtype)
    expected = np.array([one_cloud(cloud, count, skip_origin) for cloud in points])
    np.testing.assert_array_equal(farthest_points(torch.from_numpy(points), count, skip_origin).numpy(), expected)


@pytest.mark.parametrize("skip_origin", [False, True])
def test_of_equally_far_points_the_first_is_taken(skip_origin):
    # nine places for eighty points: equal distances everywhere, then copies alone
    points = np.random.default_rng(1).integers(-1, 2, (4, 80, 3)).astype(np.float32) * [1, 1, 0]
    expected = np.array([one_cloud(cloud, 30, skip_origin) for cloud in points])
    np.testing.assert_array_equal(farthest_points(torch.from_numpy(points), 30, skip_origin).numpy(), expected)


def test_other_devices_compute_the_same():
    points = torch.from_numpy(np.concatenate([ball(2, 70), np.random.default_rng(1).integers(-1, 2, (2, 70, 3))]))
    allowed = points.square().sum(-1) > 1e-3
    assert torch.equal(_farthest_torch(points, allowed, 40), farthest_points(points, 40, skip_origin=True))


def test_each_next_point_is_no_farther_from_those_before_it():
    points = torch.from_numpy(ball(2, 200))
    for cloud, found in zip(points, farthest_points(points, 50), strict=True):
        apart = torch.cdist(cloud[found], cloud[found], compute_mode="donot_use_mm_for_euclid_dist")
        radii = [float(apart[step, :step].min()) for step in range(1, 50)]
        assert radii == sorted(radii, reverse=True)
        uncovered = torch.cdist(cloud, cloud[found], compute_mode="donot_use_mm_for_euclid_dist").min(1).values.max()
        assert float(uncovered) <= radii[-1]


def test_the_order_of_the_points_and_a_shift_change_nothing():
    points = torch.from_numpy(np.round(ball(1, 300) * 2**20) / 2**20)  # so that sums with whole numbers are exact
    order = torch.cat([torch.zeros(1, dtype=torch.int64), 1 + torch.randperm(299, generator=torch.Generator().manual_seed(0))])
    found = farthest_points(points, 60)
    assert torch.equal(order[farthest_points(points[:, order], 60)], found)
    assert torch.equal(farthest_points(points + torch.tensor([5.0, -3.0, 2.0]), 60), found)


def test_points_near_the_origin_are_skipped_except_the_one_of_index_0():
    near, far = [0.01, 0.02, 0.0], [[1.0, 0, 0], [0, 1.0, 0]]
    points = torch.tensor([[near, near, far[0], [0, 0, 0], far[1]], [far[0], near, near, [0, 0, 0], near]])
    # in the first cloud two points are allowed after index 0, in the second none: then the first allowed one again
    assert farthest_points(points, 5, skip_origin=True).tolist() == [[0, 2, 4, 2, 2], [0, 0, 0, 0, 0]]
    assert farthest_points(points[:, [0, 1, 3]], 3, skip_origin=True).tolist() == [[0, 0, 0], [0, 0, 0]]
    assert farthest_points(points, 4)[0].sort().values.tolist() == [0, 2, 3, 4]  # of the copies 0 and 1 one is enough


def test_copies_of_one_point_repeat_index_0():
    assert farthest_points(torch.full((2, 40, 3), 0.7), 5).tolist() == [[0] * 5] * 2


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_points_that_are_not_finite_are_never_taken(bad):
    points = torch.from_numpy(ball(2, 64).astype(np.float32))
    points[:, 3:20, 1] = bad
    points[1, 0, 0] = bad
    found = farthest_points(points, 47)
    assert not torch.isin(found[:, 1:], torch.arange(3, 20)).any()
    assert found[0].unique().numel() == 47
    assert farthest_points(torch.full((1, 9, 3), bad), 4).tolist() == [[0] * 4]


def test_distances_beyond_the_largest_number_are_still_distances():
    points = torch.tensor([[[0.0, 0, 0], [3e38, 0, 0], [-3e38, 0, 0], [1, 0, 0]]])
    assert farthest_points(points, 4).tolist() == [[0, 1, 2, 3]]


def test_the_number_of_threads_changes_nothing():
    points = torch.from_numpy(ball(5, 333))
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(farthest_points(points, 33))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


@pytest.mark.parametrize("count", [0, 9])
def test_more_points_than_there_are_is_refused(count):
    with pytest.raises(ValueError, match=f"count={count} for 8 points"):
        farthest_points(torch.zeros(1, 8, 3), count)
