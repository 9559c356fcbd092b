"""How far a dataset is, from its files alone: another terminal or host can ask while it is being made."""

from __future__ import annotations

from collections import Counter
from typing import Any

from pipeline import dataset, manifest
from pipeline.dataset import DatasetError
from pipeline.manifest import ManifestError
from pipeline.sources.asset import SPLITS
from pipeline.storage import StorageError, Store


def status(uri: str) -> list[dict[str, Any]]:
    """A row per split and one of all: shards and assets done of those planned, samples, failures by reason, assets a second and the
    seconds left at the rate from the first shard to the last (None where nothing tells). Raises DatasetError.
    """
    try:
        store = Store(uri)
        info = dataset.load_info(store)
        manifests = manifest.read_all(store)
        times = store.times(manifest.FOLDER)
    except (ManifestError, StorageError) as error:
        raise DatasetError(str(error)) from error
    size = info["recipe"]["shard_assets"]
    rows = []
    for split in (*(split for split in SPLITS if split in info["plan"]["splits"]), "all"):
        found = [item for item in manifests if split in ("all", item.shard.rsplit("-", 1)[0])]
        planned = info["plan"]["splits"] if split == "all" else {split: info["plan"]["splits"][split]}
        done = sum(len(item.table) for item in found)
        reasons = Counter(reason for item in found for reason in item.table["reason"].to_pylist() if reason)
        moments = sorted((times[f"{item.shard}.parquet"], len(item.table)) for item in found if f"{item.shard}.parquet" in times)
        rate = _rate(moments)
        left = sum(planned.values()) - done
        rows.append(
            {
                "split": split,
                "shards": len(found),
                "of_shards": sum(-(-assets // size) for assets in planned.values()),
                "assets": done,
                "of_assets": sum(planned.values()),
                "samples": done - sum(reasons.values()),
                "failed": sum(reasons.values()),
                "reasons": ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items())),
                "assets_per_s": rate,
                "left_s": left / rate if rate and left else None,
            }
        )
    return rows


def _rate(moments: list[tuple[float, int]]) -> float | None:
    """Assets a second between the first and the last of these moments; the first shard's assets were made before it."""
    span = moments[-1][0] - moments[0][0] if len(moments) > 1 else 0.0
    return sum(assets for _, assets in moments[1:]) / span if span > 0 else None


def flags(uri: str) -> dict[str, int]:
    """Quality flag → samples that carry it, the most frequent first. Raises DatasetError."""
    try:
        tables = [item.table for item in manifest.read_all(Store(uri))]
    except (ManifestError, StorageError) as error:
        raise DatasetError(str(error)) from error
    return dict(Counter(flag for table in tables for found in table["flags"].to_pylist() for flag in found).most_common())
