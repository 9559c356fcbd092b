"""The queue holds the last K of all keys, in order, whatever the size of what comes."""

import pytest
import torch

from training.key_queue import KeyQueue


@pytest.mark.parametrize(("size", "sizes"), [(10, [3, 3, 3, 3, 3]), (10, [4, 25, 1]), (7, [7, 7]), (5, [1] * 13), (8, [2])])
def test_the_content_is_the_end_of_a_plain_list(size: int, sizes: list[int]) -> None:
    queue, plain, ids = KeyQueue(size, 4), [], []
    for step, count in enumerate(sizes):
        keys = torch.randn(count, 4, generator=torch.Generator().manual_seed(step))
        queue.enqueue(keys, torch.arange(count) + 100 * step)
        plain += list(keys)
        ids += (torch.arange(count) + 100 * step).tolist()
        found, found_ids = queue.content()
        oldest = int(queue.added) % size if int(queue.added) > size else 0
        in_order = torch.roll(found_ids, -oldest).tolist()
        assert in_order == ids[-size:]
        assert torch.equal(torch.roll(found, -oldest, dims=0), torch.stack(plain[-size:]))


def test_a_queue_that_begins_with_noise_is_full_of_unit_keys_of_nobody() -> None:
    keys, ids = KeyQueue(6, 4, "noise").content()
    assert keys.shape == (6, 4)
    assert torch.allclose(keys.norm(dim=1), torch.ones(6))
    assert (ids == -1).all()


def test_its_state_goes_through_a_checkpoint() -> None:
    queue, other = KeyQueue(6, 4), KeyQueue(6, 4)
    queue.enqueue(torch.randn(4, 4), torch.arange(4))
    other.load_state_dict(queue.state_dict())
    queue.enqueue(torch.ones(4, 4), torch.arange(4))
    other.enqueue(torch.ones(4, 4), torch.arange(4))
    assert torch.equal(queue.content()[0], other.content()[0])
    assert torch.equal(queue.content()[1], other.content()[1])
