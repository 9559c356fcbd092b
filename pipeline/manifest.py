"""The manifest: one Parquet file per shard with a row per asset, failed ones included. A shard is true once its manifest is there.

Columns: key, class, split, source, licence, sha256 (content of the asset), shard, status ("ok", "failed"), reason and message (of a
failure), flags, pixels_sha256 (of the pictures' scanlines, see `pipeline.png.encode`), members (name, offset and size in the shard).
The file's metadata holds the shard's name, size and sha256, and the hash of the plan. The same shard gives the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.shards import ShardRecord
from pipeline.storage import Store

FOLDER = "manifest"
_META = b"crossloom"
_MEMBER = pa.struct([("name", pa.string()), ("offset", pa.int64()), ("size", pa.int64())])
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("class", pa.string()),
        ("split", pa.string()),
        ("source", pa.string()),
        ("licence", pa.string()),
        ("sha256", pa.string()),
        ("shard", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("message", pa.string()),
        ("flags", pa.list_(pa.string())),
        ("pixels_sha256", pa.string()),
        ("members", pa.list_(_MEMBER)),
    ]
)


@dataclass(frozen=True)
class Row:
    """What became of one asset. reason and message are "" for a sample; pixels_sha256 is "" for a failure."""

    key: str
    cls: str
    split: str
    source: str
    licence: str
    sha256: str
    reason: str
    message: str
    flags: tuple[str, ...]
    pixels_sha256: str


@dataclass(frozen=True)
class Manifest:
    """A shard's manifest as read: the table of SCHEMA, the shard's name, size and sha256, the plan's hash, the file's own sha256."""

    table: pa.Table
    shard: str
    size: int
    shard_sha256: str
    plan: str
    sha256: str


class ManifestError(Exception):
    """A manifest is damaged or not ours. The text is one sentence."""


def path_of(shard: str) -> str:
    """The name, within the dataset, of a shard's manifest."""
    return f"{FOLDER}/{shard}.parquet"


def encode(record: ShardRecord, rows: Iterable[Row], plan: str) -> bytes:
    """The bytes of a shard's manifest; rows keep their order."""
    rows = list(rows)
    members = [[vars(member) for member in record.members.get(row.key, ())] for row in rows]
    columns: Mapping[str, list[object]] = {
        "key": [row.key for row in rows],
        "class": [row.cls for row in rows],
        "split": [row.split for row in rows],
        "source": [row.source for row in rows],
        "licence": [row.licence for row in rows],
        "sha256": [row.sha256 for row in rows],
        "shard": [record.name] * len(rows),
        "status": ["failed" if row.reason else "ok" for row in rows],
        "reason": [row.reason for row in rows],
        "message": [row.message for row in rows],
        "flags": [list(row.flags) for row in rows],
        "pixels_sha256": [row.pixels_sha256 for row in rows],
        "members": list(members),
    }
    meta = {"shard": record.name, "size": record.size, "sha256": record.sha256, "plan": plan}
    table = pa.table(dict(columns), schema=SCHEMA.with_metadata({_META: json.dumps(meta, sort_keys=True)}))
    sink = io.BytesIO()
    pq.write_table(table, sink, version="2.6", compression="zstd", compression_level=3, use_dictionary=True, write_statistics=True)
    return sink.getvalue()


def read_parquet(data: bytes) -> pa.Table:
    """A Parquet file's table, read in this thread alone: the pools that pyarrow starts otherwise abort a process that ends soon after.

    Raises pyarrow's errors.
    """
    return pq.ParquetFile(io.BytesIO(data), pre_buffer=False).read(use_threads=False)


def decode(data: bytes, name: str) -> Manifest:
    """A manifest from its bytes. Raises ManifestError."""
    try:
        table = read_parquet(data)
        meta = json.loads(table.schema.metadata[_META])
        table = table.replace_schema_metadata(None).cast(SCHEMA)
        return Manifest(table, meta["shard"], meta["size"], meta["sha256"], meta["plan"], hashlib.sha256(data).hexdigest())
    except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise ManifestError(
            f"{name} is no manifest of this format or is damaged ({str(error)[:80]}); remove it and generate again."
        ) from None


def read_all(store: Store) -> list[Manifest]:
    """Every manifest of a dataset, by name. Raises ManifestError, StorageError."""
    names = sorted(name for name in store.files(FOLDER) if name.endswith(".parquet"))

    def read(name: str) -> Manifest:
        return decode(store.read(f"{FOLDER}/{name}"), f"{store.uri}/{FOLDER}/{name}")

    if len(names) < 8:
        return [read(name) for name in names]
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(read, names))


def fingerprint(manifests: Iterable[Manifest]) -> str:
    """The dataset's fingerprint: hex sha256 over the lines "sha256  shard" of its manifests in the order of their shards."""
    lines = sorted(f"{manifest.shard}  {manifest.sha256}\n" for manifest in manifests)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
