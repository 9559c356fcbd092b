"""Counts and sizes of a dataset by split, from its manifests alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import dataset, manifest
from pipeline.dataset import DatasetError
from pipeline.manifest import ManifestError
from pipeline.sources.asset import SPLITS
from pipeline.storage import StorageError, Store

# name of the column: how a member's name begins, how it ends
_PICTURES = {"views": ("v", ".png"), "depths": ("d", ".png"), "masks": ("m", ".png"), "frames": ("f", ".png")}
_NPY_HEADER = 128


def stats(uri: str) -> list[dict[str, Any]]:
    """A row per split and one of all: samples, failed and flagged assets, classes, members and their bytes, points, pictures by kind.

    Works on an unfinished dataset too, for the shards that are there. Raises DatasetError.
    """
    try:
        store = Store(uri)
        dataset.load_info(store)
        tables = [item.table for item in manifest.read_all(store)]
    except (ManifestError, StorageError) as error:
        raise DatasetError(str(error)) from error
    table = pa.concat_tables(tables) if tables else manifest.SCHEMA.empty_table()
    splits = [split for split in SPLITS if split in pc.unique(table["split"]).to_pylist()]
    rows = [_row(split, table.filter(pc.equal(table["split"], split))) for split in splits]
    rows.append(_row("all", table))
    unused = [name for name in _PICTURES if name != "views" and not rows[-1][name]]
    return [{name: value for name, value in row.items() if name not in unused} for row in rows]


def _row(split: str, table: pa.Table) -> dict[str, Any]:
    done = table.filter(pc.equal(table["status"], "ok"))
    members = pc.list_flatten(done["members"]).combine_chunks()
    names, sizes = members.field("name"), members.field("size")
    pictures = {
        column: int(pc.sum(pc.and_(pc.starts_with(names, head), pc.ends_with(names, tail))).as_py() or 0)
        for column, (head, tail) in _PICTURES.items()
    }
    clouds = sizes.filter(pc.is_in(names, pa.array(["points.npy", "clip.npy"])))
    return {
        "split": split,
        "samples": len(done),
        "failed": len(table) - len(done),
        "flagged": int(np.count_nonzero(pc.list_value_length(done["flags"]).to_numpy())),
        "classes": len(pc.unique(done["class"])),
        "members": len(names),
        "bytes": int(pc.sum(sizes).as_py() or 0),
        # (…, 3) float32 behind a header
        "points": (int(pc.sum(clouds).as_py() or 0) - _NPY_HEADER * len(clouds)) // 12,
        **pictures,
    }
