"""A queue of momentum keys with the ids of their samples, first in, first out (He et al. 2020, arXiv 1911.05722; ids as in ALBEF)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn


class KeyQueue(nn.Module):
    """keys (K, D) of length 1 and ids (K,) int64, which are state. All ranks enqueue the global batch, so their queues are equal.

    start: "counted" begins empty; "noise" begins full of random directions with id −1, as MoCo's code does.
    """

    keys: Tensor
    ids: Tensor
    added: Tensor

    def __init__(self, size: int, width: int, start: Literal["counted", "noise"] = "counted") -> None:
        super().__init__()
        noise = start == "noise"
        self.register_buffer("keys", nn.functional.normalize(torch.randn(size, width), dim=1) if noise else torch.zeros(size, width))
        self.register_buffer("ids", torch.full((size,), -1))
        self.register_buffer("added", torch.zeros((), dtype=torch.int64))
        self._noise = noise

    def content(self) -> tuple[Tensor, Tensor]:
        """The filled part: keys (F, D), ids (F,)."""
        filled = len(self.keys) if self._noise else min(int(self.added), len(self.keys))
        return self.keys[:filled], self.ids[:filled]

    @torch.no_grad()
    def enqueue(self, keys: Tensor, ids: Tensor) -> None:
        """Puts keys (b, D) and ids (b,) in, in order, over the oldest. b need not divide K, and may exceed it."""
        size = len(self.keys)
        places = (self.added + torch.arange(len(keys), device=keys.device)) % size
        self.keys[places[-size:]] = keys[-size:].to(self.keys.dtype)
        self.ids[places[-size:]] = ids[-size:]
        self.added += len(keys)
