import pytest
import torch

from training.ops.interpolate import _three, _three_torch, three_nearest


def loops(points, centres, features, power=1.0):
    result = torch.empty(*points.shape[:2], features.shape[2], dtype=features.dtype)
    for b in range(len(points)):
        for i, point in enumerate(points[b]):
            squared = [float(((point - centre) ** 2).sum()) for centre in centres[b]]
            order = sorted(range(len(squared)), key=lambda j, squared=squared: (squared[j], j))[:3]
            weights = [1 / (squared[j] ** power + 1e-8) for j in order]
            result[b, i] = sum(w * features[b, j] for w, j in zip(weights, order, strict=True)) / sum(weights)
    return result


def case(number: int, groups: int, lattice: bool = False):
    generator = torch.Generator().manual_seed(number + groups)
    points, centres = (torch.randn(2, size, 3, generator=generator, dtype=torch.float64) for size in (number, groups))
    if lattice:
        points, centres = points.round(), centres.round()
    return points, centres, torch.randn(2, groups, 5, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("lattice", [False, True])
@pytest.mark.parametrize(("number", "groups"), [(1, 1), (3, 2), (63, 3), (130, 40)])
def test_equals_loops(number, groups, lattice):
    points, centres, features = case(number, groups, lattice)
    expected = loops(points, centres, features)
    torch.testing.assert_close(three_nearest(points, centres, features), expected, rtol=1e-12, atol=1e-12)
    rooted = three_nearest(points, centres, features, root=True)
    torch.testing.assert_close(rooted, loops(points, centres, features, power=0.5), rtol=1e-12, atol=1e-12)
    large = 1e6 * points, 1e6 * centres, features
    torch.testing.assert_close(three_nearest(*large), loops(*large), rtol=1e-12, atol=1e-12)
    if lattice:  # whole numbers are exact in single precision too, so that the same centres are found
        torch.testing.assert_close(three_nearest(points.float(), centres.float(), features.float()), expected.float())


@pytest.mark.parametrize("root", [False, True])
@pytest.mark.parametrize(("number", "groups"), [(20, 1), (100, 2), (100, 50)])
def test_other_devices_find_the_same_centres_and_weights(number, groups, root):
    points, centres, _ = case(number, groups, lattice=True)
    index, weights = _three(points, centres, root)
    other_index, other_weights = _three_torch(points, centres, root)
    assert torch.equal(index, other_index)
    torch.testing.assert_close(weights, other_weights)


def test_a_centre_keeps_its_own_feature_and_equal_features_stay():
    _, centres, features = case(1, 12)
    torch.testing.assert_close(three_nearest(centres, centres, features), features, rtol=1e-6, atol=1e-6)
    points = case(200, 12)[0]
    torch.testing.assert_close(three_nearest(points, centres, torch.full_like(features, 4.0)), torch.full((2, 200, 5), 4.0).double())


def test_halfway_between_two_centres_and_at_a_third_of_the_way_by_hand():
    centres = torch.tensor([[[0.0, 0, 0], [3, 0, 0]]])
    points = torch.tensor([[[1.5, 0, 0], [1, 0, 0]]])
    features = torch.tensor([[[0.0], [1.0]]])
    # weights 1/1 and 1/4 at a third of the way
    torch.testing.assert_close(three_nearest(points, centres, features), torch.tensor([[[0.5], [0.2]]]))


def test_order_and_shift_change_nothing():
    points, centres, features = case(50, 20)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    found = three_nearest(points, centres, features)
    torch.testing.assert_close(three_nearest(points, centres[:, order], features[:, order]), found)
    torch.testing.assert_close(three_nearest(points + 2, centres + 2, features), found)


def test_gradients_are_those_of_finite_differences():
    for groups in (1, 2, 6):
        points, centres, features = case(9, groups)
        assert torch.autograd.gradcheck(lambda f, p=points, c=centres: three_nearest(p, c, f), (features.requires_grad_(),))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_features_of_half_precision_stay_so(dtype):
    points, centres, features = case(40, 10)
    low = features.to(dtype).requires_grad_()
    found = three_nearest(points.float(), centres.float(), low)
    found.float().sum().backward()
    assert found.dtype == low.grad.dtype == dtype
    torch.testing.assert_close(found.double(), three_nearest(points, centres, features), rtol=0.05, atol=0.05)


def test_a_point_that_is_not_finite_spoils_itself_alone():
    points, centres, features = case(70, 10)
    expected = three_nearest(points, centres, features)
    points[0, 3, 1] = float("nan")
    found = three_nearest(points, centres, features)
    assert not found[0, 3].isfinite().any()
    found[0, 3] = expected[0, 3]
    assert torch.equal(found, expected)


def test_the_number_of_threads_changes_nothing():
    points, centres, features = case(500, 30)
    features.requires_grad_()
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            y = three_nearest(points, centres, features)
            found.append([y, *torch.autograd.grad(y.sin().sum(), features)])
    finally:
        torch.set_num_threads(before)
    assert all(map(torch.equal, *found))


def test_no_centres_are_refused():
    with pytest.raises(ValueError, match="at least one centre"):
        three_nearest(torch.zeros(1, 4, 3), torch.zeros(1, 0, 3), torch.zeros(1, 0, 5))
