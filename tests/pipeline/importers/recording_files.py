"""Small files of the kind that the benchmarks give out, written as their makers' programs write them."""

from __future__ import annotations

import lzma
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image

RADHAR_COLUMNS = ("point_id", "x", "y", "z", "range", "velocity", "doppler_bin", "bearing", "intensity")


def radhar_record(seq: int, secs: int, nsecs: int, point: dict[str, Any]) -> str:
    lines = ["header: ", f"  seq: {seq}", "  stamp: ", f"    secs: {secs}", f"    nsecs: {nsecs:>9}", '  frame_id: "ti_mmwave"']
    return "\n".join([*lines, *(f"{name}: {point[name]}" for name in RADHAR_COLUMNS), "---", ""])


def radhar_point(number: int, rng: np.random.Generator) -> dict[str, Any]:
    x, y, z = rng.integers(1, 2000, 3) / 512
    return {
        "point_id": number,
        "x": x,
        "y": y,
        "z": z,
        "range": 1.065 * float(np.sqrt(x * x + y * y + z * z)),
        "velocity": 0.0,
        "doppler_bin": 8,
        "bearing": float(np.degrees(np.arctan2(y, x))),
        "intensity": float(rng.uniform(5, 60)),
    }


def radhar_points(frames: int, seed: int = 0) -> list[dict[str, Any]]:
    """The points of a recording, frame by frame; ids begin at 0 and have holes."""
    rng = np.random.default_rng(seed)
    points = []
    for _ in range(frames):
        ids = np.concatenate(([0], np.cumsum(rng.integers(1, 3, rng.integers(2, 6)))))
        points += [radhar_point(int(number), rng) for number in ids]
    return points


def radhar_text(points: Sequence[dict[str, Any]], seq: int = 3026037) -> str:
    """Stamps are arrivals: frames come in pairs, 1 ms apart, then 58 ms of nothing."""
    frame, text = -1, []
    for number, point in enumerate(points):
        frame += point["point_id"] == 0
        nanoseconds = 152442104 + frame // 2 * 59_000_000 + frame % 2 * 1_000_000 + number * 1000
        text.append(radhar_record(seq + number, 1561686032 + nanoseconds // 10**9, nanoseconds % 10**9, point))
    return "".join(text)


def write_radhar(root: Path, files: dict[str, int] | None = None, sessions: bool = True) -> Path:
    """files: "Train/walk/20_walk_1" → number of frames. Sessions go round A to D in the order of the files."""
    folders = (("Train", "walk"), ("Train", "jack"), ("Test", "walk"))
    files = files or {f"{side}/{cls}/20_{cls}_{n}": 5 + n for side, cls in folders for n in (1, 2)}
    rows = ["file,split,class,session"]
    for number, (name, frames) in enumerate(files.items()):
        path = root / "Data" / f"{name}.txt.xz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(lzma.compress(radhar_text(radhar_points(frames, number)).encode(), preset=0))
        side, cls, _ = name.split("/")
        rows.append(f"Data/{name}.txt.xz,{side.lower()},{cls},{'ABCD'[number % 4]}")
    if sessions:
        (root / "index.csv").write_text("\n".join(rows) + "\n")
    return root


MHOMEGES_HEADER = "Frame #,# Obj,X,Y,Z,Doppler,Intensity"


def mhomeges_rows(numbers: Sequence[int], points: int = 3, seed: int = 0) -> list[list[float]]:
    """`points` rows for each frame's number."""
    rng = np.random.default_rng(seed)
    rows: list[list[float]] = []
    for number in np.repeat(numbers, points).tolist():
        x, y, z = np.round(rng.uniform(-1, 1, 3), 4).tolist()
        rows.append([number, points, x, 2 + y, z, 0.356 * int(rng.integers(-3, 4)), int(rng.integers(1, 40))])
    return rows


def write_mhomeges_file(path: Path, rows: Sequence[Sequence[float]], newline: str = "\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = newline.join([MHOMEGES_HEADER, *(",".join(f"{value:g}" for value in row) for row in rows), ""])
    path.write_bytes(text.encode())
    return path


def write_mhomeges(root: Path, people: Sequence[str] = ("804", "805", "806", "807"), gestures: Sequence[str] = ("clap", "z")) -> Path:
    """Three repetitions a file, of 5, 6 and 3 frames."""
    for number, person in enumerate(people):
        for other, gesture in enumerate(gestures):
            numbers = [*range(10, 15), *range(30, 36), *range(50, 53)]
            path = root / "longGes_1.8m" / person / f"point_{person}_1.8m_{gesture}.csv"
            write_mhomeges_file(path, mhomeges_rows(numbers, seed=10 * number + other))
    return root


def msr_depth(frames: int, seed: int = 0, size: tuple[int, int] = (6, 8)) -> np.ndarray:
    """(F, H, W) uint32, mm, 0 where nothing is."""
    rng = np.random.default_rng(seed)
    depth = rng.integers(800, 3000, (frames, *size), dtype=np.uint32)
    return np.where(rng.random(depth.shape) < 0.6, depth, 0).astype(np.uint32)


def msr_clouds(depth: np.ndarray) -> list[np.ndarray]:
    """Pixel by pixel what D.10 says: mm."""
    _, height, width = depth.shape
    clouds = []
    for frame in depth:
        points = []
        for v in range(height):
            for u in range(width):
                z = float(frame[v, u])
                if z > 0:
                    points.append(((u - width / 2) / 280 * z, (v - height / 2) / 280 * z, z))
        clouds.append(np.array(points).reshape(-1, 3))
    return clouds


def write_msr(path: Path, depth: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    frames, height, width = depth.shape
    path.write_bytes(np.array([frames, width, height], "<u4").tobytes() + depth.astype("<u4").tobytes())
    return path


def write_msr_npz(path: Path, clouds: Sequence[np.ndarray]) -> Path:
    """As the published preprocessing saves them: a ragged list becomes an array of objects."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ragged = np.empty(len(clouds), object)
    ragged[:] = clouds
    np.savez_compressed(path, point_clouds=ragged)
    return path


def write_hoi4d(
    path: Path, rows: int, seed: int = 0, *, frames: int = 6, points: int = 16, labels: str | None = "label"
) -> dict[str, np.ndarray]:
    """labels: "label", "semantic" or None. Gives the arrays."""
    rng = np.random.default_rng(seed)
    pcd = rng.normal(0, 0.4, (rows, frames, points, 3)).astype(np.float32) + np.float32(1)
    arrays: dict[str, np.ndarray] = {"pcd": pcd, "center": pcd.mean(axis=2)}
    if labels == "label":
        arrays["label"] = np.sort(rng.integers(0, 19, (rows, frames)), axis=1)
    elif labels == "semantic":
        arrays["semantic"] = rng.integers(0, 49, (rows, frames, points))
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array)
    return arrays


def hoi4d_line(number: int) -> str:
    return f"ZY2021080000{number % 4 + 1}/H{number % 4 + 1}/C{number % 9 + 1}/N{number:02d}/S{100 + number}/s0{number % 5}/T1"


def write_synthia(path: Path, number: int, points: int = 32, **changes: np.ndarray) -> dict[str, np.ndarray]:
    """One frame of the sequence that `path` names: FOLDER/SYNTHIA-SEQS-XX-NAME."""
    rng = np.random.default_rng(number)
    centre = np.array([100.0 + number, 2.0, -40.0])
    arrays = {
        "pc": centre + rng.uniform(-20, 20, (points, 3)),
        "rgb": rng.random((points, 3)),
        "semantic": np.arange(points) % 16,
        "center": centre,
    } | changes
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path.with_name(f"{path.name}-{number:06d}.npz"), **arrays)
    return arrays


def write_hoi4d_images(root: Path, line: str, count: int, seed: int = 0, size: tuple[int, int] = (48, 32)) -> list[np.ndarray]:
    """LINE/align_rgb/00000.jpg, …, as a video decoder writes them; gives their pixels as decoded. size: width, height."""
    rng = np.random.default_rng(seed)
    folder = root / line / "align_rgb"
    folder.mkdir(parents=True, exist_ok=True)
    images = []
    for number in range(count):
        coarse = rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(folder / f"{number:05d}.jpg", quality=90)
        with Image.open(folder / f"{number:05d}.jpg") as picture:
            images.append(np.asarray(picture))
    return images
