"""The hash behind the random numbers of modules: SplitMix64 itself, evenly spread, and the same for a sample in any batch."""

import numpy as np
import pytest
import torch

from training.noise import fold, key_for, tensor_uniforms, uniforms

MASK = (1 << 64) - 1


def splitmix(state: int) -> int:
    """One output of SplitMix64 in Python's integers."""
    z = (state + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def test_the_numbers_are_those_of_splitmix64() -> None:
    # the first output for the seed 1234567 is published with the algorithm's C source
    assert splitmix(1234567) == 6457827717110365317
    keys = [0, 1, 1234567, (1 << 63) - 1]
    found = uniforms(torch.tensor(keys), 5).double().numpy()
    gamma = 0x9E3779B97F4A7C15
    wanted = [[min(((splitmix((key + i * gamma) & MASK) >> 40) + 0.5) / 2**24, 1 - 2**-24) for i in range(5)] for key in keys]
    np.testing.assert_allclose(found, wanted, rtol=1e-7)


@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5, 11), (0, 4)])
@pytest.mark.parametrize("threads", [1, 3])
def test_the_cpus_kernel_gives_the_bits_of_other_devices_operations(shape: tuple[int, ...], threads: int) -> None:
    keys = torch.randint(0, (1 << 63) - 1, (5,), generator=torch.Generator().manual_seed(0))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = uniforms(keys, *shape)
    finally:
        torch.set_num_threads(before)
    assert found.shape == (5, *shape)
    assert torch.equal(found, tensor_uniforms(keys, *shape))


def test_a_samples_numbers_do_not_depend_on_its_batch() -> None:
    keys = torch.tensor([key_for(3, 1, name) for name in "abcdef"])
    whole = uniforms(fold(keys, 4), 3, 7)
    for i in range(len(keys)):
        assert torch.equal(uniforms(fold(keys[i : i + 1], 4), 3, 7)[0], whole[i])


def test_numbers_are_uniform_and_independent_between_keys_streams_and_places() -> None:
    keys = torch.tensor([key_for(0, 0, str(i)) for i in range(400)])
    one, other = uniforms(fold(keys, 0), 500), uniforms(fold(keys, 1), 500)
    assert float(one.min()) > 0
    assert float(one.max()) < 1
    counts = torch.histc(one.flatten(), 50, 0, 1)
    assert float(((counts - 4000) ** 2 / 4000).sum()) < 95  # chi-square with 49 degrees of freedom: 1 in 10 000 above
    for a, b in ((one, other), (one[:-1], one[1:]), (one[:, :-1], one[:, 1:])):
        assert abs(float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])) < 0.01


def test_keys_differ_by_seed_epoch_and_sample() -> None:
    keys = {key_for(s, e, k) for s in range(3) for e in range(3) for k in ("a", "b", "1/a")}
    assert len(keys) == 27
    assert all(0 <= key < 1 << 63 for key in keys)
