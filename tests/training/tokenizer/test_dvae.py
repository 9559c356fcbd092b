"""The discrete VAE against plain formulas: its layers, its choice of tokens, its divergence, and what frozen means."""

import math

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from tests.training.tokenizer.tokenizer_cases import TINY
from training.ops.grouping import Patches
from training.tokenizer.dvae import (
    DVAE,
    DVAEConfig,
    EdgeLayer,
    FoldingDecoder,
    Graph,
    group_norm,
    gumbel_softmax,
    mean_log_distribution,
    uniformity,
)


def tiny(seed: int = 0) -> DVAE:
    torch.manual_seed(seed)
    return DVAE(DVAEConfig.model_validate(TINY))


def clouds(number: int) -> Tensor:
    return torch.randn(number, 128, 3, generator=torch.Generator().manual_seed(5))


def spread_norm(norm: nn.GroupNorm) -> None:
    """Scales of both signs, shifts."""
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)


def test_the_parameter_counts_of_the_released_sizes() -> None:
    model = DVAE(DVAEConfig())
    counts = {name: sum(p.numel() for p in child.parameters()) for name, child in model.named_children()}
    assert counts == {"patch_pointnet": 428_800, "encoder": 20_828_800, "decoder_graph": 2_528_384, "decoder": 1_737_755}
    assert model.codebook.numel() == 2_097_152
    assert sum(p.numel() for p in model.parameters()) == 27_620_891


def test_group_norm_with_channels_last_is_torchs() -> None:
    norm = nn.GroupNorm(4, 12).double()
    spread_norm(norm)
    x = torch.randn(3, 7, 12, dtype=torch.float64) * 5 + 40
    torch.testing.assert_close(group_norm(x, norm), norm(x.transpose(1, 2)).transpose(1, 2))


def edges_one_by_one(layer: EdgeLayer, f: Tensor, neighbours: Tensor) -> Tensor:
    """max over k of LeakyReLU(GroupNorm(Conv(f_j − f_i ‖ f_i))) as the formula stands: (B, G, C) -> (B, G, O)."""
    there = torch.stack([cloud[index] for cloud, index in zip(f, neighbours, strict=True)])
    here = f[:, :, None].expand_as(there)
    edges = (torch.cat([there - here, here], dim=-1) @ layer.linear.weight.T).permute(0, 3, 1, 2)
    normed = F.group_norm(edges, 4, layer.norm.weight, layer.norm.bias)
    return F.leaky_relu(normed, 0.2).amax(-1).transpose(1, 2)


def test_an_edge_layer_and_its_gradients_are_those_of_the_formula_over_all_edges() -> None:
    torch.manual_seed(1)
    layer = EdgeLayer(6, 16).double()
    spread_norm(layer.norm)
    assert (layer.norm.weight < 0).any()
    f = (torch.randn(3, 9, 6, dtype=torch.float64) + 3).requires_grad_()
    graph = Graph.of(torch.randn(3, 9, 3, dtype=torch.float64), 4)
    inputs = [f, *layer.parameters()]
    fast, slow = layer(f, graph), edges_one_by_one(layer, f, graph.neighbours)
    torch.testing.assert_close(fast, slow)
    up = torch.randn_like(slow)
    torch.testing.assert_close(torch.autograd.grad(fast, inputs, up), torch.autograd.grad(slow, inputs, up))


def test_an_edge_layer_in_float32_keeps_its_precision_far_from_the_origin() -> None:
    torch.manual_seed(1)
    layer, f = EdgeLayer(6, 16), torch.randn(2, 9, 6) + 100
    graph = Graph.of(torch.randn(2, 9, 3), 4)
    exact = edges_one_by_one(layer.double(), f.double(), graph.neighbours)
    torch.testing.assert_close(layer.float()(f, graph).double(), exact, rtol=0, atol=2e-4)


def test_the_graph_joins_each_centre_with_itself_and_its_nearest() -> None:
    centres = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [3, 0, 0], [7, 0, 0]]])
    graph = Graph.of(centres, 2)
    assert graph.neighbours.tolist() == [[[0, 1], [1, 0], [2, 1], [3, 2]]]
    assert graph.adjacency.tolist() == [[[1, 1, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]]


def test_the_decoder_folds_each_coarse_point_with_four_seeds() -> None:
    torch.manual_seed(2)
    decoder = FoldingDecoder(10, 16, 8).double().eval()
    h = torch.randn(5, 10, dtype=torch.float64)
    coarse, fine = decoder(h)
    torch.testing.assert_close(coarse, decoder.coarse(h).view(5, 2, 3))
    for point in range(2):
        for number, seed in enumerate([(-0.05, -0.05), (-0.05, 0.05), (0.05, -0.05), (0.05, 0.05)]):
            own = coarse[:, point]
            moved = decoder.fold(decoder.fold_in(torch.cat([h, torch.tensor(seed).double().expand(5, 2), own], dim=1)))
            torch.testing.assert_close(fine[:, 4 * point + number], own + moved, rtol=1e-6, atol=1e-7)


def divergence(logits: Tensor) -> Tensor:
    return uniformity(mean_log_distribution(logits))


def test_the_divergence_of_known_distributions() -> None:
    q = torch.tensor([1 / 2, 1 / 4, 1 / 8, 1 / 8])
    expected = 0.25 * math.log(2)
    assert divergence(q.log().expand(1, 3, 4)).item() == pytest.approx(expected, abs=1e-6)
    assert divergence(torch.full((2, 5, 7), 3.0)).abs().max() < 1e-6
    # the mean over patches, not the mean of the patches' divergences: each patch certain of another token is uniform
    assert divergence(torch.eye(4)[None] * 50).item() == pytest.approx(0, abs=1e-6)
    two = torch.stack([torch.zeros(3, 4), q.log().expand(3, 4)])
    torch.testing.assert_close(divergence(two), torch.tensor([0.0, expected]), atol=1e-6, rtol=0)


def test_the_divergence_of_huge_logits_is_finite_with_its_gradient() -> None:
    logits = torch.tensor([[[1e4, -1e4, 0.0], [1e4, -1e4, -1e4]]], requires_grad=True)
    value = divergence(logits)
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    assert value.isfinite().all()
    assert gradient.isfinite().all()


def test_a_hard_choice_is_one_hot_with_the_soft_gradient() -> None:
    logits = torch.randn(4, 6, 9, requires_grad=True)
    keys, weight = torch.arange(4), torch.randn(4, 6, 9)
    soft, hard = (gumbel_softmax(logits, 0.7, keys, hard) for hard in (False, True))
    assert torch.equal(hard.detach(), F.one_hot(soft.argmax(-1), 9).float())
    torch.testing.assert_close(*(torch.autograd.grad((choice * weight).sum(), logits)[0] for choice in (hard, soft)))


def test_tokens_are_drawn_with_the_probabilities_of_the_softmax() -> None:
    # Gumbel (1954): argmax(logits + noise) has the distribution softmax(logits), at every temperature
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0])
    drawn = gumbel_softmax(logits.expand(2000, 10, 4), 0.3, torch.arange(2000) * 977, hard=True).mean((0, 1))
    torch.testing.assert_close(drawn, logits.softmax(0), atol=0.012, rtol=0)


def test_a_samples_noise_comes_from_its_key_alone() -> None:
    logits, keys = torch.randn(4, 6, 9), torch.tensor([5, 7, 9, 5])
    torch.manual_seed(0)
    whole = gumbel_softmax(logits, 1.0, keys)
    torch.manual_seed(1)
    torch.testing.assert_close(gumbel_softmax(logits[2:3], 1.0, keys[2:3]), whole[2:3])
    same = gumbel_softmax(logits[:1].expand(4, -1, -1), 1.0, keys)
    assert torch.equal(same[0], same[3])
    assert not torch.allclose(same[0], same[1], atol=1e-3)


def test_a_frozen_tokenizer_gives_the_same_labels_whatever_happens_around_it() -> None:
    tokenizer = tiny()
    for _ in range(3):  # statistics other than those it starts with
        tokenizer(tokenizer.patch(clouds(6) * 2), 1.0, torch.arange(6))
    tokenizer.freeze()
    patches = tokenizer.patch(clouds(5))
    before = tokenizer.labels(patches)
    state = {name: value.clone() for name, value in tokenizer.state_dict().items()}
    alone = [tokenizer.labels(Patches(patches.centres[i : i + 1], patches.offsets[i : i + 1])) for i in range(5)]
    assert torch.equal(torch.cat(alone), before)
    parent = nn.ModuleDict({"tokenizer": tokenizer, "head": nn.Linear(32, 2)})
    optimizer = torch.optim.AdamW((p for p in parent.parameters() if p.requires_grad), lr=0.1, weight_decay=0.1)
    for mode in (True, False):
        parent.train(mode)
        assert torch.equal(tokenizer.labels(patches), before)
    parent.train()
    for _ in range(100):
        optimizer.zero_grad()
        parent["head"](tokenizer.logits(patches)).square().mean().backward()
        optimizer.step()
    assert torch.equal(tokenizer.labels(patches), before)
    assert all(torch.equal(value, state[name]) for name, value in tokenizer.state_dict().items())


def test_logits_depend_on_scale_but_not_on_place_or_the_order_of_points() -> None:
    tokenizer, points = tiny().double().freeze(), clouds(2).double()
    patches = tokenizer.patch(points)
    logits = tokenizer.logits(patches)
    torch.testing.assert_close(tokenizer.logits(tokenizer.patch(points + torch.tensor([2.0, -1.0, 0.5]).double())), logits)
    order = torch.randperm(patches.offsets.shape[2])
    torch.testing.assert_close(tokenizer.logits(Patches(patches.centres, patches.offsets[:, :, order])), logits)
    assert (tokenizer.logits(tokenizer.patch(points * 2)) - logits).abs().max() > 1e-3


def test_a_reconstruction_without_noise_uses_the_labels_tokens() -> None:
    tokenizer = tiny().freeze()
    patches = tokenizer.patch(clouds(2))
    before = tokenizer.reconstruct(patches)
    assert before.coarse.shape == (2, 8, 2, 3)
    assert before.fine.shape == (2, 8, 8, 3)
    used = tokenizer.labels(patches).unique()
    with torch.no_grad():
        tokenizer.codebook[torch.ones(32, dtype=torch.bool).index_fill(0, used, False)] += 7  # vectors of tokens that are not chosen
    torch.testing.assert_close(tokenizer.reconstruct(patches).fine, before.fine)
    with torch.no_grad():
        tokenizer.codebook[used] += 1 + torch.arange(16)
    assert not torch.allclose(tokenizer.reconstruct(patches).fine, before.fine)


@pytest.mark.parametrize(
    ("change", "reason"), [({"vocabulary": 30}, "multiple of 4"), ({"group_size": 10}, "multiple of 4"), ({"k": 9}, "8 groups")]
)
def test_sizes_that_cannot_be_are_refused(change: dict[str, int], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        DVAEConfig.model_validate(TINY | change)
