"""Whether alignment learns which image belongs to which cloud: of objects it never saw, and not where the pairs of training are wrong."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from pipeline.generate import generate
from pipeline.reader import Dataset
from pipeline.recipe import Recipe
from pipeline.sources.shapes import CLASSES
from tests.training.objectives.crossbert_cases import TOKENIZER, objective
from training.distributed import World
from training.encoders import PointTransformerConfig
from training.evaluation.features import chosen_views, images
from training.loop import FitConfig, Place, fit
from training.objectives.crossbert import CrossBert, CrossBertConfig, prepare

PAIRS = 64
ENCODER = {"groups": 16, "group_size": 16, "patch_widths": [16, 32, 64], "patch_feature": 32, "width": 48, "depth": 2, "heads": 3}
FIT: dict[str, Any] = {
    "epochs": 14,
    "batch": 32,
    "optimizer": {"lr": 2e-3, "weight_decay": 0.05, "decoupled": True, "clip": 10, "schedule": "cosine_step", "warmup_steps": 20},
}


def config() -> CrossBertConfig:
    """The small recipe's choices (keys of the trained networks, a residual network for images), smaller still."""
    fixed = objective().model_dump()
    return CrossBertConfig.model_validate(
        fixed
        | {
            "alignment": {"width": 32, "temperature": 0.1, "keys": "online", "head_norm": True, "queue": 0},
            "modelling": {"tokens": "dvae", "temperature": 0.5},
            "fusion": {"depth": 1, "heads": 3},
            "image": {"kind": "resnet", "depth": 10, "width": 8},
            "momentum": 0.98,
            "tokenizer": {"model": TOKENIZER | {"groups": 16, "group_size": 16}},
            "point_augment": {"count": 256, "scale": [0.8, 1.25], "rotation": "none", "translate": 0, "jitter_sigma": 0.01, "dropout": 0},
            "image_augment": {"size": 48, "crop": [0.8, 1.0], "flip": 0},
        }
    )


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """55 training and 5 test objects of each of 13 classes: who knows the class alone finds every fifth image."""
    recipe = Recipe.model_validate(
        {
            "source": {"kind": "shapes", "classes": list(CLASSES), "per_class": 60, "test_fraction": 1 / 12},
            "points": {"count": 256},
            "views": {"rig": {"kind": "ring", "count": 4, "size": 48}},
        }
    )
    to = str(tmp_path_factory.mktemp("retrieval") / "data")
    generate(recipe, to, workers=0, progress=False, isolate=False)
    return Dataset.open(to)


def trained(shapes: Dataset, partner: dict[int, int], folder: Path) -> CrossBert:
    """Alignment and masked modelling together; the cloud of object i comes with the images of object partner[i]."""
    torch.manual_seed(0)
    one = CrossBert(config(), PointTransformerConfig.model_validate(ENCODER | {"drop_path": 0.0}))

    def pair(index: int, epoch: int) -> dict[str, Any]:
        mine = prepare(one.config, shapes, index, 0, epoch)
        other = mine if partner[index] == index else prepare(one.config, shapes, partner[index], 0, epoch)
        return mine | {name: other[name] for name in ("image_a", "image_b")}

    indices = np.array(sorted(partner), np.int64)
    fit(one, pair, indices, FitConfig.model_validate(FIT), folder, {}, World(), Place(device="cpu", checkpoint_seconds=1e9))
    return one.eval()


def recall(one: CrossBert, shapes: Dataset) -> float:
    """Share of held-out clouds whose own image, one view an object, is the most similar of all."""
    held = shapes.indices("test")[:PAIRS]
    clouds = torch.from_numpy(np.stack([shapes.load(int(i), ("points.npy",))["points.npy"] for i in held]))
    pictures = torch.from_numpy(np.stack(list(images(shapes, held, chosen_views(shapes, held, "one", 0), one.config.image_augment))))
    with torch.no_grad():
        points = functional.normalize(one.feature_head(one.encoder(clouds)), dim=1)
        views = functional.normalize(one.image_branch(pictures), dim=1)
    assert len(points) == len(views) == PAIRS
    return float(((points @ views.T).argmax(1) == torch.arange(PAIRS)).double().mean())


@pytest.mark.slow
def test_clouds_find_their_images_ten_times_as_often_as_by_chance_and_not_after_shuffled_pairs(shapes: Dataset, tmp_path: Path) -> None:
    own = shapes.indices("train").tolist()
    others = np.random.default_rng(0).permutation(own).tolist()
    found = recall(trained(shapes, dict(zip(own, own, strict=True)), tmp_path / "pairs"), shapes)
    shuffled = recall(trained(shapes, dict(zip(own, others, strict=True)), tmp_path / "shuffled"), shapes)
    print(f"recall at 1 of {PAIRS} pairs: {found:.3f}; after shuffled pairs: {shuffled:.3f}")
    assert found > 10 / PAIRS
    assert shuffled < 5 / PAIRS
