import torch

from training.ops.linear_max import linear_max


def test_equals_a_product_and_its_maximum_in_values_and_gradients():
    torch.manual_seed(0)
    for sets in (1, 5, 37):  # fewer and more sets than parts of the weight's gradient
        a, weight = torch.randn(sets, 7, 6, dtype=torch.float64), torch.randn(9, 6, dtype=torch.float64)
        inputs = a.requires_grad_(), weight.requires_grad_()
        found, expected = linear_max(*inputs), (a @ weight.T).amax(1)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        towards = torch.randn_like(found)
        ours, theirs = (torch.autograd.grad(y, inputs, towards) for y in (found, expected))
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_what_is_not_a_number_is_the_largest():
    a = torch.randn(4, 3, 2)
    a[2, 1, 0] = torch.nan
    assert linear_max(a, torch.eye(2)).isnan().tolist() == [[False, False], [False, False], [True, True], [False, False]]


def test_no_sets_have_no_maxima_and_threads_change_no_bit():
    assert linear_max(torch.empty(0, 3, 4), torch.empty(5, 4)).shape == (0, 5)
    torch.manual_seed(0)
    a, weight, before, results = torch.randn(50, 8, 6), torch.randn(11, 6), torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            inputs = a.clone().requires_grad_(), weight.clone().requires_grad_()
            found = linear_max(*inputs)
            results.append((found, *torch.autograd.grad(found.square().sum(), inputs)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(x, y) for x, y in zip(*results, strict=True))
