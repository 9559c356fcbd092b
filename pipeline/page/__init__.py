"""What the static pages share: one file each, nothing fetched from outside, all names escaped.

`base.html.j2` holds the frame, `style.css` the looks, `orbit.js` turning clouds, `pair.html.j2` a sample as cloud and views, `reel.js` and
`clip.html.j2` one whose cloud and frames play in step.
"""

from __future__ import annotations

import base64
import io
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from pipeline.page.clouds import PALETTE, POINTS
from pipeline.page.clouds import Cloud as Cloud
from pipeline.page.clouds import cloud as cloud
from pipeline.reader import Dataset

HERE = Path(__file__).parent
THUMBNAIL = 224


@dataclass(frozen=True)
class View:
    """A picture as data URIs, "" for what is not stored. camera: world to camera rows (12), then focal length in picture widths, or ()."""

    name: str
    color: str
    depth: str = ""
    mask: str = ""
    camera: tuple[float, ...] = ()


@dataclass(frozen=True)
class Pair:
    """A sample to look at."""

    key: str
    cls: str
    split: str
    source: str
    licence: str
    flags: tuple[str, ...]
    views: tuple[View, ...]
    views_stored: int
    cloud: Cloud


def environment(*folders: Path) -> Environment:
    """Templates of these folders, then the shared ones; everything is escaped, and an unknown name is an error."""
    env = Environment(
        loader=FileSystemLoader([*folders, HERE]), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    env.globals["inline"] = lambda name: Markup((HERE / name).read_text(encoding="utf-8"))
    env.globals["palette"] = PALETTE
    env.filters["count"] = lambda value: f"{value:,}"
    env.filters["size"] = size
    return env


def write(to: Path, text: str) -> Path:
    """Writes a page whole or not at all."""
    to = Path(to)
    to.parent.mkdir(parents=True, exist_ok=True)
    part = to.with_name(f".{to.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        # a source's path may hold stray bytes
        part.write_text(text, encoding="utf-8", errors="replace")
        part.rename(to)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return to


def size(value: float) -> str:
    """Bytes as a person says them: 512 B, 3.1 MiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def view_names(dataset: Dataset, index: int) -> list[str]:
    """The colour pictures of a sample, in order."""
    return [name for name in dataset.members(index) if name.startswith("v") and name.endswith(".png")]


def spread(items: Sequence[Any], most: int) -> list[Any]:
    """At most `most` of the items, evenly over the list, the first among them."""
    if len(items) <= most:
        return list(items)
    return [items[i * len(items) // most] for i in range(most)]


def thumbnail(image: npt.NDArray[Any], side: int = THUMBNAIL) -> str:
    """A picture (H, W, C), uint8 colour or mask or uint16 depth, as the data URI of a WebP within side × side pixels."""
    if image.dtype == np.uint16:
        image = _near_is_light(image)
    picture = Image.fromarray(image[..., 0] if image.ndim == 3 and image.shape[-1] == 1 else image)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=82, method=2)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def _near_is_light(depth: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint8]:
    seen = depth > 0
    if not seen.any():
        return np.zeros(depth.shape, np.uint8)
    near, far = float(depth[seen].min()), float(depth[seen].max())
    grey = 255 - 190 * (depth - near) / max(far - near, 1.0)
    return np.where(seen, grey, 0).astype(np.uint8)


def load_cloud(dataset: Dataset, index: int, *, most: int = POINTS, seed: int = 0) -> Cloud:
    """The sample's cloud of at most `most` points with whatever the dataset stores beside them."""
    present = dataset.members(index)
    wanted = [name for name in ("points.npy", "colors.npy", "normals.npy", "parts.npy") if name in present]
    found = dataset.load(index, wanted)
    return cloud(found["points.npy"], found.get("colors.npy"), found.get("normals.npy"), found.get("parts.npy"), most=most, seed=seed)


def load_pair(
    dataset: Dataset, index: int, *, most_views: int = 12, layers: bool = True, bytes_allowed: float = float("inf"), seed: int = 0
) -> Pair:
    """A sample with at most `most_views` of its views (with depth and mask where `layers`), fewer if they would exceed `bytes_allowed`."""
    names = view_names(dataset, index)
    present = set(dataset.members(index))
    about = dataset.load(index, ["json"])["json"]
    # at most half of the bytes go to the cloud: 10 a point, a third more as text
    most = max(POINTS // 4, int(min(POINTS, bytes_allowed / 2 / (10 * 4 / 3))))
    points = load_cloud(dataset, index, most=most, seed=seed)
    room = bytes_allowed - sum(map(len, (points.points, points.colors, points.normals, points.parts)))
    views: list[View] = []
    for name in spread(names, most_views):
        others = {kind: f"{kind[0]}{name[1:]}" for kind in ("depth", "mask") if layers and f"{kind[0]}{name[1:]}" in present}
        found = dataset.load(index, [name, *others.values()])
        view = View(
            name.removesuffix(".png"),
            thumbnail(found[name]),
            **{kind: thumbnail(found[other]) for kind, other in others.items()},
            camera=_camera(about, names.index(name)),
        )
        room -= len(view.color) + len(view.depth) + len(view.mask)
        if views and room < 0:
            break
        views.append(view)
    row = dataset.table.slice(index, 1).to_pylist()[0]
    facts = (row["key"], row["class"], row["split"], row["source"], row["licence"], tuple(row["flags"]))
    return Pair(*facts, tuple(views), len(names), points)


def _camera(about: dict[str, Any], number: int) -> tuple[float, ...]:
    rig = about.get("cameras")
    if not rig:
        return ()
    rows = [value for row in rig["world_to_camera"][number][:3] for value in row]
    return tuple(round(float(value), 4) for value in (*rows, rig["K"][number][0][0] / rig["width"]))
