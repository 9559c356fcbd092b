"""CrossPoint's module: sizes of the paper, the loss as the formula says, and what a step is given."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from pipeline.reader import Dataset
from training.encoders import DGCNNConfig, PointNetConfig, ResNetConfig
from training.objectives import CrossPoint, CrossPointConfig
from training.objectives.crosspoint import prepare


def parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_parameter_counts_at_the_papers_size() -> None:
    module = CrossPoint(CrossPointConfig(), DGCNNConfig())
    assert parameters(module.encoder) == 617_856
    assert parameters(module.point_head) == 2_362_624
    assert parameters(module.image_head) == 1_180_672


def reference(a: torch.Tensor, b: torch.Tensor, temperature: float) -> torch.Tensor:
    """NT-Xent row by row from its formula."""
    u = functional.normalize(torch.cat([a, b]), dim=1)
    n, total = len(a), torch.zeros((), dtype=a.dtype)
    for i in range(2 * n):
        others = torch.stack([torch.exp(u[i] @ u[m] / temperature) for m in range(2 * n) if m != i]).sum()
        total = total - torch.log(torch.exp(u[i] @ u[(i + n) % (2 * n)] / temperature) / others)
    return total / (2 * n)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.5, 2.0)])
def test_the_loss_is_the_formula_over_the_modules_own_embeddings(weights: tuple[float, float]) -> None:
    torch.manual_seed(0)
    config = CrossPointConfig(
        image=ResNetConfig(depth=10, width=4), projection=8, intra_modal_weight=weights[0], cross_modal_weight=weights[1]
    )
    module = CrossPoint(config, PointNetConfig()).double()
    batch = {name: torch.randn(4, 32, 3, dtype=torch.float64) for name in ("view1", "view2")}
    batch["image"] = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    batch["noise"] = torch.arange(4)
    loss, terms = module(batch)
    # both views are one batch, so the reference must ask for them together
    z1, z2 = module.feature_head(module.encoder(torch.cat([batch["view1"], batch["view2"]]))).chunk(2)
    h = module.image_branch(batch["image"])
    intra, cross = reference(z1, z2, 0.1), reference((z1 + z2) / 2, h, 0.1)
    assert float(terms["loss_intra"]) == pytest.approx(float(intra.detach()), abs=1e-9)
    assert float(terms["loss_cross"]) == pytest.approx(float(cross.detach()), abs=1e-9)
    assert float(loss.detach()) == pytest.approx(float((weights[0] * intra + weights[1] * cross).detach()), abs=1e-9)


def test_gradients_reach_both_branches_and_the_image_branch_only_through_the_cross_modal_term() -> None:
    torch.manual_seed(0)
    config = CrossPointConfig(image=ResNetConfig(depth=10, width=4), projection=8, cross_modal_weight=0.0)
    module = CrossPoint(config, PointNetConfig())
    batch = {"view1": torch.randn(4, 32, 3), "view2": torch.randn(4, 32, 3), "image": torch.randn(4, 3, 32, 32)}
    batch["noise"] = torch.arange(4)
    module(batch)[0].backward()
    assert all(not p.grad.any() for p in module.image_encoder.parameters() if p.grad is not None)
    assert any(p.grad is not None and p.grad.any() for p in module.encoder.parameters())


def test_what_an_object_brings_is_a_function_of_seed_epoch_and_key(small_dataset: str) -> None:
    data = Dataset.open(small_dataset)
    config = CrossPointConfig()
    first, again = prepare(config, data, 3, 5, 7), prepare(config, Dataset.open(small_dataset), 3, 5, 7)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    shapes = {"view1": (128, 3), "view2": (128, 3), "image": (3, 224, 224), "noise": ()}
    assert {name: value.shape for name, value in first.items()} == shapes
    for other in (prepare(config, data, 3, 5, 8), prepare(config, data, 3, 6, 7), prepare(config, data, 4, 5, 7)):
        assert not np.array_equal(first["view1"], other["view1"])
    assert not np.array_equal(first["view1"], first["view2"])


def test_every_view_is_drawn_sooner_or_later(small_dataset: str) -> None:
    data = Dataset.open(small_dataset)
    config = CrossPointConfig.model_validate({"image_augment": {"size": 48, "brightness": 0, "contrast": 0, "saturation": 0, "flip": 0}})
    seen = {prepare(config, data, 0, 0, epoch)["image"].tobytes() for epoch in range(40)}
    assert len(seen) == 3
