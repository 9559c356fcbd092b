"""A clip as one animated picture: its points as the camera sees them beside its frames. For a README, a talk or a report."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.page.clips import recorded_up, reel_of, seen, shown_frames, upright
from pipeline.page.clouds import PALETTE
from pipeline.reader import Dataset

Picture = npt.NDArray[np.uint8]

_STAGE = (207, 212, 215)
_INK = (18, 71, 124)
_NO_PART = (128, 128, 128)


def side_by_side(dataset: Dataset, index: int, *, side: int = 128, frames: int = 24) -> tuple[list[Picture], int]:
    """Pictures (side, 2 · side, 3) of at most `frames` instants of a clip: points left, frame right, seen by one camera.

    A clip without frames gives (side, side, 3), its points from a camera that stands still before it. And the milliseconds of each.
    """
    names = dataset.members(index)
    sample = dataset.load(index, [name for name in ("json", "clip.npy", "parts.npy", "valid.npy") if name in names])
    about, clip = sample["json"], sample["clip.npy"]
    shown = shown_frames(len(clip), float(about["clip"]["fps"]), frames)
    tints = np.array([[*bytes.fromhex(color)] for color in PALETTE] + [_NO_PART], np.uint8)
    filmed = f"f{shown[0]:03d}.png" in names
    if about["clip"]["points"] == "recorded":
        clip = upright(clip, sample.get("valid.npy"), recorded_up(dataset.info["recipe"]["source"]))
    valid = seen(sample["valid.npy"]) if "valid.npy" in sample else np.ones(clip.shape[:2], bool)
    found = []
    for number in shown:
        there = valid[number]
        parts = sample["parts.npy"][number][there] if "parts.npy" in sample else None
        colors = np.full((int(there.sum()), 3), _INK, np.uint8)
        if parts is not None:
            colors = tints[np.where(parts < 0, len(PALETTE), parts % len(PALETTE))]
        rig = about.get("cameras")
        pose = np.array(rig["world_to_camera"][number]) if rig else _STANDING
        focal = rig["K"][number][0][0] / rig["width"] if rig else 1.4
        picture = splats(clip[number][there], colors, pose, focal, side)
        if filmed:
            frame = Image.fromarray(dataset.load(index, [f"f{number:03d}.png"])[f"f{number:03d}.png"][..., :3])
            picture = np.concatenate([picture, np.asarray(frame.resize((side, side), Image.Resampling.LANCZOS))], axis=1)
        found.append(picture)
    return found, reel_of(about["clip"]["times_s"], shown, None, []).interval_ms


_STANDING = np.array([[0.8253, 0, -0.5646, 0], [0.2199, -0.921, 0.3214, 0], [-0.52, -0.3894, -0.7602, 3.2]])


def splats(points: npt.NDArray[np.float32], colors: Picture, pose: npt.NDArray[np.float64], focal: float, side: int) -> Picture:
    """Points (N, 3) with colours (N, 3) as round dots, near ones over far ones: (side, side, 3).

    pose: world to camera, OpenCV axes; focal: in picture widths. Drawn at twice the size and halved, which smoothes the edges.
    """
    wide = 2 * side
    placed = points.astype(np.float64) @ pose[:3, :3].T + pose[:3, 3]
    order = np.argsort(-placed[:, 2], kind="stable")
    order = order[placed[order, 2] > 0.05]
    placed, colors = placed[order], colors[order]
    canvas = np.empty((wide, wide, 3), np.uint8)
    canvas[:] = _STAGE
    column = np.floor((placed[:, 0] / placed[:, 2] * focal + 0.5) * wide).astype(int)
    row = np.floor((placed[:, 1] / placed[:, 2] * focal + 0.5) * wide).astype(int)
    radius = max(1.5, wide / (110 if len(points) > 128 else 50))
    depth = (placed[:, 2] - placed[:, 2].min(initial=np.inf)) / max(float(np.ptp(placed[:, 2])) if len(placed) else 0.0, 1e-9)
    faded = np.rint(colors + (np.array(_STAGE) - colors) * (0.4 * depth)[:, None]).astype(np.uint8)
    reach = int(np.ceil(radius))
    u, v = np.array([(u, v) for u in range(-reach, reach + 1) for v in range(-reach, reach + 1) if u * u + v * v <= radius * radius]).T
    x, y = column[:, None] + u, row[:, None] + v
    inside = (x >= 0) & (x < wide) & (y >= 0) & (y < wide)
    # of places that come twice the last one counts, the nearest
    canvas[y[inside], x[inside]] = np.broadcast_to(faded[:, None], (*inside.shape, 3))[inside]
    small: npt.NDArray[np.uint16] = canvas.reshape(side, 2, side, 2, 3).astype(np.uint16).sum(axis=(1, 3))
    return np.asarray((small + 2) // 4, np.uint8)


def webp(pictures: Sequence[Picture], interval_ms: int, quality: int = 70) -> bytes:
    """The pictures as an animated WebP that repeats for ever, or the one picture as a WebP."""
    first, *rest = [Image.fromarray(picture) for picture in pictures]
    buffer = io.BytesIO()
    if rest:
        first.save(buffer, "WEBP", save_all=True, append_images=rest, duration=interval_ms, loop=0, quality=quality, method=4)
    else:
        first.save(buffer, "WEBP", quality=quality, method=4)
    return buffer.getvalue()


def data_uri(content: bytes) -> str:
    """A WebP as a data URI."""
    return "data:image/webp;base64," + base64.b64encode(content).decode()
