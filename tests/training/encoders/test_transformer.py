import pytest
import torch
from torch import Tensor, nn

from training.encoders.transformer import Attention, Block, attend, blocks, drop_path
from training.noise import fold


def written_out(attention: Attention, x: Tensor) -> Tensor:
    """Softmax attention with a loop over heads and tokens, of (L, C)."""
    width = x.shape[1]
    size = width // attention.heads
    weight = attention.qkv.weight
    rows = []
    for token in x:
        parts = []
        for head in range(attention.heads):
            own = slice(head * size, (head + 1) * size)
            q = weight[:width][own] @ token
            k = x @ weight[width : 2 * width][own].T
            v = x @ weight[2 * width :][own].T
            scores = torch.exp(k @ q / size**0.5)
            parts.append((scores / scores.sum()) @ v)
        rows.append(attention.out.weight @ torch.cat(parts) + attention.out.bias)
    return torch.stack(rows)


def test_attention_is_the_softmax_formula_in_values_and_gradients():
    torch.manual_seed(0)
    attention = Attention(12, 3).double()
    x = torch.randn(2, 7, 12, dtype=torch.float64, requires_grad=True)
    found, expected = attention(x), torch.stack([written_out(attention, cloud) for cloud in x])
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
    towards = torch.randn_like(found)
    wanted = [x, *attention.parameters()]
    ours = torch.autograd.grad((found * towards).sum(), wanted)
    theirs = torch.autograd.grad((expected * towards).sum(), wanted)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_gradients_of_fused_attention_are_its_finite_differences():
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, length, 4, dtype=torch.float64, requires_grad=True) for length in (3, 5, 5))
    assert torch.autograd.gradcheck(lambda *qkv: attend(*qkv, heads=2), (q, k, v))


def test_one_block_has_the_published_number_of_parameters_and_no_bias_on_queries_keys_and_values():
    block = Block(384, 6, 4.0, 0.1)
    assert sum(parameter.numel() for parameter in block.parameters()) == 1_773_312
    assert block.attention.qkv.bias is None


def test_a_block_is_pre_norm_with_gelu():
    torch.manual_seed(0)
    block = Block(8, 2, 4.0, 0.0).double()
    for norm in (block.norm1, block.norm2):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    x = torch.randn(3, 5, 8, dtype=torch.float64)

    def normed(y: Tensor, norm: nn.LayerNorm) -> Tensor:
        centred = y - y.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm.weight + norm.bias

    middle = x + torch.stack([written_out(block.attention, cloud) for cloud in normed(x, block.norm1)])
    h = normed(middle, block.norm2) @ block.mlp[0].weight.T + block.mlp[0].bias
    h = h * 0.5 * (1 + torch.erf(h / 2**0.5))
    expected = middle + h @ block.mlp[2].weight.T + block.mlp[2].bias
    torch.testing.assert_close(block(x), expected, rtol=1e-10, atol=1e-10)


def test_drop_path_drops_whole_samples_with_its_probability_and_keeps_the_mean():
    keys = fold(torch.arange(20_000), 5)
    dropped = drop_path(torch.ones(20_000, 2, 3, dtype=torch.float64), 0.3, keys)
    assert bool((dropped == dropped[:, :1, :1]).all())
    assert set(dropped[:, 0, 0].tolist()) == {0.0, 1 / (1 - 0.3)}
    share = float((dropped[:, 0, 0] == 0).double().mean())
    assert abs(share - 0.3) < 4 * (0.3 * 0.7 / 20_000) ** 0.5
    assert float(dropped.mean()) == pytest.approx((1 - share) / 0.7)


def branches_dropped(block: Block, x: Tensor, keys: Tensor) -> list[tuple[bool, bool]]:
    """Which of the two branches left no trace: attention, feed-forward."""
    middle = block.attended(x, keys)
    after = block.fed(middle, keys)
    return [(bool(torch.equal(a, b)), bool(torch.equal(b, c))) for a, b, c in zip(x, middle, after, strict=True)]


def test_the_branches_of_a_network_drop_independently_of_each_other():
    torch.manual_seed(0)
    x, keys = torch.randn(2_000, 1, 4), torch.arange(2_000)
    network = [Block(4, 1, 1.0, 0.5, number).train() for number in range(4)]
    dropped = torch.cat([torch.tensor(branches_dropped(block, x, keys)).T for block in network]).double()
    off_diagonal = torch.corrcoef(dropped) - torch.eye(8)
    assert float(off_diagonal.abs().max()) < 4.5 / 2_000**0.5
    assert float((dropped.mean(1) - 0.5).abs().max()) < 4.5 * 0.5 / 2_000**0.5


def test_a_sample_drops_the_same_branches_alone_and_in_any_batch():
    torch.manual_seed(0)
    network = blocks(8, 4, 2, 2.0, 0.9).train()
    x, keys = torch.randn(24, 3, 8), torch.randint(2**62, (24,))
    order = torch.randperm(24)
    seen = set()
    for block in network:
        together = branches_dropped(block, x, keys)
        assert [branches_dropped(block, x[i : i + 1], keys[i : i + 1])[0] for i in range(24)] == together
        assert branches_dropped(block, x[order], keys[order]) == [together[i] for i in order]
        seen |= set(together)
    assert seen == {(False, False), (False, True), (True, False), (True, True)}


def test_nothing_is_random_without_keys_or_in_eval_mode():
    torch.manual_seed(0)
    block, x, keys = Block(8, 2, 2.0, 0.9, number=3).train(), torch.randn(16, 3, 8), torch.arange(16)
    plain = block(x)
    assert not torch.equal(block(x, keys), plain)
    assert torch.equal(block(x), plain)
    before = torch.random.get_rng_state()
    assert torch.equal(block(x, keys), block(x, keys))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(block.eval()(x, keys), plain)


def test_drop_path_rises_linearly_and_blocks_draw_from_streams_of_their_own():
    network = blocks(8, 4, 2, 2.0, 0.3)
    assert [block.drop_path for block in network] == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert [block.number for block in network] == [0, 1, 2, 3]
    assert blocks(8, 1, 2, 2.0, 0.3)[0].drop_path == 0.0
