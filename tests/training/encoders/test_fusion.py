import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from training.encoders import Fusion, FusionConfig
from training.encoders.fusion import FusionBlock, SharedAffinity

MODES = ("mutual", "point_from_image", "shared_affinity", "joint", "none")
CROSS = ("mutual", "point_from_image", "shared_affinity")
WIDTH = 12


def make(mode: str, depth: int = 2) -> Fusion:
    """In double precision, weights large enough to matter."""
    torch.manual_seed(0)
    fusion = Fusion(FusionConfig(mode=mode, depth=depth, heads=3, mlp_ratio=2.0), WIDTH).double()
    for parameter in fusion.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.3)
    return fusion.requires_grad_(False)


def inputs(batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """points (B, 1 + 6, C), centres (B, 6, 3), images (B, 1 + 4, C)."""
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(batch, *shape, dtype=torch.float64, generator=generator) for shape in ((7, WIDTH), (6, 3), (5, WIDTH)))


def gates(fusion: Fusion) -> list[nn.Parameter]:
    return [parameter for name, parameter in fusion.named_parameters() if name.endswith("gate")]


def heads_of(x: Tensor, heads: int) -> list[Tensor]:
    size = x.shape[1] // heads
    return [x[:, head * size : (head + 1) * size] for head in range(heads)]


def softmax_attention(queries: Tensor, keys: Tensor, values: Tensor, heads: int) -> Tensor:
    """(L, C), (S, C), (S, C) -> (L, C), with loops over heads, queries and keys."""
    parts = []
    for q, k, v in zip(*(heads_of(x, heads) for x in (queries, keys, values)), strict=True):
        rows = []
        for query in q:
            weights = torch.stack([torch.exp(torch.dot(query, key) / len(query) ** 0.5) for key in k])
            rows.append(sum(weight * value for weight, value in zip(weights / weights.sum(), v, strict=True)))
        parts.append(torch.stack(rows))
    return torch.cat(parts, 1)


@pytest.mark.parametrize("mode", MODES)
def test_every_weight_serves_the_output_and_none_is_spare(mode):
    fusion = make(mode, depth=3).requires_grad_(True)
    fusion(*inputs()).sin().sum().backward()
    assert all(parameter.grad is not None and bool(parameter.grad.any()) for parameter in fusion.parameters())


@pytest.mark.parametrize("mode", CROSS)
def test_with_gates_at_zero_only_the_points_own_blocks_are_left(mode):
    fusion = make(mode)
    points, centres, images = inputs()
    assert [float(gate) for gate in gates(fusion)] == [1.0] * (2 if mode == "point_from_image" else 3)
    open_gates = fusion(points, centres, images)
    for gate in gates(fusion):
        gate.zero_()
    x = points
    position = torch.cat([fusion.cls_position.expand(2, -1, -1), fusion.position(centres)], 1)
    for block in fusion.blocks:
        x = block.points(x + position)
    torch.testing.assert_close(fusion(points, centres, images), x, rtol=1e-12, atol=1e-12)
    assert float((open_gates - x).abs().max()) > 1e-2


@pytest.mark.parametrize("mode", MODES)
def test_the_order_of_image_tokens_does_not_matter(mode):
    fusion = make(mode)
    points, centres, images = inputs()
    expected = fusion(points, centres, images)
    torch.testing.assert_close(fusion(points, centres, images[:, torch.tensor([3, 0, 4, 2, 1])]), expected, rtol=1e-10, atol=1e-10)
    points, centres, images = points.float(), centres.float(), images.float()
    single = fusion.float()(points, centres, images)
    turned = fusion(points, centres, images[:, torch.tensor([3, 0, 4, 2, 1])])
    assert float((turned - single).abs().max()) <= 1e-6 * float(single.abs().max())


@pytest.mark.parametrize("mode", MODES)
def test_another_image_changes_the_output_except_where_none_is_seen(mode):
    fusion = make(mode)
    points, centres, images = inputs()
    change = (fusion(points, centres, images.flip(0)) - fusion(points, centres, images)).abs().amax((1, 2))
    assert bool((change == 0).all()) if mode == "none" else bool((change > 1e-3).all())


@pytest.mark.parametrize("mode", MODES)
def test_a_sample_sees_no_other_sample_of_its_batch(mode):
    fusion = make(mode)
    alone = fusion(*(x[1:2] for x in inputs(3)))
    torch.testing.assert_close(fusion(*inputs(3))[1:2], alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_patches_in_another_order_give_tokens_in_that_order(mode):
    fusion = make(mode)
    points, centres, images = inputs()
    order = torch.tensor([5, 2, 0, 3, 1, 4])
    turned = fusion(torch.cat([points[:, :1], points[:, 1:][:, order]], 1), centres[:, order], images)
    expected = fusion(points, centres, images)
    torch.testing.assert_close(turned[:, 1:], expected[:, 1:][:, order], rtol=1e-11, atol=1e-11)
    assert float((fusion(points, centres[:, order], images) - expected).abs().max()) > 1e-3


@pytest.mark.parametrize("mode", CROSS)
def test_where_all_image_tokens_are_one_the_attention_to_them_is_irrelevant(mode):
    """Mixing equal values by any weights gives that value: what the points ask for cannot matter."""
    fusion = make(mode, depth=1)
    points, centres, images = inputs()
    constant = images[:, :1].expand(-1, 5, -1)
    exchange = fusion.blocks[0].exchange
    query = exchange.query if mode == "shared_affinity" else exchange.points.query

    def both_queries(tokens: Tensor) -> tuple[Tensor, Tensor]:
        before = fusion(points, centres, tokens)
        kept = query.weight.clone()
        query.weight.copy_(torch.randn_like(kept))
        after = fusion(points, centres, tokens)
        query.weight.copy_(kept)
        return before, after

    torch.testing.assert_close(*both_queries(constant), rtol=1e-11, atol=1e-11)
    before, after = both_queries(images)
    assert float((before - after).abs().max()) > 1e-3


def test_shared_affinity_reads_one_matrix_by_rows_and_by_columns():
    torch.manual_seed(0)
    exchange, heads = SharedAffinity(WIDTH, 3, both=True).double().requires_grad_(False), 3
    exchange.points.gate.fill_(0.7)
    exchange.images.gate.fill_(-1.3)
    points, _, images = inputs()
    for_points, for_images = exchange(points, images)
    for b in range(2):
        towards_points, towards_images = [], []
        sides = (points[b] @ exchange.query.weight.T, images[b] @ exchange.key.weight.T)
        values = (images[b] @ exchange.points.value.weight.T, points[b] @ exchange.images.value.weight.T)
        for q, k, of_images, of_points in zip(*(heads_of(x, heads) for x in (*sides, *values)), strict=True):
            scores = torch.tensor([[float(torch.dot(row, column)) / len(row) ** 0.5 for column in k] for row in q], dtype=torch.float64)
            by_rows, by_columns = torch.zeros(7, 4, dtype=torch.float64), torch.zeros(5, 4, dtype=torch.float64)
            for i in range(7):
                for j in range(5):
                    by_rows[i] += scores[i, j].exp() / sum(scores[i, other].exp() for other in range(5)) * of_images[j]
                    by_columns[j] += scores[i, j].exp() / sum(scores[other, j].exp() for other in range(7)) * of_points[i]
            towards_points.append(by_rows)
            towards_images.append(by_columns)
        expected = 0.7 * exchange.points.out(torch.cat(towards_points, 1)), -1.3 * exchange.images.out(torch.cat(towards_images, 1))
        torch.testing.assert_close((for_points[b], for_images[b]), expected, rtol=1e-11, atol=1e-11)


def test_mutual_blocks_exchange_from_the_states_before_the_exchange():
    torch.manual_seed(0)
    block = FusionBlock(WIDTH, 3, 2.0, "mutual", last=False).double().requires_grad_(False)
    for gate, value in ((block.exchange.points.gate, 0.6), (block.exchange.images.gate, 1.7)):
        gate.fill_(value)
    points, _, images = inputs(1)
    found = block(points, images)

    def cross(branch: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        key, value = (y @ weight.T for weight in branch.key_value.weight.chunk(2))
        return branch.gate * branch.out(softmax_attention(x @ branch.query.weight.T, key, value, 3))

    def itself(attention: nn.Module, x: Tensor) -> Tensor:
        return attention.out(softmax_attention(*(x @ weight.T for weight in attention.qkv.weight.chunk(3)), 3))

    p, q = points[0], images[0]
    p = p + itself(block.points.attention, block.points.norm1(p))
    q = q + itself(block.image_attention[1], block.image_attention[0](q))
    to_p = cross(block.exchange.points, block.point_norm(p), block.image_norm(q))
    to_q = cross(block.exchange.images, block.image_norm(q), block.point_norm(p))
    p, q = p + to_p, q + to_q
    p = p + block.points.mlp(block.points.norm2(p))
    q = q + block.image_mlp(q)
    torch.testing.assert_close((found[0][0], found[1][0]), (p, q), rtol=1e-11, atol=1e-11)


def test_the_image_stream_of_point_from_image_stays_as_it_came():
    block = FusionBlock(WIDTH, 3, 2.0, "point_from_image", last=False).double()
    points, _, images = inputs()
    assert block(points, images)[1] is images


def test_joint_is_self_attention_over_both_sets_of_tokens():
    fusion = make("joint")
    points, centres, images = inputs()
    position = torch.cat([fusion.cls_position.expand(2, -1, -1), fusion.position(centres)], 1)
    both = torch.cat([points + position, images], 1)
    both = fusion.blocks[0](both)
    both = fusion.blocks[1](both + torch.cat([position, torch.zeros_like(images)], 1))
    torch.testing.assert_close(fusion(points, centres, images), both[:, :7], rtol=1e-12, atol=1e-12)


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="width of 12 does not divide among the fusion's 5 heads"):
        Fusion(FusionConfig(heads=5), WIDTH)


@pytest.mark.parametrize("wrong", [{"mode": "both"}, {"depth": 0}, {"heads": 0}, {"mlp_ratio": 0.0}, {"width": 384}])
def test_a_configuration_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValidationError):
        FusionConfig(**wrong)
