"""A module that follows another as an exponential moving average (He et al. 2020, arXiv 1911.05722)."""

from __future__ import annotations

import copy
from typing import Self

import torch
from torch import nn


class Frozen(nn.ModuleDict):
    """Modules by name that take no gradient and stay in eval mode whatever the parent's mode is."""

    def __init__(self, modules: dict[str, nn.Module]) -> None:
        super().__init__(modules)
        self.requires_grad_(False)
        super().train(False)

    def train(self, mode: bool = True) -> Self:
        return self


def teacher(**students: nn.Module) -> Frozen:
    """Copies of the students."""
    return Frozen({name: copy.deepcopy(student) for name, student in students.items()})


@torch.no_grad()
def follow(copies: Frozen, students: dict[str, nn.Module], momentum: float) -> None:
    """θᵐ ← m θᵐ + (1 − m) θ for every parameter; buffers are copied."""
    for name, student in students.items():
        moved, towards = [[p.detach() for p in each.parameters()] for each in (copies[name], student)]
        if moved:
            torch._foreach_lerp_(moved, towards, 1 - momentum)
        for buffer, source in zip(copies[name].buffers(), student.buffers(), strict=True):
            buffer.copy_(source)
