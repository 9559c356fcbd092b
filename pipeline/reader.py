"""Random access to a finished dataset: which samples there are, and the bytes or arrays of just the members asked for."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline import manifest, png, shards
from pipeline.dataset import DatasetError, load_info
from pipeline.manifest import ManifestError
from pipeline.storage import StorageError, Store

# Members whose gap in the shard is below this are fetched as one range.
_GAP = 4096


class Dataset:
    """A finished dataset. Samples are numbered in the order of split, shard and key, which never changes; failed assets have no number.

    uri; info, the contents of dataset.json; fingerprint; table, the manifest's rows (pyarrow) of the samples, in order; keys;
    classes and splits (N,) str. Nothing is held open, so it can be copied, pickled and forked.
    """

    def __init__(self, uri: str, info: dict[str, Any], fingerprint: str, table: pa.Table) -> None:
        self.uri, self.info, self.fingerprint, self.table = uri, info, fingerprint, table
        self.keys: list[str] = table["key"].to_pylist()
        self.classes: npt.NDArray[np.str_] = np.array(table["class"].to_pylist(), dtype=np.str_)
        self.splits: npt.NDArray[np.str_] = np.array(table["split"].to_pylist(), dtype=np.str_)
        self._store = Store(uri)
        self._shards: list[str] = table["shard"].to_pylist()
        members = table["members"].combine_chunks()
        self._first = members.offsets.to_numpy()
        values = members.values
        self._names: list[str] = values.field("name").to_pylist()
        self._offsets: npt.NDArray[np.int64] = values.field("offset").to_numpy()
        self._sizes: npt.NDArray[np.int64] = values.field("size").to_numpy()

    @classmethod
    def open(cls, uri: str) -> Dataset:
        """The dataset at a folder or fsspec URI. Raises DatasetError: none there, unfinished, a shard or manifest changed."""
        try:
            store = Store(uri)
            info = load_info(store)
            manifests = manifest.read_all(store)
            sizes = store.files(shards.FOLDER)
        except (ManifestError, StorageError) as error:
            raise DatasetError(str(error)) from error
        planned = info["plan"]["shards"]
        if "fingerprint" not in info or len(manifests) != planned:
            raise DatasetError(
                f"{store.uri} has {len(manifests)} of its {planned} shards; run the same generate command again to finish it."
            )
        fingerprint = manifest.fingerprint(manifests)
        if fingerprint != info["fingerprint"]:
            raise DatasetError(
                f"The manifests of {store.uri} are not those that its dataset.json names; generate it again in another folder."
            )
        for item in manifests:
            found = sizes.get(f"{item.shard}.tar", 0)
            if found != item.size:
                path = f"{store.uri}/{shards.path_of(item.shard)}"
                what = "is missing" if found == 0 else f"is cut short or changed: {found} bytes instead of {item.size}"
                raise DatasetError(f"{path} {what}; remove {manifest.path_of(item.shard)} and run generate again.")
        order = sorted(manifests, key=lambda item: (_SPLIT_ORDER.get(item.shard.rsplit("-", 1)[0], 9), item.shard))
        table = pa.concat_tables([item.table for item in order]) if order else manifest.SCHEMA.empty_table()
        table = table.filter(pa.compute.equal(table["status"], "ok"))
        return cls(store.uri, info, fingerprint, table)

    def __len__(self) -> int:
        return len(self.keys)

    def __reduce__(self) -> tuple[Any, ...]:
        return Dataset, (self.uri, self.info, self.fingerprint, self.table)

    def indices(self, split: str) -> npt.NDArray[np.int64]:
        """The numbers of a split's samples, ascending, int64."""
        return np.flatnonzero(self.splits == split).astype(np.int64)

    def members(self, index: int) -> tuple[str, ...]:
        """The names of a sample's members, sorted: "json", "points.npy", "v00.png", ..."""
        return tuple(self._names[self._first[index] : self._first[index + 1]])

    def read(self, index: int, members: Sequence[str]) -> dict[str, bytes]:
        """The stored bytes of these members, fetched by ranges of the shard. Raises DatasetError: no such member, a shard cut short."""
        first, names = int(self._first[index]), self.members(index)
        try:
            wanted = sorted({first + names.index(name) for name in members})
        except ValueError:
            absent = next(name for name in members if name not in names)
            raise DatasetError(f"The sample {self.keys[index]} of {self.uri} has no {absent}; it has {', '.join(names)}.") from None
        groups: list[list[int]] = []
        for number in wanted:
            if groups and self._offsets[number] - self._stop(groups[-1][-1]) <= _GAP:
                groups[-1].append(number)
            else:
                groups.append([number])
        shard = shards.path_of(self._shards[index])
        ranges = [(int(self._offsets[group[0]]), self._stop(group[-1])) for group in groups]
        try:
            parts = self._store.read_ranges(shard, ranges)
        except (OSError, StorageError) as error:
            raise DatasetError(f"{self.uri}/{shard} cannot be read ({error}); check the storage.") from error
        found: dict[str, bytes] = {}
        for group, (start, stop), data in zip(groups, ranges, parts, strict=True):
            if len(data) != stop - start:
                raise DatasetError(f"{self.uri}/{shard} is cut short within {self.keys[index]}; run verify to see what else is.")
            for number in group:
                offset = int(self._offsets[number]) - start
                found[self._names[number]] = data[offset : offset + int(self._sizes[number])]
        return {name: found[name] for name in members}

    def _stop(self, number: int) -> int:
        return int(self._offsets[number] + self._sizes[number])

    def load(self, index: int, members: Sequence[str]) -> dict[str, Any]:
        """These members decoded: npy as its array, PNG as (H, W, C) uint8 or (H, W, 1) uint16, json as a dict. Raises DatasetError."""
        found: dict[str, Any] = {}
        for name, data in self.read(index, members).items():
            try:
                found[name] = decode_member(name, data)
            except ValueError as error:
                raise DatasetError(
                    f"{name} of {self.keys[index]} in {self.uri} is damaged ({error}); run verify to see what else is."
                ) from None
        return found


_SPLIT_ORDER = {"train": 0, "val": 1, "test": 2}


def decode_member(name: str, data: bytes) -> Any:
    """A member's bytes as array or dictionary, by its name's ending. Raises ValueError."""
    if name.endswith(".png"):
        return png.decode(data)
    if name.endswith(".npy"):
        return decode_npy(data)
    if name == "json":
        return json.loads(data)
    raise ValueError("members of this kind are not read")


def decode_npy(data: bytes) -> npt.NDArray[Any]:
    """The array of an .npy of version 1, writable, never unpickled. Raises ValueError."""
    if data[:8] != b"\x93NUMPY\x01\x00":
        raise ValueError("no .npy of version 1")
    start = 10 + int.from_bytes(data[8:10], "little")
    try:
        header = ast.literal_eval(data[10:start].decode("latin1"))
        dtype, shape = np.dtype(header["descr"]), tuple(int(length) for length in header["shape"])
    except (SyntaxError, KeyError, TypeError) as error:
        raise ValueError(f"the header of the .npy cannot be read ({error})") from None
    if dtype.hasobject or header["fortran_order"]:
        raise ValueError("an .npy of objects or in Fortran's order")
    count = math.prod(shape)
    if len(data) - start != count * dtype.itemsize:
        raise ValueError("the .npy has another length than its header says")
    return np.frombuffer(data, dtype, count, start).reshape(shape).copy()


def epoch_order(n: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """A permutation of range(n), int64, a function of seed and epoch (0 or above) alone."""
    return np.random.Generator(np.random.PCG64([seed, epoch])).permutation(n).astype(np.int64)
