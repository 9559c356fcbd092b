"""The dataset card: what a dataset holds, how it was made, how to read it, as Markdown."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import yaml

from pipeline import manifest, page
from pipeline.gallery import class_counts, essentials
from pipeline.reader import Dataset
from pipeline.stats import stats
from pipeline.storage import Store

NAME = "README.md"
_MEANING = {
    "json": "class, split, source, sha256, licence, normalisation (centre, scale), cameras (K, world_to_camera)",
    "points.npy": "(N, 3) float32, positions",
    "normals.npy": "(N, 3) float32, unit normals",
    "colors.npy": "(N, 3) uint8, colours",
    "clip.npy": "(T, N, 3) float32, positions at each instant; the instants' seconds stand in the json",
    "actions.npy": "(T,) int16, action numbers; their names stand in the json, -1 for none",
    "features.npy": "(T, N, F) float32, values that go with the points; their names stand in the json",
    "valid.npy": "(T, N) bool, False for a repeated point that only fills up",
    "parts.npy": "(N,) or (T, N) int16, part numbers; their names stand in the json, -1 for none",
}
_PICTURES = {"v": "views", "d": "depth, 16 bits", "m": "masks", "f": "frames, one for each instant of the clip"}


def _portable(recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe without the place where its meshes happened to lie."""
    return recipe | {"source": {key: value for key, value in recipe["source"].items() if key not in ("path", "images")}}


def card(uri: str) -> str:
    """The text of README.md for a finished dataset. Raises DatasetError."""
    dataset = Dataset.open(uri)
    info = dataset.info
    rows = [row for item in manifest.read_all(Store(uri)) for row in item.table.select(["licence", "reason", "flags"]).to_pylist()]
    licences = Counter(row["licence"] or "not stated" for row in rows if not row["reason"])
    reasons = Counter(row["reason"] for row in rows if row["reason"])
    flags = Counter(flag for row in rows for flag in row["flags"])
    splits = list(dict.fromkeys(dataset.splits.tolist()))
    parts = [
        f"# {_cell(info['name'])}",
        f"{len(dataset):,} {_what(dataset)}, in {len(set(dataset.classes.tolist())):,} classes.",
        f"Fingerprint: `{dataset.fingerprint}`",
        "## Contents",
        _contents(uri),
        _table(
            ["class", *splits, "all"],
            [[cls, *(f"{found.get(split, 0):,}" for split in splits), f"{total:,}"] for cls, found, total in class_counts(dataset)],
        ),
        "## Licences",
        _table(["licence", "samples"], [[name, f"{count:,}"] for name, count in licences.most_common()]),
        "Each sample's own licence stands in its json and in the manifest.",
        "## How it was made",
        _table(["", ""], [[name, words] for name, words in essentials(info)]),
        "The recipe as resolved (`crossloom generate` makes the same bytes of it from the same source):",
        _code("yaml", yaml.safe_dump(_portable(info["recipe"]), sort_keys=False, allow_unicode=True)),
        "## Layout",
        "`shards/*.tar` are WebDataset shards; `manifest/*.parquet` holds a row per asset, failed ones included, with the byte offset and "
        "size of every member; `dataset.json` holds recipe, counts and conventions. A sample consists of",
        _table(["member", "contents"], _members(dataset)),
        "Axes and units, as `dataset.json` states them:",
        _table(["", ""], [[name, str(words)] for name, words in info["conventions"].items()]),
        "## Reading it",
        _code("python", _snippet(dataset)),
        "## Failures and flags",
        _table(["reason of failure", "assets"], [[name, f"{count:,}"] for name, count in reasons.most_common()])
        if reasons
        else "Every asset of the plan became a sample.",
        _table(["quality flag", "assets"], [[name, f"{count:,}"] for name, count in flags.most_common()])
        if flags
        else "No asset carries a flag.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _what(dataset: Dataset) -> str:
    names = dataset.members(0) if len(dataset) else ()
    if "clip.npy" in names:
        return "point-cloud videos, each with an image video of the same instants" if "f000.png" in names else "point-cloud videos"
    return "point clouds, each with pictures of the same object"


def _contents(uri: str) -> str:
    rows = stats(uri)
    pictures = [name for name in ("views", "frames") if rows[-1].get(name)]
    names = ("split", "samples", "failed", "classes", "points", *pictures)
    cells = [[*(value if isinstance(value := row[n], str) else f"{value:,}" for n in names), page.size(row["bytes"])] for row in rows]
    return _table([*names, "size"], cells)


def _members(dataset: Dataset) -> list[list[str]]:
    """The members of the first sample, pictures of one kind together."""
    if not len(dataset):
        return []
    names = dataset.members(0)
    rows = [[f"`KEY.{name}`", _MEANING[name]] for name in _MEANING if name in names]
    for letter, words in _PICTURES.items():
        found = [name for name in names if re.fullmatch(letter + r"\d+\.png", name)]
        if found:
            rows.append([f"`KEY.{found[0]}` … `KEY.{found[-1]}`" if len(found) > 1 else f"`KEY.{found[0]}`", words])
    return rows


def _snippet(dataset: Dataset) -> str:
    """A program that reads the dataset with webdataset alone, from within its folder."""
    names = dataset.members(0) if len(dataset) else ()
    if "clip.npy" in names:
        return _clip_snippet("f000.png" in names, cameras=dataset.info["recipe"]["source"]["kind"] != "recording")
    view = page.view_names(dataset, 0)[0] if len(dataset) else "v00.png"
    return f"""import glob, io, json
import numpy as np, webdataset as wds
from PIL import Image

for sample in wds.WebDataset(sorted(glob.glob("shards/*.tar")), shardshuffle=False):
    facts = json.loads(sample["json"])
    points = np.load(io.BytesIO(sample["points.npy"]))      # (N, 3)
    image = Image.open(io.BytesIO(sample["{view}"]))
    K = np.array(facts["cameras"]["K"])[0]                   # of the first view
    world_to_camera = np.array(facts["cameras"]["world_to_camera"])[0]
    print(sample["__key__"], facts["class"], points.shape, image.size)"""


def _clip_snippet(frames: bool, cameras: bool) -> str:
    pictures = ""
    if frames:
        pictures = """
    frame = Image.open(io.BytesIO(sample["f000.png"]))      # of the first instant"""
        if cameras:
            pictures += """
    world_to_camera = np.array(facts["cameras"]["world_to_camera"])[0]"""
    packages = "import numpy as np, webdataset as wds" + ("\nfrom PIL import Image" if frames else "")
    return f"""import glob, io, json
{packages}

for sample in wds.WebDataset(sorted(glob.glob("shards/*.tar")), shardshuffle=False):
    facts = json.loads(sample["json"])
    clip = np.load(io.BytesIO(sample["clip.npy"]))          # (T, N, 3){pictures}
    times_s = facts["clip"]["times_s"]                       # (T,)
    print(sample["__key__"], facts["class"], clip.shape, times_s[-1])"""


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [list(head), ["---"] * len(head), *([_cell(str(value)) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) if len(lines) > 2 else ""


def _cell(text: str) -> str:
    """Names come from folders and files: they must not become markup, nor end a cell or a line."""
    return re.sub(r"\s+", " ", text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")) or " "


def _code(language: str, text: str) -> str:
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"
