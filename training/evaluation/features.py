"""From a dataset to frozen features: clouds or images through a network in eval mode, in the order of the indices."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pipeline.reader import Dataset
from training.augment import Cloud, ImageAugment, normalise, plain_image, random_rotation, rng_for, take


def extract(network: nn.Module, arrays: Iterable[NDArray[np.float32]], device: torch.device | str, batch: int) -> NDArray[np.float32]:
    """Features (n, F) float32 of n arrays of one shape, `batch` at a time, without gradients; the network's mode is put back.

    ValueError for no arrays, arrays of different shapes, or features that are not finite.
    """
    rows: list[NDArray[np.float32]] = []
    training = network.training
    network.eval()
    waiting = iter(arrays)
    try:
        with torch.inference_mode():
            while chunk := list(islice(waiting, batch)):
                if len({array.shape for array in chunk}) > 1:
                    raise ValueError(
                        f"a batch needs arrays of one shape, got {sorted({array.shape for array in chunk})}: set `points` to the smallest"
                    )
                rows.append(network(torch.from_numpy(np.stack(chunk)).to(device)).float().cpu().numpy())
    finally:
        network.train(training)
    if not rows:
        raise ValueError("there is nothing to take features of")
    features = np.concatenate(rows)
    bad = int((~np.isfinite(features).all(axis=1)).sum())
    if bad:
        raise ValueError(f"the encoder gives features that are not finite for {bad} of {len(features)} items: its weights are broken")
    return features


def turn(points: Cloud, seed: int, key: str) -> Cloud:
    """The cloud turned about the origin by a uniform rotation, a function of (seed, key): the same for every encoder."""
    turned: Cloud = points @ random_rotation(rng_for(seed, 0, key, "turned")).T.astype(np.float32)
    return turned


def clouds(
    dataset: Dataset, indices: Sequence[int] | NDArray[np.int64], points: int | None, centred: bool, turned: int | None
) -> Iterator[Cloud]:
    """The stored clouds' first `points` points (all if None), in the order of the indices.

    `centred` puts each on the unit sphere about its mean; a seed `turned` turns each as `turn` does.
    """
    for index in indices:
        cloud = take(dataset.load(int(index), ("points.npy",))["points.npy"], points)
        if centred:
            cloud = normalise(cloud)
        yield cloud if turned is None else turn(cloud, turned, dataset.keys[int(index)])


def chosen_views(
    dataset: Dataset, indices: Sequence[int] | NDArray[np.int64], views: Literal["one", "all"], seed: int
) -> list[tuple[int, str]]:
    """(place in `indices`, member) of the images to embed: of each object one, drawn by (seed, key), or all of them.

    ValueError for an object without images.
    """
    chosen = []
    for place, index in enumerate(indices):
        names = sorted(name for name in dataset.members(int(index)) if name.startswith("v") and name.endswith(".png"))
        if not names:
            raise ValueError(f"retrieval needs images, but the sample {dataset.keys[int(index)]} of {dataset.uri} has none")
        if views == "one":
            names = [names[int(rng_for(seed, 0, dataset.keys[int(index)], "view").integers(len(names)))]]
        chosen += [(place, name) for name in names]
    return chosen


def images(
    dataset: Dataset, indices: Sequence[int] | NDArray[np.int64], chosen: Iterable[tuple[int, str]], config: ImageAugment
) -> Iterator[NDArray[np.float32]]:
    """The chosen views (3, S, S), resized and standardised as in training, without its random steps."""
    for place, name in chosen:
        yield plain_image(dataset.load(int(indices[place]), (name,))[name], config)
