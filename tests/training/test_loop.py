"""Schedules, weight decay by kind of parameter, clipping, and what happens between epochs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from training.distributed import World
from training.journal import curves
from training.loop import FitConfig, OptimizerConfig, Place, Trained, fit, learning_rate, make_optimizer, step_once


class Line(Trained):
    """Fits y = w·x; counts what the loop tells it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, 2))
        self.cls_token = nn.Parameter(torch.ones(1, 2))
        self.bias = nn.Parameter(torch.zeros(1))
        self.token_head = nn.Linear(2, 2)  # no token, though it predicts them
        self.seen: list[float] = []
        self.steps = 0

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        self.seen.append(self.progress)
        loss = (
            (batch["x"] @ self.weight.T + self.bias + 0 * self.cls_token.sum() + 0 * self.token_head(batch["x"]).sum() - batch["y"])
            .square()
            .mean()
        )
        return loss, {"loss_line": loss.detach()}

    def after_step(self) -> None:
        self.steps += 1

    def rate_factor(self, parameter: str) -> float:
        return 0.5 if parameter == "bias" else 1.0


def prepare(index: int, epoch: int) -> dict[str, Any]:
    x = np.array([index % 3, index % 5], np.float32)
    return {"x": x, "y": x[:1] * 2 + 1}


def run(folder: Path, after_epoch: Any = None, **fit_values: Any) -> Line:
    module = Line()
    config = FitConfig.model_validate({"epochs": 3, "batch": 4, **fit_values})
    fit(module, prepare, np.arange(8), config, folder, {}, World(), Place(device="cpu", threads=1), after_epoch)
    return module


# Point-BERT's run: 301 epochs, 3 of warm-up, base 5e-4, floor 1e-6. By hand from the formula of its schedule.
@pytest.mark.parametrize(
    ("epoch", "rate"),
    [(0, 1e-6), (1, 1e-6), (2, 1e-6 + (5e-4 - 1e-6) / 3), (4, 4.99876929e-4), (151, 2.505e-4), (300, 1.0136802e-6)],
)
def test_the_released_warm_schedule_repeats_its_first_epoch(epoch: int, rate: float) -> None:
    config = OptimizerConfig(lr=5e-4, schedule="cosine_warm_compat", warmup_epochs=3, floor=1e-6)
    assert learning_rate(config, epoch * 11 + 4, 11, 301) == pytest.approx(rate, rel=1e-6)


@pytest.mark.parametrize(("epoch", "rate"), [(0, 1e-6), (1, 1e-6 + (5e-4 - 1e-6) / 3), (3, 4.99876929e-4), (150, 2.505e-4)])
def test_the_clean_warm_schedule_does_not(epoch: int, rate: float) -> None:
    config = OptimizerConfig(lr=5e-4, schedule="cosine_warm", warmup_epochs=3, floor=1e-6)
    assert learning_rate(config, epoch * 11, 11, 300) == pytest.approx(rate, rel=1e-6)


def test_biases_norms_and_tokens_are_spared_from_decay_and_factors_make_groups() -> None:
    module = Line()
    optimizer = make_optimizer(OptimizerConfig(weight_decay=0.1, decoupled=True, spare_vectors=True), module)
    found = {
        (group["weight_decay"], group["factor"]): {name for name, p in module.named_parameters() if any(p is q for q in group["params"])}
        for group in optimizer.param_groups
    }
    assert found == {(0.1, 1.0): {"weight", "token_head.weight"}, (0.0, 1.0): {"cls_token", "token_head.bias"}, (0.0, 0.5): {"bias"}}


def test_the_gradient_is_clipped_to_its_norm_and_reported_before() -> None:
    module = Line()
    batch = {"x": torch.full((4, 2), 100.0), "y": torch.full((4, 1), 7.0)}
    plain = torch.optim.SGD([{"params": list(module.parameters()), "factor": 1.0}], lr=1.0)
    _, terms = step_once(module, batch, plain, "float32", World(), clip=2.0)
    # d/dw (w·x + b − 7)² at 0 is −14·100 for each weight, −14 for the bias
    assert float(terms["grad_norm"]) == pytest.approx(14 * (2 * 100**2 + 1) ** 0.5, rel=1e-5)
    moved = torch.cat([module.weight.detach().flatten(), module.bias.detach()])
    assert float(moved.norm()) == pytest.approx(2.0, rel=1e-5)


def test_a_module_hears_of_progress_and_of_each_step(tmp_path: Path) -> None:
    module = run(tmp_path)
    assert module.steps == 6
    assert module.seen == pytest.approx([i / 6 for i in range(6)])


def test_what_follows_an_epoch_sees_eval_mode_and_reaches_the_journal(tmp_path: Path) -> None:
    heard: list[tuple[int, bool]] = []
    holder: list[Line] = []

    class Listening(Line):
        def __init__(self) -> None:
            super().__init__()
            holder.append(self)

    def after_epoch(epoch: int) -> dict[str, float]:
        heard.append((epoch, holder[0].training))
        return {"validation": 10.0 + epoch}

    module = Listening()
    config = FitConfig(epochs=3, batch=4)
    fit(module, prepare, np.arange(8), config, tmp_path, {}, World(), Place(device="cpu", threads=1, log_every=100), after_epoch)
    assert heard == [(0, False), (1, False), (2, False)]
    assert module.training
    assert curves(tmp_path / "journal.jsonl")["validation"] == [(2, 10.0), (4, 11.0), (6, 12.0)]


def test_the_factor_scales_the_rate(tmp_path: Path) -> None:
    first, second = Line(), Line()
    second.rate_factor = lambda parameter: 1.0  # type: ignore[method-assign]
    for module, place in ((first, "a"), (second, "b")):
        config = FitConfig.model_validate({"epochs": 1, "batch": 8, "optimizer": {"lr": 0.1, "weight_decay": 0.0, "schedule": "constant"}})
        fit(module, prepare, np.arange(8), config, tmp_path / place, {}, World(), Place(device="cpu", threads=1))
    # Adam's first step has the length of the rate
    assert float(first.bias.detach()) == pytest.approx(0.05, rel=1e-4)
    assert float(second.bias.detach()) == pytest.approx(0.1, rel=1e-4)


# 0.01 after 2 epochs of 5 steps, a tenth from epoch 4 on, a tenth of that from epoch 6 on; by hand from its formula
@pytest.mark.parametrize(
    ("step", "rate"), [(0, 1e-7), (5, 0.005 + 0.5e-7), (9, 0.009 + 1e-8), (10, 0.01), (19, 0.01), (20, 1e-3), (29, 1e-3), (30, 1e-4)]
)
def test_the_rate_that_rises_by_steps_and_falls_at_milestones(step: int, rate: float) -> None:
    config = OptimizerConfig(kind="sgd", lr=0.01, schedule="warm_steps", warmup_epochs=2, milestones=(4, 6))
    assert learning_rate(config, step, 5, 8) == pytest.approx(rate, rel=1e-12)


def test_sgd_is_momentum_on_the_gradient_with_decay() -> None:
    module = Line()
    with torch.no_grad():
        module.weight.fill_(1.0)
    config = OptimizerConfig(kind="sgd", lr=0.1, momentum=0.5, weight_decay=0.2, schedule="constant")
    optimizer = make_optimizer(config, module)
    batch = {"x": torch.tensor([[1.0, 2.0]]), "y": torch.tensor([[0.0]])}
    weight, bias, velocity = np.array([1.0, 1.0]), 0.0, np.zeros(3)
    for _ in range(3):
        step_once(module, batch, optimizer, "float32", World())
        error = weight @ [1.0, 2.0] + bias
        gradient = 2 * error * np.array([1.0, 2.0, 1.0]) + 0.2 * np.array([*weight, bias])
        velocity = 0.5 * velocity + gradient
        weight, bias = weight - 0.1 * velocity[:2], bias - 0.1 * velocity[2]
    np.testing.assert_allclose(module.weight.detach().numpy()[0], weight, rtol=1e-5)
    np.testing.assert_allclose(module.bias.detach().numpy(), bias, rtol=1e-5)
