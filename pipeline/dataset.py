"""dataset.json: what a dataset is, written before its first shard and completed after its last."""

from __future__ import annotations

import importlib.metadata
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from pipeline import manifest, plan, png
from pipeline.manifest import Manifest
from pipeline.plan import Plan
from pipeline.recipe import DEPTH_UNIT, FORMAT, Recipe
from pipeline.storage import Store

NAME = "dataset.json"
PLAN = "plan.parquet"
CONVENTIONS = {
    "world": "right-handed, y up, mesh in the unit sphere about the origin: (original - centre) / scale",
    "camera": "OpenCV axes: x right, y down, z forward; x_camera = world_to_camera x_world; pixels = K x_camera; centres at half integers",
    "depth": "z_camera, 16 bits, 0 where nothing is",
    "depth_unit": DEPTH_UNIT,
    "color": "sRGB, 8 bits; with alpha, the share of the pixel that is covered, colours over the recipe's background",
    "mask": "255 where at least half of the pixel is covered, else 0",
    "clip": "float32, world, one centre and scale for all instants (recordings: metres as recorded); frame t, camera t, label t: instant t",
    "points": "float32, world; normals float32, world; colors uint8, sRGB; parts int16, an index into part_names, -1 for none",
}


class DatasetError(Exception):
    """A dataset cannot be used, or not for this. The text is one sentence: what, where, what to do."""


def load_info(store: Store) -> dict[str, Any]:
    """The contents of dataset.json. Raises DatasetError: none there, damaged, of another format."""
    try:
        info = json.loads(store.read(NAME))
        version = info["format"]
    except FileNotFoundError:
        raise DatasetError(f"{store.uri} holds no dataset ({NAME} is not there); give a dataset's folder or generate it first.") from None
    except (ValueError, KeyError, TypeError):
        raise DatasetError(f"{store.uri}/{NAME} is damaged; generate the dataset again in another folder.") from None
    if version != FORMAT:
        raise DatasetError(f"{store.uri} is a dataset of format {version}, and this version reads format {FORMAT}; generate it again.")
    return dict(info)


def begin(store: Store, recipe: Recipe, planned: Plan, renderer: str) -> dict[str, Any]:
    """Claims an empty folder for the recipe, or finds the recipe's own dataset in it. Gives dataset.json.

    Raises DatasetError where the folder holds something else: other files, another recipe's dataset, or one of other meshes.
    """
    # Pillow decodes textures and the images of recordings, DracoPy the geometry of glTF files that is compressed
    libraries = ("numpy", "pyarrow", "pillow", "dracopy")
    codecs = {"png": png.CODEC, **{name: importlib.metadata.version(name) for name in libraries}}
    fresh = {
        "format": FORMAT,
        "name": recipe.name,
        "recipe": recipe.model_dump(mode="json", by_alias=True),
        "recipe_sha256": recipe.resolved_hash(),
        "plan": {
            "sha256": planned.hash,
            "shards": len(planned.starts),
            "assets": len(planned.table),
            "splits": dict(sorted(Counter(planned.table["split"].to_pylist()).items())),
            "left_out": planned.left_out,
        },
        "renderer": renderer,
        "codecs": codecs,
        "conventions": CONVENTIONS,
    }
    if not store.exists(NAME):
        if store.names() - {PLAN}:
            raise DatasetError(f"{store.uri} holds other files and no dataset; give an empty folder or a new one.")
        store.write(PLAN, plan.encode(planned))
        _write(store, fresh)
        return fresh
    info = load_info(store)
    check_recipe(store, info, recipe)
    if info["plan"]["sha256"] != planned.hash:
        what = plan.difference(store.read(PLAN), planned)
        raise DatasetError(
            f"The meshes are not those that {store.uri} was begun with: {what}; restore them or generate into another folder."
        )
    fresh["codecs"] = {name: version for name, version in codecs.items() if name in info["codecs"]}  # older datasets name fewer
    for part in ("renderer", "codecs"):
        if info[part] != fresh[part]:
            text = f"{store.uri} was begun with the {part} {info[part]}, and here is {fresh[part]}"
            raise DatasetError(f"{text}; finish it where it was begun or generate into another folder.")
    return info


def check_recipe(store: Store, info: dict[str, Any], recipe: Recipe) -> None:
    """Raises DatasetError where the folder holds another recipe's dataset; it names what differs."""
    if info["recipe_sha256"] == recipe.resolved_hash():
        return
    try:
        other = Recipe.model_validate(info["recipe"]).identity()
    except ValueError:
        other = {}
    if other == recipe.identity():
        raise DatasetError(f"{store.uri} was begun by another version of crossloom; finish it with that one or give another folder.")
    differing = [f"{key} is {there} there and {here} here" for key, there, here in _differences(other, recipe.identity())]
    what = "; ".join(differing[:3]) + (f"; and {len(differing) - 3} more" if len(differing) > 3 else "")
    raise DatasetError(f"{store.uri} holds the dataset of another recipe, {info['name']!r} ({what}): give another folder for this one.")


def _differences(there: Any, here: Any, key: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(there, dict) and isinstance(here, dict):
        found = []
        for name in sorted(there.keys() | here.keys()):
            found += _differences(there.get(name), here.get(name), f"{key}.{name}" if key else name)
        return found
    return [] if there == here else [(key, there, here)]


def finish(store: Store, info: dict[str, Any], manifests: Sequence[Manifest]) -> dict[str, Any]:
    """Completes dataset.json with counts and fingerprint."""
    statuses = [(split, status) for item in manifests for split, status in zip(*_columns(item, "split", "status"), strict=True)]
    reasons = Counter(reason for item in manifests for reason in item.table["reason"].to_pylist() if reason)
    counts = {
        "samples": sum(status == "ok" for _, status in statuses),
        "failed": sum(status == "failed" for _, status in statuses),
        "splits": dict(sorted(Counter(split for split, status in statuses if status == "ok").items())),
        "reasons": dict(sorted(reasons.items())),
        "bytes": sum(item.size for item in manifests),
    }
    complete = info | {"counts": counts, "fingerprint": manifest.fingerprint(manifests)}
    if complete != info:
        _write(store, complete)
    return complete


def _columns(item: Manifest, *names: str) -> list[list[str]]:
    return [item.table[name].to_pylist() for name in names]


def _write(store: Store, info: dict[str, Any]) -> None:
    store.write(NAME, (json.dumps(info, indent=2) + "\n").encode())
