"""A shard is a POSIX ustar file of samples: the same samples give the same bytes, and the file is whole or absent.

The members of a sample stand together, sorted by name; headers carry no time, no owner and mode 0644. A shard counts only once its
manifest names it (`pipeline.manifest`): what a killed worker left behind is written over.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.storage import Store

FOLDER = "shards"
_KEY = re.compile(r"[a-z0-9_-]+")
_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)+")


@dataclass(frozen=True)
class Member:
    """Where a member's data lies in its shard, in bytes. `name` is without the key: "points.npy", "v00.png"."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class ShardRecord:
    """A published shard. A shard without a sample is no file: its size is 0."""

    name: str
    size: int
    sha256: str
    members: Mapping[str, tuple[Member, ...]] = field(default_factory=dict)


class ShardWriter:
    """Collects the samples of one shard in memory; `publish` writes it at once."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._chunks: list[bytes] = []
        self._offset = 0
        self._members: dict[str, tuple[Member, ...]] = {}

    def add(self, key: str, members: Mapping[str, bytes]) -> None:
        """Appends a sample. Raises ValueError for keys or member names that a WebDataset reader would split or merge."""
        if not _KEY.fullmatch(key) or key in self._members:
            raise ValueError(f"{key!r} is no key of a sample: keys are unique and of a-z, 0-9, _ and -")
        placed = []
        for name in sorted(members):
            full = f"{key}.{name}"
            if not _NAME.fullmatch(full) or len(full) > 100:
                raise ValueError(f"{full!r} is no name of a member")
            data = members[name]
            header = tarfile.TarInfo(full)
            header.size, header.mode = len(data), 0o644
            self._append(header.tobuf(tarfile.USTAR_FORMAT))
            placed.append(Member(name, self._offset, len(data)))
            self._append(data)
            self._append(bytes(-len(data) % tarfile.BLOCKSIZE))
        self._members[key] = tuple(placed)

    def _append(self, data: bytes) -> None:
        self._chunks.append(data)
        self._offset += len(data)

    def publish(self, store: Store) -> ShardRecord:
        """Writes the shard. Raises StorageError; then nothing was published."""
        if not self._members:
            return ShardRecord(self.name, 0, "", {})
        self._append(bytes(2 * tarfile.BLOCKSIZE))
        data = b"".join(self._chunks)
        store.write(path_of(self.name), data)
        return ShardRecord(self.name, len(data), hashlib.sha256(data).hexdigest(), self._members)


def path_of(shard: str) -> str:
    """The shard's name within the dataset."""
    return f"{FOLDER}/{shard}.tar"
