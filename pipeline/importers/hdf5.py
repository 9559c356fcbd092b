"""HDF5 files that others wrote. libhdf5 may end or hang the process that opens a damaged one, so what lists a folder asks a child."""

from __future__ import annotations

import atexit
import hashlib
import json
import math
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

_SIGNATURE, _NEWEST_SUPERBLOCK = b"\x89HDF\r\n\x1a\n", 3
_SECONDS = 120
_CODE = f"import signal; signal.alarm({_SECONDS}); from pipeline.importers.hdf5 import serve; serve()"
_children: list[subprocess.Popen[str]] = []
_lock = threading.Lock()


@contextmanager
def opened(file: Path, names: Sequence[str]) -> Iterator[h5py.File]:
    """The file, of arrays that it holds itself, those of these names of numbers: nothing is followed into other files.

    Raises OSError, ValueError. A damaged file may end the process.
    """
    with open(file, "rb") as stream:
        head = stream.read(len(_SIGNATURE) + 1)
    if head[:-1] != _SIGNATURE or head[-1] > _NEWEST_SUPERBLOCK:
        raise ValueError("it does not begin as HDF5")
    with h5py.File(file, "r") as data:
        for name in data:
            if not isinstance(data.get(name, getlink=True), h5py.HardLink):
                raise ValueError(f"{name} is a link")
            if isinstance(array := data[name], h5py.Dataset) and (array.is_virtual or array.external):
                raise ValueError(f"{name} lies in another file")
            if isinstance(array, h5py.Dataset) and not _stored(array):
                raise ValueError(f"{name} claims more than the file holds")
            if name in names and not (isinstance(array, h5py.Dataset) and array.dtype.kind in "iuf"):
                raise ValueError(f"{name} holds no numbers")
        yield data


def _stored(array: h5py.Dataset) -> bool:
    """Whether every element is in the file: a header may claim any size, and what was never written would be made up as zeros."""
    if array.chunks is None:
        return bool(array.id.get_storage_size() >= array.size * array.dtype.itemsize)
    wanted = math.prod(-(-length // part) for length, part in zip(array.shape, array.chunks, strict=True))
    return bool(array.id.get_num_chunks() >= wanted)


def shapes(file: Path, names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """The shapes of those of these arrays that the file has, as a child finds them. Raises OSError."""
    return {name: tuple(shape) for name, shape in _asked("_shapes", str(file), list(names)).items()}


def row_sha256(file: Path, names: Sequence[str], row: int) -> str:
    """Hex sha256 of a row of these arrays, as a child finds it. Raises OSError."""
    digest: str = _asked("_row_sha256", str(file), list(names), row)
    return digest


def _asked(*question: Any) -> Any:
    """What the child answers; it lives for many questions. Raises OSError where it cannot, or where two of them in turn die of it, each
    after _SECONDS at the latest."""
    with _lock:
        line = _line(question) or _line(question)  # the first may have died of another program's doing
    if not line:
        raise OSError("the process that read it died of it")
    answer = json.loads(line)
    if "error" in answer:
        raise OSError(answer["error"])
    return answer["found"]


def _line(question: Sequence[Any]) -> str:
    """The child's line, or "" where it died. A child whose answer was not read to its end is ended: the next question would get it."""
    if not _children:
        command = [sys.executable, "-P", "-c", _CODE]
        _children.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True))
    child = _children[0]
    assert child.stdin is not None
    assert child.stdout is not None
    line = ""
    try:
        child.stdin.write(json.dumps(question) + "\n")
        child.stdin.flush()
        line = child.stdout.readline()
    except OSError:
        pass  # it died before it had the question: no line, as where it dies of it
    finally:
        if not line.endswith("\n"):
            end()
    return line if line.endswith("\n") else ""


@atexit.register
def end() -> None:
    """Ends the child."""
    while _children:
        child = _children.pop()
        child.kill()
        child.communicate()


def serve() -> None:
    """The child: answers each line until there are no more."""
    tasks: dict[str, Callable[..., Any]] = {"_shapes": _shapes, "_row_sha256": _row_sha256}
    for line in sys.stdin:
        signal.alarm(_SECONDS)  # ends this process in native code too, and where its parent is gone
        task, *arguments = json.loads(line)
        try:
            answer = {"found": tasks[task](*arguments)}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)
        signal.alarm(0)


def _shapes(file: str, names: list[str]) -> dict[str, tuple[int, ...]]:
    with opened(Path(file), names) as data:
        return {name: data[name].shape for name in names if name in data}


def _row_sha256(file: str, names: list[str], row: int) -> str:
    hasher = hashlib.sha256()
    with opened(Path(file), names) as data:
        for name in sorted(set(names) & data.keys()):
            if data[name].ndim and row < data[name].shape[0]:
                hasher.update(name.encode())
                for frame in np.atleast_1d(np.asarray(data[name][row])):
                    hasher.update(np.ascontiguousarray(frame).tobytes())
    return hasher.hexdigest()
