"""What a trained tokenizer is worth: reconstruction against simpler codes, use of the vocabulary, steadiness under resampling.

Clouds are taken as stored, without augmentation, and tokens are the largest logits. The yardsticks, all fitted to training patches:

- one fixed patch for all: the medoid (of sampled training patches, the one with the least mean Chamfer distance to the others), and a
  patch moved from there by gradient descent on that mean. The one that is better on training patches is the baseline.
- V patches, one code each: k-means under the Chamfer distance CD1. Codes start as random training patches; then, batch by batch, each
  patch is assigned to its nearest code and the codes descend on the distance to their patches; codes that went an epoch without a patch
  become patches drawn by the squares of their distances. At the end each patch takes the nearest of all V codes. A code sees its own patch
  only, whereas the tokenizer's decoder sees the tokens of neighbouring patches too.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from pipeline.reader import Dataset
from training.augment import PointAugment, normalise
from training.files import write_json
from training.ops.chamfer import chamfer_l1
from training.ops.grouping import Patches, gather_rows, nearest
from training.tokenizer.dvae import DVAE

_PAIRS = {"cpu": 1 << 18, "cuda": 1 << 26}  # squared distances at a time: what a core's cache holds, or enough for a GPU


class JudgeConfig(BaseModel):
    """How much is looked at."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    clouds: int = Field(1024, ge=1, description="of a split at most, in the order of their contents' hashes")
    patches: int = Field(8192, ge=1, description="training patches at most that the yardsticks are fitted to")
    steps: int = Field(200, ge=1, description="of each fit")
    batch: int = Field(256, ge=1, description="patches a step")
    pictures: int = Field(10, ge=1, description="test clouds kept as evidence, of as many classes as there are")


@dataclass(frozen=True)
class Judgement:
    """figures: plain values; points (n, N, 3), reassembled (n, G·M, 3) and items (key, class) of n clouds; usage (V,), counts of labels."""

    figures: dict[str, Any]
    points: NDArray[np.float32]
    reassembled: NDArray[np.float32]
    usage: NDArray[np.int64]
    items: list[dict[str, str]]

    def write(self, folder: Path, identity: dict[str, Any]) -> None:
        """Writes reconstructions.npz, reconstructions.json (the items), and last judgement.json: the figures and `identity`."""
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f".reconstructions.{uuid.uuid4().hex[:8]}.part"
        try:
            with part.open("wb") as file:
                np.savez(file, points=self.points, reassembled=self.reassembled, usage=self.usage)
            part.rename(folder / "reconstructions.npz")
        finally:
            part.unlink(missing_ok=True)
        write_json(folder / "reconstructions.json", self.items)
        write_json(folder / "judgement.json", {**self.figures, **identity})


def perplexity(usage: Tensor) -> Tensor:
    """exp of the entropy of counts or sums (V,) as a distribution."""
    share = usage.double() / usage.sum()
    found: Tensor = torch.special.entr(share).sum().exp()
    return found


# ---- yardsticks --------------------------------------------------------------------------------------------------------


def cross_chamfer(patches: Tensor, codes: Tensor) -> Tensor:
    """CD1 of every patch (R, M, 3) to every code (V, K, 3): (R, V), exact up to the rounding of |a|² + |b|² − 2ab."""
    size, (number, points, _) = patches.shape[1], codes.shape
    flat = codes.transpose(0, 1).reshape(-1, 3)  # codes last, so that both minima run along them
    squares = flat.square().sum(-1)
    found = []
    for part in torch.split(patches, max(1, _PAIRS[patches.device.type] // (size * len(flat)))):
        own = part.flatten(0, 1)
        with torch.autocast(patches.device.type, enabled=False):  # rounding to half precision would choose other codes
            squared = torch.addmm(squares + own.square().sum(-1, keepdim=True), own, flat.T, alpha=-2).view(-1, size, points, number)
        ways = (squared.amin(side).clamp_(min=0).sqrt_().mean(1) for side in (1, 2))
        found.append(sum(ways, torch.zeros(())) / 2)
    return torch.cat(found)


def medoid_patch(patches: Tensor) -> Tensor:
    """The patch (M, 3) of (R, M, 3) with the least mean distance to all."""
    found: Tensor = patches[int(cross_chamfer(patches, patches).mean(0).argmin())]
    return found


def patch_codes(patches: Tensor, codes: Tensor, steps: int, batch: int, generator: torch.Generator) -> Tensor:
    """k-means under CD1 as the module describes: patches (R, M, 3), starting codes (V, M, 3) -> codes (V, M, 3)."""
    codes = codes.clone().requires_grad_()
    radius = float(patches.norm(dim=-1).mean())
    optimizer = torch.optim.Adam([codes], lr=0.05 * radius)
    epoch = -(-len(patches) // batch)
    order = torch.randperm(len(patches), generator=generator)
    seen = torch.zeros(len(codes), dtype=torch.bool, device=patches.device)
    for step in range(steps):
        rows = order[torch.arange(step * batch, (step + 1) * batch) % len(patches)].to(patches.device)
        part = patches[rows]
        with torch.no_grad():
            distance, choice = cross_chamfer(part, codes).min(1)
        seen[choice] = True
        optimizer.param_groups[0]["lr"] = 0.05 * radius * (1 - step / steps)
        optimizer.zero_grad()
        torch.autograd.backward(chamfer_l1(codes[choice], part).sum())
        optimizer.step()
        if (step + 1) % epoch == 0:
            # Not in the last third: a code that moves there has no time to settle.
            unused = torch.nonzero(~seen).flatten()[: len(part)] if step < steps * 2 / 3 else seen.nonzero().flatten()[:0]
            if len(unused):
                with torch.no_grad():
                    codes[unused] = part[torch.multinomial(distance.square().cpu() + 1e-12, len(unused), generator=generator)]
            seen.zero_()
    return codes.detach()


def to_nearest(patches: Tensor, codes: Tensor) -> Tensor:
    """CD1 of each patch (R, M, 3) to its nearest code (V, M, 3), (R,)."""
    return chamfer_l1(codes[cross_chamfer(patches, codes).argmin(1)], patches)


# ---- clouds ------------------------------------------------------------------------------------------------------------


def by_content(dataset: Dataset, indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """The indices in an order that follows from the assets' contents."""
    contents = dataset.table["sha256"].to_pylist()
    marks = [hashlib.sha256(f"judged/{contents[i]}/{dataset.keys[i]}".encode()).digest() for i in indices.tolist()]
    return indices[sorted(range(len(indices)), key=marks.__getitem__)]


def _clouds(dataset: Dataset, indices: NDArray[np.int64], augment: PointAugment, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of clouds (b, N, 3), the first stored points, and of as many that overlap these as little as the stored number allows."""
    for first in range(0, len(indices), 32):
        stored = [dataset.load(int(i), ("points.npy",))["points.npy"] for i in indices[first : first + 32]]
        scaled = np.stack([normalise(points) if augment.normalise else points for points in stored])
        count = augment.count or scaled.shape[1]
        both = torch.from_numpy(scaled).to(device)
        yield both[:, :count], both[:, -count:]


@dataclass(frozen=True)
class _Seen:
    """A split through the tokenizer: clouds (n, N, 3), centres (n, G, 3), offsets and fine (n, G, M, 3), labels and the labels of another
    sample of the same surface (n, G), distances of patches (n, G), sums of their soft distributions (n, V)."""

    clouds: Tensor
    centres: Tensor
    offsets: Tensor
    fine: Tensor
    labels: Tensor
    others: Tensor
    fine_apart: Tensor
    coarse_apart: Tensor
    soft: Tensor


@torch.no_grad()
def _look(dvae: DVAE, dataset: Dataset, indices: NDArray[np.int64], augment: PointAugment, device: torch.device) -> _Seen:
    found: dict[str, list[Tensor]] = {}
    for points, again in _clouds(dataset, indices, augment, device):
        patches = dvae.patch(points)
        made = dvae.reconstruct(patches)
        other = gather_rows(again, nearest(again, patches.centres, dvae.config.group_size)) - patches.centres[:, :, None]
        wanted = patches.offsets.flatten(0, 1)
        parts = {
            "clouds": points,
            "centres": patches.centres,
            "offsets": patches.offsets,
            "fine": made.fine,
            "labels": made.logits.argmax(-1),
            "others": dvae.labels(Patches(patches.centres, other)),
            "fine_apart": chamfer_l1(made.fine.flatten(0, 1), wanted).view(patches.centres.shape[:2]),
            "coarse_apart": chamfer_l1(made.coarse.flatten(0, 1), wanted).view(patches.centres.shape[:2]),
            "soft": made.logits.softmax(-1).sum(1),
        }
        for name, value in parts.items():
            found.setdefault(name, []).append(value)
    return _Seen(**{name: torch.cat(values) for name, values in found.items()})


def _yardsticks(seen: _Seen, fixed: Tensor, codes: Tensor) -> dict[str, float]:
    patches = seen.offsets.flatten(0, 1)
    return {
        "chamfer_fixed_patch": float(chamfer_l1(fixed.expand_as(patches), patches).mean()),
        "chamfer_patch_kmeans": float(to_nearest(patches, codes).mean()),
    }


def _figures(seen: _Seen, stored: int) -> dict[str, Any]:
    vocabulary, count = seen.soft.shape[1], seen.clouds.shape[1]
    usage = torch.bincount(seen.labels.flatten(), minlength=vocabulary)
    used = int((usage > 0).sum())
    return {
        "clouds": len(seen.clouds),
        "patches": seen.labels.numel(),
        "chamfer_fine": float(seen.fine_apart.mean()),
        "chamfer_coarse": float(seen.coarse_apart.mean()),
        "codes_used": used,
        "dead_codes": vocabulary - used,
        "perplexity": float(perplexity(usage)),
        "perplexity_soft": float(perplexity(seen.soft.sum(0))),
        "commonest_share": float(usage.max() / usage.sum()),
        # Where every stored point is in the cloud, there is no other sample of the surface.
        "flips": float((seen.labels != seen.others).float().mean()) if stored > count else None,
        "flips_overlap": max(0.0, 2 - stored / count),
    }


def judge(
    dvae: DVAE,
    dataset: Dataset,
    training: NDArray[np.int64],
    validation: NDArray[np.int64],
    test: NDArray[np.int64],
    augment: PointAugment,
    config: JudgeConfig,
    seed: int,
    device: torch.device,
) -> Judgement:
    """Figures of the three splits (of the training clouds, as many as `config.clouds`); the evidence is of the test split.

    Without a test split, test figures are absent and the evidence is of validation clouds.
    """
    dvae = dvae.to(device)
    splits = {"training": training, "validation": validation, "test": test}
    chosen = {name: by_content(dataset, indices)[: config.clouds] for name, indices in splits.items() if len(indices)}
    seen = {name: _look(dvae, dataset, indices, augment, device) for name, indices in chosen.items()}
    generator = torch.Generator().manual_seed(seed)
    patches = seen["training"].offsets.flatten(0, 1)
    patches = patches[torch.randperm(len(patches), generator=generator)[: config.patches].to(device)]
    medoid = medoid_patch(patches[:512])
    mean = patch_codes(patches, medoid[None], config.steps, config.batch, generator)[0]
    apart = {name: float(chamfer_l1(patch.expand_as(patches), patches).mean()) for name, patch in (("medoid", medoid), ("mean", mean))}
    kind = min(apart, key=lambda name: apart[name])
    start = patches[torch.arange(dvae.config.vocabulary, device=device) % len(patches)]
    codes = patch_codes(patches, start, config.steps, config.batch, generator)
    stored = len(dataset.load(int(training[0]), ("points.npy",))["points.npy"])
    fixed = {"medoid": medoid, "mean": mean}[kind]
    figures: dict[str, Any] = {name: _figures(part, stored) | _yardsticks(part, fixed, codes) for name, part in seen.items()}
    figures |= {"vocabulary": dvae.config.vocabulary, "fixed_patch": kind, "fixed_patch_training": apart, "fitted_patches": len(patches)}
    shown = "test" if "test" in seen else "validation"
    part = seen[shown]
    rows = _varied(dataset.classes[chosen[shown]], config.pictures)
    whole = (part.centres[:, :, None] + part.fine).flatten(1, 2)
    return Judgement(
        figures | {"evidence": shown},
        part.clouds[rows].cpu().numpy(),
        whole[rows].cpu().numpy(),
        torch.bincount(part.labels.flatten(), minlength=dvae.config.vocabulary).cpu().numpy(),
        [{"key": dataset.keys[i], "class": str(dataset.classes[i])} for i in chosen[shown][rows].tolist()],
    )


def _varied(classes: NDArray[np.str_], count: int) -> list[int]:
    """Places of the first of each class, then of the second of each, and so on, `count` at most."""
    turn: dict[str, int] = {}
    ranked = []
    for place, name in enumerate(classes.tolist()):
        ranked.append((turn.get(name, 0), place))
        turn[name] = turn.get(name, 0) + 1
    return [place for _, place in sorted(ranked)[:count]]
