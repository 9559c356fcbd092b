"""Lists of arrays in .npz files, read without unpickling.

numpy stores a list of arrays of unequal lengths as an array of objects, and that as a pickle, which may run anything. Here the pickle's
opcodes are read as data: a small machine that knows numbers, texts, tuples, lists and the two names that numpy writes for an array, that
calls nothing and refuses whatever else it meets.
"""

from __future__ import annotations

import io
import pickletools
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

_LARGEST = 2**31
_MODULES = ("numpy", "numpy.core.multiarray", "numpy._core.multiarray")
_KINDS = "fiu"
_MARK = object()
# What zipfile raises for archives that are damaged, encrypted or packed in another way.
_BROKEN = (zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)


class RaggedError(Exception):
    """The file holds something other than arrays of numbers. The text says what, as the end of a sentence."""


def read_npz(path: Path, name: str) -> list[npt.NDArray[Any]]:
    """The arrays of a list `name` in an .npz; of a plain array, those along its first axis. Raises RaggedError, OSError."""
    try:
        with zipfile.ZipFile(path) as archive:
            info = archive.getinfo(f"{name}.npy")
            if info.file_size > _LARGEST:
                raise RaggedError(f"{name} would take {info.file_size >> 20} MiB")
            return _read_npy(io.BytesIO(archive.read(info)))
    except _BROKEN as error:
        raise RaggedError(f"it is no whole .npz file ({error})") from None
    except KeyError:
        raise RaggedError(f"it has no array {name}") from None


def length(path: Path, name: str) -> int:
    """How many arrays the list has, from its header alone. Raises RaggedError, OSError."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
            shape, _, _ = _header(file)
            held = archive.getinfo(f"{name}.npy")
        # deflate makes at most a thousand bytes of one, and an array takes two at least
        if 2 * shape[0] > min(held.file_size, 1100 * path.stat().st_size, _LARGEST):
            raise RaggedError(f"{name} claims {shape[0]} arrays, more than the file can hold")
        return shape[0]
    except (*_BROKEN, KeyError, IndexError) as error:
        raise RaggedError(f"it is no whole .npz file with {name} ({error})") from None


def _header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
    except (ValueError, SyntaxError) as error:
        raise RaggedError(f"its header is no array's ({error})") from None
    return shape, fortran, dtype


def _read_npy(file: BinaryIO) -> list[npt.NDArray[Any]]:
    shape, fortran, dtype = _header(file)
    if dtype.hasobject:
        if len(shape) != 1:
            raise RaggedError("it holds objects in more than one direction")
        found = _Machine().run(file)
        if not isinstance(found, list) or len(found) != shape[0] or not all(isinstance(item, np.ndarray) for item in found):
            raise RaggedError("its objects are not arrays of numbers")
        return found
    if dtype.kind not in _KINDS:
        raise RaggedError(f"it holds {dtype} and no numbers")
    data = file.read()
    count = int(np.prod(shape, dtype=np.int64))
    if len(data) != count * dtype.itemsize or not shape:
        raise RaggedError("it is cut short or no list")
    return list(np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C"))


class _Name(tuple[str, str]):
    """A name that a pickle mentions; nothing is imported for it."""

    __slots__ = ()


class _Shell:
    """What `_reconstruct` or `dtype` would have made: filled by the state that follows. `value` is the list, array or dtype."""

    def __init__(self, kind: str, descr: str = "") -> None:
        self.kind, self.descr, self.order = kind, descr, "|"
        self.value: Any = None


class _Machine:
    """Runs the opcodes of one pickled array of arrays and gives the list of them."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, file: BinaryIO) -> Any:
        try:
            for opcode, argument, _ in pickletools.genops(file):
                if opcode.name == "STOP":
                    return _value(self.stack.pop())
                self._step(opcode.name, argument)
        except RaggedError:
            raise
        except (ValueError, IndexError, KeyError, TypeError, OverflowError, AttributeError) as error:
            raise RaggedError(f"its list of arrays is damaged ({error})") from None
        raise RaggedError("its list of arrays is cut short")

    def _step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in ("PROTO", "FRAME"):
            return
        if name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if name == "MEMOIZE" else argument] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name == "GLOBAL":
            stack.append(_Name(argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            what, module = stack.pop(), stack.pop()
            stack.append(_Name((module, what)))
        elif name == "MARK":
            stack.append(_MARK)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _LITERALS:
            stack.append(argument)
        elif name in _TUPLES:
            self._tuple(_TUPLES.index(name))
        elif name == "TUPLE":
            stack.append(tuple(self._marked()))
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name == "APPEND":
            item = stack.pop()
            stack[-1].append(item)
        elif name == "APPENDS":
            items = self._marked()
            stack[-1].extend(items)
        elif name == "REDUCE":
            arguments, called = stack.pop(), stack.pop()
            stack.append(_shell(called, arguments))
        elif name == "BUILD":
            state = stack.pop()
            _fill(stack[-1], state)
        else:
            raise RaggedError(f"its list holds more than arrays (the pickle's opcode {name})")

    def _marked(self) -> list[Any]:
        at = len(self.stack) - 1 - self.stack[::-1].index(_MARK)
        items = self.stack[at + 1 :]
        del self.stack[at:]
        return items

    def _tuple(self, size: int) -> None:
        items = tuple(self.stack[len(self.stack) - size :])
        del self.stack[len(self.stack) - size :]
        self.stack.append(items)


_TUPLES = ("EMPTY_TUPLE", "TUPLE1", "TUPLE2", "TUPLE3")
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = {
    "BININT",
    "BININT1",
    "BININT2",
    "LONG1",
    "BINUNICODE",
    "SHORT_BINUNICODE",
    "BINUNICODE8",
    "BINBYTES",
    "SHORT_BINBYTES",
    "BINBYTES8",
}


def _shell(called: Any, arguments: Any) -> _Shell:
    if isinstance(called, _Name) and called[0] in _MODULES:
        if called[1] == "_reconstruct" and arguments[0] == _Name(("numpy", "ndarray")):
            return _Shell("array")
        if called[1] == "dtype" and isinstance(arguments[0], str):
            return _Shell("dtype", arguments[0])
    raise RaggedError(f"its list holds more than arrays ({'.'.join(called) if isinstance(called, _Name) else 'a call'})")


def _fill(shell: Any, state: Any) -> None:
    if not isinstance(shell, _Shell) or not isinstance(state, tuple):
        raise RaggedError("its list holds more than arrays (a state)")
    if shell.kind == "dtype":
        shell.order = state[1]
        return
    _, shape, dtype, fortran, data = state
    if not isinstance(dtype, _Shell) or dtype.kind != "dtype":
        raise RaggedError("one of its arrays has no plain type")
    if dtype.descr in ("O", "O8"):
        shell.value = [_value(item) for item in data]
        return
    order = dtype.order if dtype.order in "<>" else ""
    kind = np.dtype(order + dtype.descr)
    if kind.kind not in _KINDS or not isinstance(data, bytes):
        raise RaggedError(f"one of its arrays holds {kind} and no numbers")
    shell.value = np.frombuffer(data, kind).reshape(shape, order="F" if fortran else "C")


def _value(item: Any) -> Any:
    if not isinstance(item, _Shell) or item.value is None:
        raise RaggedError("its objects are not arrays of numbers")
    return item.value
