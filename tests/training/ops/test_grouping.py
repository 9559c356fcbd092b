import numpy as np
import pytest
import torch

from training.ops import grouping
from training.ops.grouping import gather_rows, make_patches, nearest
from training.ops.sampling import farthest_points


def sorted_by_distance(points: np.ndarray, centres: np.ndarray, k: int) -> np.ndarray:
    found = np.empty((*centres.shape[:2], k), np.int64)
    for cloud in range(len(points)):
        for row, centre in enumerate(centres[cloud]):
            squared = [float(((point - centre) ** 2).sum()) for point in points[cloud].astype(np.float64)]
            found[cloud, row] = sorted(range(len(squared)), key=lambda j, squared=squared: (squared[j], j))[:k]
    return found


def clouds(number: int, seed: int = 0, count: int = 2) -> torch.Tensor:
    return torch.randn(count, number, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(params=["kernel", "torch", "torch in parts"])
def search(request, monkeypatch):
    if request.param == "kernel":
        return nearest
    if request.param == "torch in parts":
        monkeypatch.setattr(grouping, "_MATRIX_ELEMENTS", 400)
    return grouping._nearest_torch


@pytest.mark.parametrize(("number", "groups", "k"), [(1, 1, 1), (5, 7, 5), (50, 5, 1), (128, 3, 128), (129, 70, 16), (300, 4, 110)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equal_distances_go_by_index(search, number, groups, k, dtype):
    generator = np.random.default_rng(number)
    points = 1024 * generator.integers(-3, 4, (2, number, 3)).astype(dtype)
    centres = 1024 * generator.integers(-3, 4, (2, groups, 3)).astype(dtype)
    found = search(torch.from_numpy(points), torch.from_numpy(centres), k)
    np.testing.assert_array_equal(found.numpy(), sorted_by_distance(points, centres, k))


def test_random_points_have_the_neighbours_that_sorting_finds(search):
    points, centres = clouds(400), clouds(66, seed=1)
    np.testing.assert_array_equal(search(points, centres, 32).numpy(), sorted_by_distance(points.numpy(), centres.numpy(), 32))


def test_neighbours_far_from_the_origin_are_still_told_apart():
    """‖x‖² + ‖c‖² − 2x·c would lose these differences in single precision."""
    points = torch.tensor([[[4096.0, 0, 0], [4096.25, 0, 0], [4096.125, 0, 0]]])
    assert nearest(points, points[:, 1:2], 3).tolist() == [[[1, 2, 0]]]


def test_rows_and_their_gradients_equal_loops():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 6, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    index = torch.randint(0, 6, (3, 5, 2), generator=generator)
    towards = torch.randn(3, 5, 2, 4, generator=generator, dtype=torch.float64)
    rows = gather_rows(x, index)
    rows.backward(towards)
    expected = torch.zeros_like(x)
    for b, g, m in np.ndindex(3, 5, 2):
        assert torch.equal(rows[b, g, m], x[b, index[b, g, m]])
        expected[b, index[b, g, m]] += towards[b, g, m]
    torch.testing.assert_close(x.grad, expected)
    assert gather_rows(x, index[:, :, 0]).shape == (3, 5, 4)
    assert torch.autograd.gradcheck(lambda x: gather_rows(x, index), (x,))


def test_patches_are_points_of_the_cloud_around_its_farthest_points():
    points = clouds(200).requires_grad_()
    patches = make_patches(points, 20, 12)
    assert patches.centres.shape == (2, 20, 3)
    assert patches.offsets.shape == (2, 20, 12, 3)
    assert not patches.centres.requires_grad
    assert not patches.offsets.requires_grad
    for cloud in range(2):
        assert torch.equal(patches.centres[cloud], points[cloud, farthest_points(points, 20)[cloud]])
        apart = torch.cdist(patches.centres[cloud][:, None] + patches.offsets[cloud], points[cloud].detach()[None])
        assert float(apart.min(-1).values.max()) < 1e-7
        assert (apart.argmin(-1).sort(-1).values.diff() > 0).all()  # no point twice in a patch
    assert torch.equal(patches.offsets[:, :, 0], torch.zeros(2, 20, 3, dtype=torch.float64))
    assert (patches.offsets.square().sum(-1).diff(dim=-1) >= 0).all()


def test_patches_move_and_scale_with_the_cloud():
    points = (clouds(150) * 2**20).round() / 2**20  # so that sums with whole numbers are exact
    patches, moved, doubled = (make_patches(cloud, 16, 8) for cloud in (points, points + 7, points * 2))
    assert torch.equal(moved.offsets, patches.offsets)
    assert torch.equal(moved.centres, patches.centres + 7)
    assert torch.equal(doubled.offsets, patches.offsets * 2)


def test_the_order_of_the_points_changes_nothing_while_the_first_stays():
    points = clouds(150)
    order = torch.cat([torch.zeros(1, dtype=torch.int64), 1 + torch.randperm(149, generator=torch.Generator().manual_seed(0))])
    patches, shuffled = make_patches(points, 16, 8), make_patches(points[:, order], 16, 8)
    assert torch.equal(patches.centres, shuffled.centres)
    assert torch.equal(patches.offsets, shuffled.offsets)


def test_copies_of_one_point_give_patches_of_nothing():
    patches = make_patches(torch.full((1, 40, 3), 0.5), 6, 4)
    assert torch.equal(patches.offsets, torch.zeros(1, 6, 4, 3))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("k", [1, 16, 120])
def test_coordinates_that_are_not_finite_come_last(search, bad, k):
    points = clouds(130).float()
    points[:, 5, 1] = bad
    centres = points[:, 4:9].clone()
    found = search(points, centres, k)
    assert 0 <= int(found.min()) <= int(found.max()) < 130
    assert not (found[:, [0, 2, 3, 4]] == 5).any()
    assert int(search(points, centres, 130).min()) >= 0


def test_the_number_of_threads_changes_nothing():
    points, centres, x = clouds(500, count=3), clouds(130, seed=1, count=3), clouds(500, seed=2, count=3).requires_grad_()
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            index = nearest(points, centres, 16)
            (gradient,) = torch.autograd.grad(gather_rows(x, index).sin().sum(), x)
            found.append((index, gradient))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


@pytest.mark.parametrize("k", [0, 9])
def test_larger_patches_than_clouds_are_refused(k):
    with pytest.raises(ValueError, match=f"k={k} for 8 points"):
        nearest(torch.zeros(1, 8, 3), torch.zeros(1, 2, 3), k)
    with pytest.raises(ValueError, match=f"k={k} for 8 points"):
        make_patches(torch.zeros(1, 8, 3), 2, k)
    with pytest.raises(ValueError, match=f"count={k} for 8 points"):
        make_patches(torch.zeros(1, 8, 3), k, 2)
