"""The plan: which asset goes into which shard. A pure function of recipe and contents; a resumed run must find the same one."""

from __future__ import annotations

import hashlib
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import sources
from pipeline.manifest import read_parquet
from pipeline.recipe import FORMAT, Recipe
from pipeline.sources import AnimatedSource, FolderSource
from pipeline.sources.asset import SPLITS, Asset, SourceError

_KEY_LENGTH = 80
_COLUMNS = ("key", "class", "split", "source", "licence", "sha256", "shard")


@dataclass(frozen=True)
class Planned:
    """An asset with its place. `source` is its URI relative to the recipe's source; sha256 that of its content."""

    key: str
    cls: str
    split: str
    source: str
    licence: str
    sha256: str


@dataclass(frozen=True)
class Plan:
    """A table of strings with the columns key, class, split, source, licence, sha256, shard, sorted by shard and key; the name and
    first row of each shard; the number of assets that the source's rules left out, by rule; the hash of it all."""

    table: pa.Table
    starts: dict[str, int]
    left_out: dict[str, int]
    hash: str

    def assets(self, shard: str) -> list[Planned]:
        """The assets of one shard, in order."""
        names = list(self.starts)
        following = names.index(shard) + 1
        stop = self.starts[names[following]] if following < len(names) else len(self.table)
        part = self.table.slice(self.starts[shard], stop - self.starts[shard]).to_pydict()
        return [Planned(*row) for row in zip(*(part[name] for name in _COLUMNS[:-1]), strict=True)]


def make_plan(recipe: Recipe) -> Plan:
    """Lists the source's assets, hashes their contents, applies the recipe's rules on splits. Raises SourceError."""
    left_out: Counter[str] = Counter()
    rows = [(_placed(recipe, asset, digest), digest) for asset, digest in _hashed(recipe, _kept(recipe, left_out))]
    if not rows and left_out:
        rules = ", ".join(f"{count} {rule}" for rule, count in left_out.items())
        raise SourceError(f"Everything in the source is left out ({rules}); change the recipe's rules.")
    if not rows:
        raise SourceError("The source gives nothing to make a dataset of; change what the recipe's source asks for.")
    if isinstance(recipe.source, FolderSource):
        if recipe.source.leave_out_identical:
            known = {digest for asset, digest in rows if asset.split == "train"}
            kept = [row for row in rows if row[0].split == "train" or row[1] not in known]
            left_out["identical to a train asset"] = len(rows) - len(kept)
            rows = kept
        if recipe.source.common_classes:
            present = [{asset.cls for asset, _ in rows if asset.split == split} for split in SPLITS]
            common = set.intersection(*(classes for classes in present if classes))
            kept = [row for row in rows if row[0].cls in common]
            left_out["class not in every split"] = len(rows) - len(kept)
            rows = kept
            if not rows:
                raise SourceError(f"The splits of {recipe.source.path} have no class in common; set common_classes to false.")
    keys = _keys([asset.uri for asset, _ in rows])
    planned = [
        Planned(key, asset.cls, _validation(recipe, asset, digest), asset.uri, asset.licence, digest)
        for key, (asset, digest) in zip(keys, rows, strict=True)
    ]
    return _sharded(recipe, planned, {rule: count for rule, count in left_out.items() if count})


def _kept(recipe: Recipe, left_out: Counter[str]) -> Iterator[Asset]:
    """The assets that the source does not leave out; the others are counted by rule."""
    for asset in sources.assets(recipe.source):
        if asset.left_out:
            left_out[asset.left_out] += 1
        else:
            yield asset


def _hashed(recipe: Recipe, assets: Iterable[Asset]) -> Iterator[tuple[Asset, str]]:
    def digest(asset: Asset) -> str:
        try:
            return sources.content_sha256(recipe.source, asset.uri)
        except OSError:
            # The worker meets the same fault and gives the asset its row.
            return hashlib.sha256(b"unreadable").hexdigest()

    remaining = iter(assets)
    with ThreadPoolExecutor(4) as pool:
        while batch := list(islice(remaining, 1024)):
            yield from zip(batch, pool.map(digest, batch), strict=True)


def _share(seed: int, purpose: str, digest: str) -> float:
    """A number in [0, 1) that belongs to a content or a group."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{purpose}/{digest}".encode("utf-8", "surrogatepass")).digest()[:6], "big") / 2**48


def _placed(recipe: Recipe, asset: Asset, digest: str) -> Asset:
    fraction = recipe.source.test_fraction if isinstance(recipe.source, FolderSource | AnimatedSource) else 0.0
    if fraction and asset.split != "train":
        raise SourceError(
            f"The source names a {asset.split} split ({asset.uri}): set test_fraction to 0, or it would cut the train split too."
        )
    if fraction and asset.split == "train" and _share(recipe.seed, "test", asset.group or digest) < fraction:
        return replace(asset, split="test")
    return asset


def _validation(recipe: Recipe, asset: Asset, digest: str) -> str:
    return "val" if asset.split == "train" and _share(recipe.seed, "val", asset.group or digest) < recipe.val_fraction else asset.split


def _keys(uris: list[str]) -> list[str]:
    """A key for each URI, unique and of a-z, 0-9, _ and -; whatever else is in the list, an URI without rivals keeps its plain key."""

    def slug(uri: str) -> str:
        clip = re.fullmatch(r"(.+)#([A-Za-z0-9_-]+)", uri)
        path, piece = clip.groups() if clip else (uri, "")
        stem = re.sub(r"\.[A-Za-z]+$", "", re.sub(r"^(shapes|creature):", "", path))
        parts = stem.split("/")
        if len(parts) > 1 and parts[-1] == parts[-2]:
            parts.pop()
        parts += [piece] if piece else []
        return re.sub(r"[^a-z0-9_-]+", "-", "-".join(parts).lower()).strip("-") or "asset"

    def marked(text: str, uri: str) -> str:
        return f"{text[: _KEY_LENGTH - 13]}-{hashlib.sha256(uri.encode()).hexdigest()[:12]}"

    plain = [slug(uri) for uri in uris]
    count = Counter(plain)
    keys = [key if count[key] == 1 and len(key) <= _KEY_LENGTH else marked(key, uri) for key, uri in zip(plain, uris, strict=True)]
    if len(set(keys)) != len(keys):
        raise SourceError("Two assets would get the same key; rename one of those whose names differ only in case or punctuation.")
    return keys


def _sharded(recipe: Recipe, planned: list[Planned], left_out: dict[str, int]) -> Plan:
    # The order of hashes mixes the classes, so that shards take about the same time and a plain reader sees a mixture.
    order = sorted(planned, key=lambda asset: hashlib.sha256(f"{recipe.seed}/{asset.key}".encode()).digest())
    columns: dict[str, list[str]] = {name: [] for name in _COLUMNS}
    starts: dict[str, int] = {}
    for split in SPLITS:
        members = [asset for asset in order if asset.split == split]
        for number in range(0, len(members), recipe.shard_assets):
            shard = f"{split}-{number // recipe.shard_assets:06d}"
            starts[shard] = len(columns["key"])
            for asset in sorted(members[number : number + recipe.shard_assets], key=lambda asset: asset.key):
                for name, value in zip(_COLUMNS, (*vars(asset).values(), shard), strict=True):
                    columns[name].append(value)
    digest = hashlib.sha256(f"{FORMAT}/{recipe.resolved_hash()}\n".encode())
    for row in zip(*columns.values(), strict=True):
        digest.update("\t".join(row).encode() + b"\n")
    return Plan(pa.table({name: pa.array(column, pa.string()) for name, column in columns.items()}), starts, left_out, digest.hexdigest())


def encode(plan: Plan) -> bytes:
    """The plan as Parquet, kept beside a dataset so that changed inputs can be named."""
    sink = io.BytesIO()
    pq.write_table(plan.table, sink, version="2.6", compression="zstd", compression_level=3)
    return sink.getvalue()


def difference(old: bytes, new: Plan) -> str:
    """What changed since the plan `old` was made, in words."""
    before = read_parquet(old).to_pydict()
    was = dict(zip(before["source"], zip(before["sha256"], before["class"], before["split"], strict=True), strict=True))
    after = new.table.to_pydict()
    now = dict(zip(after["source"], zip(after["sha256"], after["class"], after["split"], strict=True), strict=True))
    added, removed = sorted(now.keys() - was.keys()), sorted(was.keys() - now.keys())
    changed = sorted(uri for uri in now.keys() & was.keys() if now[uri] != was[uri])
    parts = [f"{len(uris)} {word} ({uris[0]})" for uris, word in ((changed, "changed"), (added, "added"), (removed, "removed")) if uris]
    return ", ".join(parts) or "their labels or licences changed"
