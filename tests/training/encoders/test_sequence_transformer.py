import pytest
import torch

from tests.training.encoders.video_cases import plain_transformer
from training.encoders.sequence_transformer import SequenceBlock, SequenceTransformer, time_steps
from training.noise import fold


def test_it_is_the_written_out_formula_in_values_and_gradients():
    torch.manual_seed(0)
    network = SequenceTransformer(6, 2, heads=3, head_dim=4, mlp_width=5).double()
    x = torch.randn(2, 4, 6, dtype=torch.float64, requires_grad=True)
    found, expected = network(x), torch.stack([plain_transformer(network, rows) for rows in x])
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
    wanted = [x, *(p for name, p in network.named_parameters() if "norm" not in name)]
    ours, theirs = (torch.autograd.grad(y.sin().sum(), wanted) for y in (found, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


def test_one_block_has_the_published_number_of_parameters_and_no_bias_on_queries_keys_and_values():
    with torch.device("meta"):
        block = SequenceBlock(2048, 8, 128, 1024)
    # two norms, qkv, output, two layers
    assert sum(p.numel() for p in block.parameters()) == 2 * 4096 + 2048 * 3072 + 1024 * 2048 + 2048 + 2 * 2048 * 1024 + 1024 + 2048
    assert block.qkv.bias is None


def test_a_sample_drops_the_same_alone_and_in_any_batch_and_nothing_without_keys_or_in_eval_mode():
    torch.manual_seed(0)
    network = SequenceTransformer(8, 2, 2, 4, 8, drop_path=0.4, dropout=0.3).double().train()
    x, keys = torch.randn(12, 3, 8, dtype=torch.float64), torch.randint(2**62, (6,))  # two rows a sample
    before = torch.random.get_rng_state()
    together = network(x, keys)
    for sample in range(6):
        alone = network(x[2 * sample : 2 * sample + 2], keys[sample : sample + 1])
        torch.testing.assert_close(alone, together[2 * sample : 2 * sample + 2], rtol=1e-12, atol=1e-12)
    assert torch.equal(torch.random.get_rng_state(), before)
    plain = network(x)
    assert not torch.allclose(plain, together)
    assert not torch.allclose(network(x, keys + 1), together)
    network.eval()
    torch.testing.assert_close(network(x, keys), plain, rtol=1e-12, atol=1e-12)


def test_drop_path_drops_a_samples_rows_together_and_keeps_the_mean():
    block = SequenceBlock(4, 1, 4, 4, drop_path=0.3).train()
    kept = block._path(torch.ones(20_000, 2, 4), fold(torch.arange(10_000), 3), 1)
    by_sample = kept.view(10_000, -1)
    assert bool((by_sample == by_sample[:, :1]).all())
    share = float((by_sample[:, 0] == 0).double().mean())
    assert abs(share - 0.3) < 4 * (0.3 * 0.7 / 10_000) ** 0.5
    assert float(kept.double().mean()) == pytest.approx((1 - share) / 0.7)


def test_dropout_drops_single_numbers_with_its_probability_and_keeps_the_mean():
    block = SequenceBlock(4, 1, 4, 4, dropout=0.25).train()
    kept = block._dropout(torch.ones(200, 10, 50), fold(torch.arange(100), 3), 0)
    assert kept.unique().tolist() == [0.0, pytest.approx(1 / 0.75)]
    share = float((kept == 0).double().mean())
    assert abs(share - 0.25) < 4 * (0.25 * 0.75 / kept.numel()) ** 0.5


def test_blocks_of_two_networks_draw_from_streams_of_their_own():
    first, second = (SequenceTransformer(4, 2, 1, 4, 4, drop_path=0.5, first_number=number).train() for number in (0, 2))
    keys = torch.arange(3_000)
    network = [*first.blocks, *second.blocks]
    dropped = torch.stack([block._path(torch.ones(3_000, 1), keys, stream)[:, 0] == 0 for block in network for stream in (1, 4)]).double()
    assert float((torch.corrcoef(dropped) - torch.eye(8)).abs().max()) < 4.5 / 3_000**0.5


def test_times_count_from_one_and_are_shifted_by_a_clips_own_number():
    like = torch.zeros(1, dtype=torch.float64)
    assert time_steps(4, like, 0, torch.arange(3)).tolist() == [[1.0, 2.0, 3.0, 4.0]]
    assert time_steps(4, like, 5, None).tolist() == [[1.0, 2.0, 3.0, 4.0]]
    shifted = time_steps(4, like, 5, torch.arange(3_000)) - time_steps(4, like, 0, None)
    assert bool((shifted == shifted[:, :1]).all())
    counts = shifted[:, 0].long().bincount(minlength=6)
    assert len(counts) == 6
    assert float((counts / 3_000 - 1 / 6).abs().max()) < 4 * (5 / 36 / 3_000) ** 0.5
    assert torch.equal(time_steps(4, like, 5, torch.arange(7, 9)) - time_steps(4, like, 0, None), shifted[7:9])
