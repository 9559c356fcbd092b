"""Batch-norm statistics for random weights.

As initialised, mean 0 and variance 1, they let an encoder with small weights pass on almost nothing of its input. A comparison with
such an encoder would be too easy, so the twin with random weights is given the statistics of training clouds, as a trained one has them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


def settle(
    encoder: nn.Module,
    clouds: Iterable[NDArray[np.float32]],
    device: torch.device | str,
    batch: int,
    run: Callable[[Tensor], Tensor] | None = None,
) -> None:
    """Sets the running statistics of every batch norm to their mean over batches of (N, 3) clouds; no weight changes, nor the mode.

    run: the pass that gets there, where `encoder` is a part of what reads the clouds, such as a head. A last batch smaller than `batch` is
    left out unless it is the only one.
    """
    norms = [module for module in encoder.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    training, momenta = encoder.training, [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over batches
    encoder.train()
    waiting, seen = iter(clouds), 0
    try:
        with torch.no_grad():
            while chunk := list(islice(waiting, batch)):
                if len(chunk) < batch and seen:
                    break
                (run or encoder)(torch.from_numpy(np.stack(chunk)).to(device))
                seen += 1
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        encoder.train(training)
