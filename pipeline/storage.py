"""A dataset's folder, on this machine or at any fsspec URI. Objects in it are whole or absent."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import fsspec

_TEMPORARY = ".tmp"


class StorageError(Exception):
    """Storage refuses: full, not permitted, not there. The text is one sentence: what, where, what to do."""


class Store:
    """One folder, `uri`; names within it are relative, with slashes.

    Locally a write goes to an attempt-unique name beside the target, is synced and renamed; elsewhere it is one put of the whole object.
    """

    def __init__(self, uri: str | Path) -> None:
        self.uri = str(uri).rstrip("/") or "/"
        try:
            self.fs, self.root = fsspec.core.url_to_fs(self.uri)
        except (ValueError, ImportError) as error:
            raise StorageError(
                f"{self.uri} names storage that cannot be opened ({error}); use a folder or install what it asks for."
            ) from None
        protocols = self.fs.protocol if isinstance(self.fs.protocol, tuple) else (self.fs.protocol,)
        self.local, self.shared = "file" in protocols, "memory" not in protocols
        if self.local:
            self.uri = self.root

    def path(self, name: str) -> str:
        return f"{self.root.rstrip('/')}/{name}" if name else self.root

    def write(self, name: str, data: bytes | bytearray) -> None:
        """Publishes `name` with these bytes. Raises StorageError; then the old object, or none, is there as before."""
        with self._faults(name):
            if not self.local:
                self.fs.pipe_file(self.path(name), bytes(data))
                return
            target = Path(self.path(name))
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}{_TEMPORARY}")
            try:
                with open(temporary, "xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, target)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
            folder = os.open(target.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def read(self, name: str) -> bytes:
        """All bytes of an object. Raises FileNotFoundError, StorageError."""
        with self._faults(name):
            return bytes(self.fs.cat_file(self.path(name)))

    def read_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """The bytes [start, stop) of each range, and no others, of one object."""
        with self._faults(name):
            if not self.local:
                starts, stops = [start for start, _ in ranges], [stop for _, stop in ranges]
                return [bytes(part) for part in self.fs.cat_ranges([self.path(name)] * len(ranges), starts, stops)]
            descriptor = os.open(self.path(name), os.O_RDONLY)
            try:
                return [os.pread(descriptor, stop - start, start) for start, stop in ranges]
            finally:
                os.close(descriptor)

    def exists(self, name: str) -> bool:
        with self._faults(name):
            return bool(self.fs.exists(self.path(name)))

    def files(self, folder: str = "") -> dict[str, int]:
        """Name → size of the objects directly in a folder, our temporary ones left out; {} where there is no such folder."""
        return {name: size for name, size, _ in self._list(folder)}

    def times(self, folder: str) -> dict[str, float]:
        """Name → time of last change, in seconds since 1970, where the storage tells it."""
        return {name: changed for name, _, changed in self._list(folder) if changed is not None}

    def _list(self, folder: str) -> Iterator[tuple[str, int, float | None]]:
        with self._faults(folder):
            try:
                entries: list[dict[str, Any]] = self.fs.ls(self.path(folder), detail=True, refresh=True)
            except TypeError:
                entries = self.fs.ls(self.path(folder), detail=True)
            except FileNotFoundError:
                return
        for entry in entries:
            name = str(entry["name"]).rstrip("/").rsplit("/", 1)[-1]
            if entry["type"] == "file" and not name.endswith(_TEMPORARY):
                changed = entry.get("mtime") or entry.get("LastModified") or entry.get("created")
                changed = changed.timestamp() if isinstance(changed, datetime) else changed
                yield name, int(entry["size"] or 0), float(changed) if changed is not None else None

    def names(self) -> set[str]:
        """What is directly in the folder, files and folders of anybody's; our own temporary files do not count."""
        with self._faults(""):
            if not self.fs.exists(self.root):
                return set()
            names = {str(name).rstrip("/").rsplit("/", 1)[-1] for name in self.fs.ls(self.root, detail=False)}
        return {name for name in names if not name.endswith(_TEMPORARY)}

    def remove_temporaries(self, folders: Sequence[str]) -> int:
        """Removes what killed writers left behind; only for the one who holds `exclusive`. Gives their number."""
        if not self.local:
            return 0
        stale = [path for folder in folders for path in Path(self.path(folder)).glob(f".*{_TEMPORARY}")]
        for path in stale:
            path.unlink(missing_ok=True)
        return len(stale)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Holds the folder against other writers of this machine; the kernel lets go when the process ends, however it ends.

        Raises StorageError where another process holds it. Object stores and file systems without locks pass: there two writers
        do the same work twice and publish the same bytes.
        """
        if not self.local:
            yield
            return
        import fcntl

        with self._faults(""):
            Path(self.root).mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.root, os.O_RDONLY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StorageError(f"Another process is writing to {self.uri}; wait for it, or give another folder.") from None
            except OSError:
                pass
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def _faults(self, name: str) -> Iterator[None]:
        where = f"{self.uri}/{name}" if name else self.uri
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageError(f"There is no space left to write {where}; free some and run the same command again.") from error
            if error.errno == errno.EFBIG:
                raise StorageError(f"{where} is larger than files may be here; raise the limit or lower shard_assets.") from error
            if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise StorageError(f"{where} may not be used ({error.strerror}); give another folder or change its permissions.") from error
            raise StorageError(
                f"{where} cannot be used ({error.strerror or error}); check the storage and run the same command again."
            ) from error
