"""Momentum copies: the closed form of their average, no gradient, eval mode for ever, buffers copied."""

import pytest
import torch
from torch import nn

from training.momentum import follow, teacher


@pytest.mark.parametrize("momentum", [0.0, 0.9, 1.0])
def test_after_scripted_steps_the_copy_is_the_closed_form(momentum: float) -> None:
    student = nn.Linear(3, 2).double()
    copies = teacher(net=student)
    start = student.weight.detach().clone()
    script = [torch.full((2, 3), float(n), dtype=torch.float64) for n in range(1, 6)]
    for value in script:
        with torch.no_grad():
            student.weight.copy_(value)
        follow(copies, {"net": student}, momentum)
    n = len(script)
    wanted = momentum**n * start + sum((1 - momentum) * momentum ** (n - 1 - i) * value for i, value in enumerate(script))
    weight = next(copies["net"].parameters())
    torch.testing.assert_close(weight, wanted, rtol=1e-12, atol=1e-12)
    if momentum == 1.0:
        assert torch.equal(weight, start)
    if momentum == 0.0:
        assert torch.equal(weight, script[-1])


def test_copies_take_no_gradient_and_stay_in_eval_mode_under_a_training_parent() -> None:
    parent = nn.Module()
    parent.net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    parent.copies = teacher(net=parent.net)
    parent.train()
    assert parent.net.training
    assert not any(module.training for module in parent.copies.modules())
    assert not any(parameter.requires_grad for parameter in parent.copies.parameters())


def test_buffers_are_copied_not_averaged() -> None:
    student = nn.BatchNorm1d(2)
    copies = teacher(net=student)
    student(torch.randn(8, 2))
    follow(copies, {"net": student}, 0.99)
    for ours, theirs in zip(copies["net"].buffers(), student.buffers(), strict=True):
        assert torch.equal(ours, theirs)
