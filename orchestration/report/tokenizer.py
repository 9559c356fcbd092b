"""What a tokenizer is worth: its curves, its figures beside simpler codes, the use of its codes, and clouds reassembled from its tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from orchestration.graph import Outcome
from orchestration.report import charts
from orchestration.report.trainings import Training, arms_of, training
from pipeline import page
from pipeline.page import Cloud
from training.objectives import CrossBertConfig

_POINTS = 1024
_SPLITS = ("test", "validation", "training")


@dataclass(frozen=True)
class Row:
    """The figures of one seed on one split's clouds, in words. Distances: means over patches, in radii of the cloud."""

    seed: int
    split: str
    clouds: int
    fine: float
    coarse: float
    kmeans: float
    fixed: float
    perplexity: float
    used: int
    commonest: float
    flips: float | None

    @property
    def below_fixed(self) -> float:
        """The share of the fixed patch's distance that is saved."""
        return 1 - self.fine / self.fixed if self.fixed else 0.0


@dataclass(frozen=True)
class Reassembled:
    """A cloud as it is stored, and as its tokens give it back."""

    key: str
    cls: str
    original: Cloud
    made: Cloud


@dataclass(frozen=True)
class Tokenizer:
    """The trainings of a tokenizer that `arms` share. usage, pictures: of the first seed that kept them, on clouds of the split `shown`."""

    arms: list[str]
    training: Training
    vocabulary: int | None
    fixed_patch: str
    rows: list[Row]
    usage: Markup
    used: int
    codes: int
    seed: int
    shown: str
    pictures: list[Reassembled]


def tokenizers(outcomes: Mapping[str, Outcome]) -> list[Tokenizer]:
    """One for each different tokenizer, with the arms that are trained on it."""
    wanted = {arm: _wanted(found[0][1].inputs) for arm, found in arms_of(outcomes, "pretrain").items()}
    return [
        _tokenizer(arm, [name for name, own in wanted.items() if own == _unseeded(found[0][1].inputs)] or [arm], found)
        for arm, found in arms_of(outcomes, "tokenizer").items()
    ]


def _wanted(pretraining: Mapping[str, Any]) -> dict[str, Any] | None:
    """The tokenizer that a pretraining's configuration asks for, without its seed; None where it needs none."""
    objective = pretraining.get("objective", {})
    if objective.get("kind") != "crossbert" or not CrossBertConfig.model_validate(objective).uses_tokenizer:
        return None
    return _unseeded(objective["tokenizer"])


def _unseeded(config: Mapping[str, Any]) -> dict[str, Any]:
    return {**config, "fit": {name: value for name, value in config.get("fit", {}).items() if name != "seed"}}


def _tokenizer(arm: str, arms: list[str], found: Sequence[tuple[int, Outcome]]) -> Tokenizer:
    judged = {seed: outcome.outputs.get("judgement", {}) for seed, outcome in found}
    first = next(iter(judged.values()))
    rows = [_row(seed, split, about[split]) for split in _SPLITS for seed, about in judged.items() if split in about]
    usage, pictures, kept = np.zeros(0, np.int64), list[Reassembled](), found[0][0]
    for seed, outcome in found:
        evidence = _evidence(outcome.folder / "evidence")
        if evidence is not None:
            (usage, pictures), kept = evidence, seed
            break
    return Tokenizer(
        arms,
        training(arm, found),
        first.get("vocabulary"),
        {"medoid": "the medoid of training patches", "mean": "the patch with the least mean distance to training patches"}.get(
            first.get("fixed_patch"), "one training patch"
        ),
        rows,
        charts.histogram(f"Use of the codes of {arm}", usage.tolist()),
        int((usage > 0).sum()),
        len(usage),
        kept,
        str(judged[kept].get("evidence", "test")),
        pictures,
    )


def _row(seed: int, split: str, about: Mapping[str, Any]) -> Row:
    return Row(
        seed,
        split,
        about["clouds"],
        about["chamfer_fine"],
        about["chamfer_coarse"],
        about["chamfer_patch_kmeans"],
        about["chamfer_fixed_patch"],
        about["perplexity"],
        about["codes_used"],
        about["commonest_share"],
        about.get("flips"),
    )


def _evidence(folder: Path) -> tuple[NDArray[np.int64], list[Reassembled]] | None:
    """How often each code was used, and the clouds; None where they were not kept."""
    if not ((folder / "reconstructions.npz").exists() and (folder / "reconstructions.json").exists()):
        return None
    items = json.loads((folder / "reconstructions.json").read_text())
    with np.load(folder / "reconstructions.npz", allow_pickle=False) as arrays:
        points, made, usage = arrays["points"], arrays["reassembled"], arrays["usage"]
    # The two of a pair share one scale, for tokens may reach beyond the unit sphere.
    scales = np.maximum(1.0, [max(float(np.abs(cloud).max(initial=0.0)) for cloud in pair) for pair in zip(points, made, strict=True)])
    return usage, [
        Reassembled(item["key"], item["class"], page.cloud(a / scale, most=_POINTS), page.cloud(b / scale, most=_POINTS))
        for item, a, b, scale in zip(items, points, made, scales, strict=True)
    ]
