"""One asset becomes a sample; a shard's worth of them becomes a shard and its manifest. Plain functions that know no scheduler."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline import film, manifest, png, sources
from pipeline.outcome import STAGES, Outcome, Stopwatch, npy, seed_of
from pipeline.plan import Planned
from pipeline.recipe import DEPTH_UNIT, Recipe
from pipeline.shards import ShardWriter
from pipeline.sources import RecordingSource
from pipeline.storage import Store
from render import cameras, checks, surface
from render.cameras import Cameras
from render.meshes import Mesh, MeshError
from render.views import Renderer, Views
from render.wording import plain

OUT_OF_MEMORY = "The mesh needs more memory than an asset may take; simplify it or raise limits.memory_mb."
_MESSAGE_LENGTH = 300


@dataclass(frozen=True)
class ShardResult:
    """What the driver is told of a finished shard; none of it but the counts is in the dataset."""

    name: str
    samples: int
    reasons: Mapping[str, int]
    images: int
    size: int
    seconds: Mapping[str, float]
    wall_s: float
    log: tuple[str, ...] = ()


# How an asset is made: in this process (`in_process`) or in one that may die of it (`pipeline.isolation`).
Maker = Callable[[Planned], Outcome]


def open_renderer(recipe: Recipe) -> Renderer:
    """The recipe's renderer. A process opens one and keeps it. Raises what the renderer raises where the machine cannot run it."""
    if recipe.renderer == "opengl":
        from render.opengl import OpenGLRenderer

        return OpenGLRenderer()
    from render.raster import RasterRenderer

    return RasterRenderer()


def make_sample(recipe: Recipe, renderer: Renderer, asset: Planned) -> Outcome:
    """Views, a clip or a recording. What goes wrong with the asset becomes an Outcome with a reason; MemoryError passes."""
    seconds = dict.fromkeys(STAGES, 0.0)
    watch = Stopwatch(seconds)
    try:
        if isinstance(recipe.source, RecordingSource):
            from pipeline.recording_sample import make_recording

            return make_recording(recipe, asset, watch)
        if recipe.clips is not None:
            return film.make_clip(recipe, renderer, asset, watch)
        return _make_views(recipe, renderer, asset, watch)
    except MemoryError:
        raise
    except MeshError as error:
        if error.reason == "out_of_memory":
            raise MemoryError(str(error)) from None
        return Outcome(reason=error.reason, message=_message(recipe, str(error)), seconds=seconds)
    except Exception as error:
        return Outcome(reason="crashed", message=_message(recipe, f"{type(error).__name__}: {error}"), seconds=seconds)


def _message(recipe: Recipe, text: str) -> str:
    """The sentence without the folder that the source happens to lie in: a manifest is the same wherever it was made."""
    for path in (getattr(recipe.source, "path", None), getattr(recipe.source, "images", None)):
        if path is not None:
            text = text.replace(f"{path.resolve()}/", "").replace(f"{path}/", "")  # a relative one is the end of the other
    # texts of the asset may hold what UTF-8 has not, which would cost its shard
    return plain(" ".join(plain(text, 10 * _MESSAGE_LENGTH).split()), _MESSAGE_LENGTH)


def _make_views(recipe: Recipe, renderer: Renderer, asset: Planned, watch: Stopwatch) -> Outcome:
    """Load, check, sample, render, look, encode."""
    mesh = sources.open_mesh(recipe.source, asset.source, parts=recipe.points.parts)
    if len(mesh.faces) > recipe.limits.max_faces:
        text = f"{asset.source} has {len(mesh.faces)} faces, more than limits.max_faces; simplify it or raise the limit."
        raise MeshError("too_large", text)
    mesh, centre, scale = checks.normalize(checks.check(mesh))
    watch.lap("load")
    cloud = surface.sample(mesh, recipe.points.count, seed_of(recipe, asset.sha256, "points"))
    watch.lap("sample")
    rig = cameras.build(recipe.views.rig, seed_of(recipe, asset.sha256, "rig"))
    views = renderer.render(mesh, rig, recipe.style)
    look = checks.check_views(views)
    watch.lap("render")
    flags = tuple(dict.fromkeys((*mesh.flags, *look.flags)))
    if look.reason is not None:
        message = "A picture shows nothing of the mesh; look at its shape, or move the cameras of the recipe."
        return Outcome(reason=look.reason, message=message, flags=flags, seconds=watch.seconds)
    pictures = _pictures(recipe, views)
    pixels = hashlib.sha256()
    members = {name: png.encode(image, pixels) for name, image in pictures.items()}
    members["points.npy"] = npy(cloud.points)
    if recipe.points.normals:
        members["normals.npy"] = npy(cloud.normals)
    if recipe.points.colors:
        members["colors.npy"] = npy(cloud.colors)
    if recipe.points.parts:
        members["parts.npy"] = npy(cloud.parts)
    members["json"] = _json(recipe, asset, mesh, rig, centre, scale, look.coverage)
    watch.lap("encode")
    return Outcome(members, flags, pixels.hexdigest(), seconds=watch.seconds)


def _pictures(recipe: Recipe, views: Views) -> dict[str, png.Image]:
    """Member name → pixels: v00.png colour, d00.png depth in DEPTH_UNIT, m00.png mask of 0 and 255."""
    color = views.color if recipe.views.color == "rgba" else views.color[..., :3]
    found: dict[str, png.Image] = {f"v{number:02d}.png": image for number, image in enumerate(color)}
    if recipe.views.depth:
        steps = np.minimum(np.floor(views.depth.astype(np.float64) / DEPTH_UNIT + 0.5), 65535).astype(np.uint16)
        found |= {f"d{number:02d}.png": image for number, image in enumerate(steps)}
    if recipe.views.mask:
        found |= {f"m{number:02d}.png": image for number, image in enumerate(views.mask.astype(np.uint8) * np.uint8(255))}
    return found


def _json(
    recipe: Recipe,
    asset: Planned,
    mesh: Mesh,
    rig: Cameras,
    centre: npt.NDArray[np.float64],
    scale: float,
    coverage: npt.NDArray[np.float32],
) -> bytes:
    facts = {
        "class": asset.cls,
        "split": asset.split,
        "source": asset.source,
        "sha256": asset.sha256,
        "licence": asset.licence,
        "faces": len(mesh.faces),
        "normalisation": {"centre": centre.tolist(), "scale": scale},
        "cameras": {"width": rig.width, "height": rig.height, "K": rig.K.tolist(), "world_to_camera": rig.world_to_camera.tolist()},
        "coverage": [round(share, 6) for share in coverage.astype(np.float64).tolist()],
    }
    if recipe.points.parts:
        facts["part_names"] = list(mesh.part_names)
    return json.dumps(facts, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def in_process(recipe: Recipe) -> Maker:
    """A maker without a process of its own, for debugging: a crash or a hang of an asset is one of the caller."""
    renderer = open_renderer(recipe)

    def make(asset: Planned) -> Outcome:
        try:
            return make_sample(recipe, renderer, asset)
        except MemoryError:
            return Outcome(reason="out_of_memory", message=OUT_OF_MEMORY)

    return make


def make_shard(store: Store, name: str, assets: Sequence[Planned], plan: str, make: Maker) -> ShardResult:
    """Makes a shard of the plan with this hash and commits it with its manifest. Raises StorageError; then the shard does not count."""
    begin = time.perf_counter()
    seconds = dict.fromkeys(STAGES, 0.0)
    writer = ShardWriter(name)
    rows: list[manifest.Row] = []
    images = 0
    for asset in assets:
        outcome = make(asset)
        for stage, spent in outcome.seconds.items():
            seconds[stage] += spent
        start = time.perf_counter()
        if not outcome.reason:
            writer.add(asset.key, outcome.members)
            images += sum(member.endswith(".png") for member in outcome.members)
        rows.append(_row(asset, outcome))
        seconds["write"] += time.perf_counter() - start
    start = time.perf_counter()
    record = writer.publish(store)
    store.write(manifest.path_of(name), manifest.encode(record, rows, plan))
    seconds["write"] += time.perf_counter() - start
    reasons = Counter(row.reason for row in rows if row.reason)
    return ShardResult(name, len(record.members), dict(reasons), images, record.size, seconds, time.perf_counter() - begin)


def _row(asset: Planned, outcome: Outcome) -> manifest.Row:
    return manifest.Row(
        asset.key,
        asset.cls,
        asset.split,
        asset.source,
        asset.licence,
        asset.sha256,
        outcome.reason,
        outcome.message,
        outcome.flags,
        outcome.pixels_sha256,
    )
