"""A finished dataset without rendering: the real plan, shards, manifests and dataset.json around made-up clouds and pictures."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import dataset, manifest, png
from pipeline.plan import Planned, make_plan
from pipeline.recipe import Recipe
from pipeline.storage import Store
from pipeline.worker import Outcome, make_shard
from render import cameras

Written = Callable[..., str]


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, version=(1, 0))
    return buffer.getvalue()


def _sample(recipe: Recipe, asset: Planned, flags: tuple[str, ...]) -> Outcome:
    rng = np.random.default_rng(int(asset.sha256[:8], 16))
    count, size = recipe.points.count, recipe.views.rig.size
    points = rng.normal(size=(count, 3))
    points = (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)
    rig = cameras.build(recipe.views.rig, 0)
    facts = {
        "class": asset.cls,
        "split": asset.split,
        "cameras": {"width": size, "height": size, "K": rig.K.tolist(), "world_to_camera": rig.world_to_camera.tolist()},
    }
    members = {"json": json.dumps(facts).encode(), "points.npy": _npy(points)}
    if recipe.points.normals:
        members["normals.npy"] = _npy(points)
    if recipe.points.colors:
        members["colors.npy"] = _npy(rng.integers(0, 256, (count, 3), dtype=np.uint8))
    if recipe.points.parts:
        members["parts.npy"] = _npy(rng.integers(-1, 3, count).astype(np.int16))
    for view in range(recipe.views.rig.views):
        members[f"v{view:02d}.png"] = png.encode(rng.integers(0, 256, (size, size, 3), dtype=np.uint8))
        if recipe.views.depth:
            members[f"d{view:02d}.png"] = png.encode(rng.integers(0, 30_000, (size, size)).astype(np.uint16))
        if recipe.views.mask:
            members[f"m{view:02d}.png"] = png.encode(rng.choice(np.array([0, 255], np.uint8), (size, size)))
    return Outcome(members, flags, "00")


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """written(meshes, failures, flags, **recipe) makes a dataset and gives its URI.

    meshes: paths as CLASS/NAME or SPLIT/CLASS/NAME; failures: such a path → (reason, message); flags: such a path → flags.
    """
    made = 0

    def write(
        meshes: list[str],
        failures: Mapping[str, tuple[str, str]] | None = None,
        flags: Mapping[str, tuple[str, ...]] | None = None,
        **values: Any,
    ) -> str:
        nonlocal made
        made += 1
        root = tmp_path / f"meshes{made}"
        for number, name in enumerate(meshes):
            path = root / f"{name}.off"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"OFF {number}")
        source = {"kind": "folder", "path": str(root), "licence": values.pop("licence", "")}
        defaults = {"points": {"count": 64}, "views": {"rig": {"count": 2, "size": 16}}}
        recipe = Recipe.model_validate({**defaults, **values, "source": source})
        store = Store(str(tmp_path / f"dataset{made}"))
        plan = make_plan(recipe)
        info = dataset.begin(store, recipe, plan, "none")

        def make(asset: Planned) -> Outcome:
            name = asset.source.removesuffix(".off")
            if failures and name in failures:
                reason, message = failures[name]
                return Outcome(reason=reason, message=message)
            return _sample(recipe, asset, (flags or {}).get(name, ()))

        for shard in plan.starts:
            make_shard(store, shard, plan.assets(shard), plan.hash, make)
        dataset.finish(store, info, manifest.read_all(store))
        return store.uri

    return write


@pytest.fixture(scope="session")
def small_dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    """URI of a rendered dataset of 4 classes of built-in shapes, 6 train and 2 test samples each, 3 views of 48², 128 points."""
    from pipeline.generate import generate

    recipe = Recipe.model_validate(
        {
            "source": {"kind": "shapes", "classes": ["chair", "table", "mug", "airplane"], "per_class": 8, "test_fraction": 0.25},
            "points": {"count": 128},
            "views": {"rig": {"kind": "ring", "count": 3, "size": 48}},
            "shard_assets": 8,
        }
    )
    to = str(tmp_path_factory.mktemp("small") / "data")
    generate(recipe, to, workers=0, progress=False, isolate=False)
    return to
