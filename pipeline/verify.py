"""Whether a dataset is what its manifests say: files, sizes, hashes, keys; deeper, every member and its geometry."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import dataset, manifest, shards
from pipeline.manifest import Manifest, ManifestError
from pipeline.reader import decode_member
from pipeline.recipe import Recipe
from pipeline.storage import StorageError, Store
from pipeline.verify_clips import clip_problems, image_problems, in_own_pixels
from render.cameras import Rig, fitting_distance

# The share of the points that must fall on the pictures, on average and on each: parts thinner than a pixel may be in none.
ON_VIEWS, ON_EACH = 0.85, 0.25
_AGAIN = "remove {manifest} and run generate again"


@dataclass(frozen=True)
class Problem:
    """Something that is not as it should be: the file (or member) within the dataset, and a sentence."""

    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.where}: {self.text}"


def verify(uri: str, deep: bool = False) -> list[Problem]:
    """The problems of a dataset, none where it is whole: shards present, of the size and sha256 that their manifests name, every planned
    asset once, keys unique, the fingerprint. With `deep` every member is decoded and points are projected onto the views, or onto the frame
    of their instant, with the stored cameras. Raises DatasetError where there is no dataset.
    """
    store = Store(uri)
    info = dataset.load_info(store)
    problems: list[Problem] = []
    manifests: list[Manifest] = []
    for name in sorted(store.files(manifest.FOLDER)):
        path = f"{manifest.FOLDER}/{name}"
        try:
            manifests.append(manifest.decode(store.read(path), path))
        except (ManifestError, StorageError, FileNotFoundError) as error:
            problems.append(Problem(path, str(error)))
    problems += _against_plan(store, info, manifests)
    for item in manifests:
        problems += _shard(store, info, item, deep)
    keys = Counter(key for item in manifests for key in item.table["key"].to_pylist())
    problems += [
        Problem(manifest.FOLDER, f"the key {key} stands {count} times; generate again elsewhere")
        for key, count in keys.items()
        if count > 1
    ]
    if "fingerprint" in info and manifest.fingerprint(manifests) != info["fingerprint"]:
        problems.append(Problem(dataset.NAME, "its fingerprint is not that of the manifests; run generate again"))
    return problems


def _against_plan(store: Store, info: dict[str, Any], manifests: list[Manifest]) -> list[Problem]:
    problems = []
    found = {item.shard for item in manifests}
    try:
        planned = manifest.read_parquet(store.read(dataset.PLAN)).to_pydict()
    except (FileNotFoundError, StorageError, OSError, ValueError) as error:
        return [Problem(dataset.PLAN, f"it cannot be read ({error}); generate again in another folder")]
    missing = sorted(set(planned["shard"]) - found)
    if missing:
        problems.append(Problem(manifest.FOLDER, f"{len(missing)} shards are not made yet, the first {missing[0]}; run generate again"))
    foreign = [item.shard for item in manifests if item.plan != info["plan"]["sha256"]]
    problems += [Problem(manifest.path_of(shard), "it belongs to another plan; remove it and run generate again") for shard in foreign]
    rows = zip(planned["key"], planned["sha256"], planned["shard"], strict=True)
    wanted = {row for row in rows if row[2] in found}
    there = {row for item in manifests for row in zip(*(item.table[name].to_pylist() for name in ("key", "sha256", "shard")), strict=True)}
    for key, _, shard in sorted(wanted ^ there)[:10]:
        problems.append(Problem(manifest.path_of(shard), f"the asset {key} is not as planned; {_AGAIN.format(manifest='the manifest')}"))
    return problems


def _shard(store: Store, info: dict[str, Any], item: Manifest, deep: bool) -> list[Problem]:
    path = shards.path_of(item.shard)
    remedy = _AGAIN.format(manifest=manifest.path_of(item.shard))
    if not item.size:
        return []
    try:
        data = store.read(path)
    except FileNotFoundError:
        return [Problem(path, f"it is missing; {remedy}")]
    except StorageError as error:
        return [Problem(path, str(error))]
    if len(data) != item.size:
        return [Problem(path, f"it has {len(data)} bytes instead of {item.size}; {remedy}")]
    if hashlib.sha256(data).hexdigest() != item.shard_sha256:
        return [Problem(path, f"its bytes are not those that were written (sha256); {remedy}")]
    if not deep:
        return []
    recipe = Recipe.model_validate(info["recipe"])
    return [
        Problem(f"{path} {row['key']}", text)
        for row in item.table.to_pylist()
        if row["status"] == "ok"
        for text in _sample(recipe, row, data)
    ]


def _sample(recipe: Recipe, row: dict[str, Any], shard: bytes) -> list[str]:
    members: dict[str, Any] = {}
    for member in row["members"]:
        try:
            members[member["name"]] = decode_member(member["name"], shard[member["offset"] : member["offset"] + member["size"]])
        except ValueError as error:
            return [f"{member['name']} cannot be decoded ({error})"]
    try:
        return _geometry(recipe, row, members)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        return [f"a member is missing or of another shape ({type(error).__name__}: {error})"]


def _geometry(recipe: Recipe, row: dict[str, Any], members: dict[str, Any]) -> list[str]:
    facts = members["json"]
    problems = []
    if facts["class"] != row["class"] or facts["sha256"] != row["sha256"] or facts["split"] != row["split"]:
        problems.append("json and manifest disagree about the asset")
    if "clip.npy" in members or recipe.clips:
        problems += clip_problems(recipe, members) + image_problems(recipe, members)
        return problems if problems or recipe.clips is None else _frames(recipe, members)
    points = members["points.npy"]
    if points.shape != (recipe.points.count, 3) or not np.isfinite(points).all() or (np.linalg.norm(points, axis=1) > 1 + 1e-5).any():
        problems.append("points.npy is not a cloud of the recipe's size in the unit sphere")
    rig = facts["cameras"]
    size = (rig["height"], rig["width"])
    shares: list[float] = []
    for number, (K, world_to_camera) in enumerate(zip(np.array(rig["K"]), np.array(rig["world_to_camera"]), strict=True)):
        view = members[f"v{number:02d}.png"]
        mask = _shown(recipe, members, number, view)
        if view.shape[:2] != size or mask.shape != size:
            problems.append(f"view {number} has not the size of its camera")
            continue
        shares.append(on_mask(points, K, world_to_camera, mask, cut_off=_stands_close(recipe.views.rig)))
    return problems + _judged(shares, "view")


def _judged(shares: list[float], what: str) -> list[str]:
    if not shares or (np.mean(shares) >= ON_VIEWS and min(shares) >= ON_EACH):
        return []
    worst = int(np.argmin(shares))
    return [f"only {np.mean(shares):.0%} of the points fall on the {what}s ({shares[worst]:.0%} on {what} {worst})"]


def _frames(recipe: Recipe, members: dict[str, Any]) -> list[str]:
    """The points of each instant against the frame of that instant."""
    facts, clip = members["json"], members["clip.npy"]
    rig = facts["cameras"]
    background = _bytes(facts["clip"]["background"])
    cameras = list(zip(np.array(rig["K"]), np.array(rig["world_to_camera"]), strict=True))
    if len(cameras) != len(clip):
        return [f"{len(cameras)} cameras stand for {len(clip)} frames"]
    shares: list[float] = []
    for number, (K, world_to_camera) in enumerate(cameras):
        frame = members[f"f{number:03d}.png"]
        if frame.shape != (rig["height"], rig["width"], 3):
            return [f"frame {number} has not the size of its camera"]
        shown = (frame != background).any(axis=-1)
        if facts["clip"]["points"] == "visible":
            if text := in_own_pixels(clip[number], K, world_to_camera, shown):
                return [f"frame {number}: {text}"]
        else:
            shares.append(on_mask(clip[number], K, world_to_camera, shown))
    return _judged(shares, "frame")


def _bytes(color: Sequence[float]) -> npt.NDArray[np.uint8]:
    return np.floor(np.array(color) * 255 + 0.5).astype(np.uint8)


def _shown(recipe: Recipe, members: dict[str, Any], number: int, view: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Where a view shows anything of the mesh, pixels included that it covers by less than the half that a mask asks for."""
    if recipe.views.color == "rgba":
        return np.asarray(view[..., 3] > 0)
    shown = (view != _bytes(recipe.style.background)).any(axis=-1)
    return np.asarray(shown | (members[f"m{number:02d}.png"][..., 0] > 0) if recipe.views.mask else shown)


def _stands_close(rig: Rig) -> bool:
    """Whether the views of a rig may show less than the whole unit sphere."""
    return rig.kind == "shapenet24" or (rig.distance is not None and rig.distance < fitting_distance(math.radians(rig.fov_deg), 0.0))


def on_mask(
    points: npt.NDArray[Any], K: npt.NDArray[Any], world_to_camera: npt.NDArray[Any], mask: npt.NDArray[np.bool_], *, cut_off: bool = False
) -> float:
    """The share of the points (N, 3) that fall within one pixel of a True pixel of mask (H, W).

    cut_off: the picture need not show all, so that only the points within it count; where it shows none it is 1 as long as the origin,
    at which all cameras look, is in it.
    """
    height, width = mask.shape
    row, column = _pixels(points, K, world_to_camera, width, height)
    if cut_off and not len(row):
        return float(len(_pixels(np.zeros((1, 3)), K, world_to_camera, width, height)[0]))
    padded = np.pad(mask, 1)
    near = np.zeros_like(mask)
    for down in range(3):
        for right in range(3):
            near |= padded[down : down + height, right : right + width]
    return float(near[row, column].sum() / (len(row) if cut_off else len(points)))


def _pixels(
    points: npt.NDArray[Any], K: npt.NDArray[Any], world_to_camera: npt.NDArray[Any], width: int, height: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows and columns of the points that fall into the picture."""
    camera = points.astype(np.float64) @ world_to_camera[:3, :3].T + world_to_camera[:3, 3]
    pixels = camera @ K.T
    ahead = pixels[:, 2] > 0
    column, row = np.floor(pixels[ahead, :2] / pixels[ahead, 2:]).T
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    return row[inside].astype(np.int64), column[inside].astype(np.int64)
