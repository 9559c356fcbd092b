import numpy as np
import pytest
import torch

from training.ops.neighbors import _knn_torch, knn


def nearest(x: np.ndarray, k: int) -> np.ndarray:
    """By sorting all squared distances, oneself first, equal ones by index."""
    squared = ((x[:, :, None].astype(np.float64) - x[:, None]) ** 2).sum(-1)
    squared[:, np.arange(x.shape[1]), np.arange(x.shape[1])] = -1
    return np.argsort(squared, axis=-1, kind="stable")[..., :k]


SIZES = [(1, 3, 1), (5, 1, 5), (127, 2, 20), (128, 5, 21), (129, 4, 49), (300, 9, 101), (257, 3, 257)]


@pytest.mark.parametrize(("points", "channels", "k"), SIZES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equal_distances_go_by_index(points, channels, k, dtype):
    half = np.random.default_rng(points).integers(-3, 4, (2, points // 2, channels))
    # small integers with mean 0, so that nothing is rounded
    lattice = np.concatenate([half, np.zeros((2, points % 2, channels)), -half], axis=1).astype(dtype)
    np.testing.assert_array_equal(knn(torch.from_numpy(lattice), k).numpy(), nearest(lattice, k))


@pytest.mark.parametrize("channels", [3, 64, 130])
def test_random_points_have_the_neighbours_that_sorting_finds(channels):
    x = torch.from_numpy(np.random.default_rng(channels).normal(5, 1, (2, 400, channels)))
    np.testing.assert_array_equal(knn(x, 15).numpy(), nearest(x.numpy(), 15))
    torch.testing.assert_close(_knn_torch(x - x.mean(1, keepdim=True), 15), knn(x, 15))


@pytest.mark.parametrize("copies", [10, 60, 250, 511])
def test_copies_of_a_point_come_by_index_after_the_point_itself(copies):
    x = np.random.default_rng(copies).normal(size=(1, 512, 3)).astype(np.float32)
    where = np.sort(np.random.default_rng(1).choice(512, copies, replace=False))
    x[0, where] = x[0, where[0]]
    found = knn(torch.from_numpy(x), 20).numpy()[0]
    assert (found[:, 0] == np.arange(512)).all()
    for point in where:
        others = where[where != point][:19]
        np.testing.assert_array_equal(found[point, 1 : 1 + len(others)], others)


def test_the_number_of_threads_changes_nothing():
    x = torch.randn(3, 600, 20, generator=torch.Generator().manual_seed(0))
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(knn(x, 12))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("k", [4, 30, 150])
def test_coordinates_that_are_not_finite_still_give_indices(k):
    x = torch.randn(2, 200, 6)
    x[0, 3] = torch.nan
    x[1, 5] = torch.inf
    found = knn(x, k)
    assert 0 <= int(found.min()) <= int(found.max()) < 200


@pytest.mark.parametrize("k", [0, 9])
def test_too_few_points_are_refused(k):
    with pytest.raises(ValueError, match=f"k={k} for 8 points"):
        knn(torch.zeros(1, 8, 3), k)
