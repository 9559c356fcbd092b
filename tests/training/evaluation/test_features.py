import numpy as np
import pytest
import torch
from torch import Tensor, nn

from training.augment import ImageAugment, plain_image
from training.evaluation.features import chosen_views, clouds, extract, images, turn


class Shelf:
    """A dataset in memory, with what evaluation asks of one."""

    def __init__(self, number: int, views: int = 3) -> None:
        rng = np.random.default_rng(0)
        self.uri = "memory"
        self.keys = [f"object-{i}" for i in range(number)]
        self.points = (rng.standard_normal((number, 50, 3)) + 1).astype(np.float32)
        self.pictures = rng.integers(0, 256, (number, views, 12, 12, 3)).astype(np.uint8)

    def members(self, index: int) -> tuple[str, ...]:
        return ("d00.png", "json", "points.npy", *(f"v{v:02}.png" for v in range(self.pictures.shape[1])))

    def load(self, index: int, members: tuple[str, ...]) -> dict[str, np.ndarray]:
        return {m: self.points[index] if m == "points.npy" else self.pictures[index, int(m[1:3])] for m in members}


class Moments(nn.Module):
    """Means of the coordinates through batch norm and dropout, which eval mode must still."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.dropout = nn.BatchNorm1d(3), nn.Dropout(0.5)

    def forward(self, points: Tensor) -> Tensor:
        return self.dropout(self.norm(points.mean(1)))


@pytest.mark.parametrize("batch", [1, 4, 64])
def test_features_are_those_of_eval_mode_whatever_the_batch(batch: int) -> None:
    network, shelf = Moments(), Shelf(11)
    network.norm.running_mean.copy_(torch.tensor([1.0, 2.0, 3.0]))
    network.train()
    found = extract(network, iter(shelf.points), "cpu", batch)
    expected = (shelf.points.mean(1) - [1, 2, 3]) / np.sqrt(1 + 1e-5)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert network.training
    assert network.norm.running_mean.tolist() == [1, 2, 3]


def test_refuses_broken_features_nothing_and_mixed_shapes() -> None:
    points = list(Shelf(3).points)
    with pytest.raises(ValueError, match="not finite for 1 of 3 items"):
        extract(nn.Flatten(), [points[0], points[1] * np.nan, points[2]], "cpu", 2)
    with pytest.raises(ValueError, match="nothing to take features of"):
        extract(nn.Identity(), [], "cpu", 2)
    with pytest.raises(ValueError, match="one shape"):
        extract(nn.Identity(), [points[0], points[1][:9]], "cpu", 2)


def test_clouds_come_in_order_with_their_first_points() -> None:
    shelf = Shelf(6)
    for index, cloud in zip((4, 1), clouds(shelf, (4, 1), 20, False, None), strict=True):
        np.testing.assert_array_equal(cloud, shelf.points[index, :20])
    centred = np.stack(list(clouds(shelf, range(6), 20, True, None)))
    np.testing.assert_allclose(centred.mean(1), 0, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(centred, axis=2).max(1), 1, atol=1e-6)


def test_turned_clouds_are_rigid_and_a_function_of_seed_and_key() -> None:
    shelf = Shelf(6)
    still, first, again, other = (list(clouds(shelf, range(6), None, True, seed)) for seed in (None, 5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert min(np.abs(a - b).max() for a, b in zip(first, other, strict=True)) > 0.1
    rotations = [np.linalg.lstsq(a, b, rcond=None)[0] for a, b in zip(still, first, strict=True)]
    for rotation in rotations:
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-5)
        assert np.linalg.det(rotation) > 0
    assert np.abs(rotations[0] - rotations[1]).max() > 0.1
    # neither the order nor the selection of items matters
    np.testing.assert_array_equal(next(clouds(shelf, (3,), None, True, 5)), first[3])
    np.testing.assert_array_equal(turn(still[2], 5, "object-2"), first[2])


def test_views_of_an_object() -> None:
    shelf = Shelf(200)
    assert chosen_views(shelf, (7, 2), "all", 0) == [(place, f"v{v:02}.png") for place in (0, 1) for v in range(3)]
    one = chosen_views(shelf, range(200), "one", 0)
    assert [place for place, _ in one] == list(range(200))
    assert min(np.unique([name for _, name in one], return_counts=True)[1]) > 40
    assert chosen_views(shelf, (7,), "one", 0) == [(0, one[7][1])]
    assert chosen_views(shelf, range(200), "one", 1) != one
    config = ImageAugment(size=8)
    for picture, (place, name) in zip(images(shelf, (7, 2), [(1, "v02.png"), (0, "v00.png")], config), [(2, 2), (7, 0)], strict=True):
        np.testing.assert_array_equal(picture, plain_image(shelf.pictures[place, name], config))
    with pytest.raises(ValueError, match="object-0 of memory has none"):
        chosen_views(Shelf(1, views=0), (0,), "one", 0)
