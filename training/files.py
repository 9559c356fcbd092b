"""Files of tensors and plain data that are whole or absent.

A folder is written under a temporary name beside its final one and becomes true by one rename; COMMIT.json inside lists each file with
size and sha256 and is checked on reading. Weights are safetensors, the rest JSON; nothing pickled is ever loaded from them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

COMMIT = "COMMIT.json"


class FileError(Exception):
    """A folder of ours is missing, cut short or of another kind. The text is one sentence: what, where, what to do."""


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_folder(folder: Path, tensors: Mapping[str, Mapping[str, Tensor]], plain: Mapping[str, Any]) -> None:
    """Writes NAME.safetensors for each of `tensors` and NAME.json for each of `plain` into `folder`, which appears whole.

    An existing folder of that name is replaced. Raises OSError (a full disk) and leaves nothing behind.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.part")
    part.mkdir()
    try:
        for name, values in tensors.items():
            save_file({k: v.detach().cpu().contiguous().clone() for k, v in values.items()}, part / f"{name}.safetensors")
        for name, value in plain.items():
            (part / f"{name}.json").write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")
        files = {f.name: {"bytes": f.stat().st_size, "sha256": _sha256(f)} for f in sorted(part.iterdir())}
        (part / COMMIT).write_text(json.dumps(files, indent=1) + "\n")
        for file in part.iterdir():
            _sync(file)
        old = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.old")
        if folder.exists():
            folder.rename(old)
        part.rename(folder)
        _sync(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException as error:
        shutil.rmtree(part, ignore_errors=True)
        if isinstance(error, SafetensorError):  # safetensors reports a full disk as its own error
            raise OSError(f"Writing {folder} failed: {error}") from error
        raise


def write_json(path: Path, value: Any) -> None:
    """Writes one JSON file, which appears whole; an existing one is replaced. Raises OSError."""
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        part.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")
        _sync(part)
        part.rename(path)
    finally:
        part.unlink(missing_ok=True)


def check_folder(folder: Path) -> None:
    """Raises FileError unless every file that COMMIT.json lists is there with its size and hash."""
    try:
        listed = json.loads((folder / COMMIT).read_text())
    except FileNotFoundError:
        raise FileError(f"{folder} holds no {COMMIT}: it is not a folder that a training wrote, or it was cut short.") from None
    except ValueError:
        raise FileError(f"{folder / COMMIT} is damaged: remove the folder {folder}.") from None
    for name, entry in listed.items():
        file = folder / name
        if not file.exists() or file.stat().st_size != entry["bytes"] or _sha256(file) != entry["sha256"]:
            raise FileError(f"{file} differs from what {COMMIT} records of it: remove the folder {folder} and make it again.")


def read_tensors(folder: Path, name: str, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """The tensors of NAME.safetensors. Raises FileError."""
    try:
        return load_file(folder / f"{name}.safetensors", device=str(device))
    except (FileNotFoundError, SafetensorError) as error:
        raise FileError(f"{folder / name}.safetensors cannot be read ({error}): make it again.") from error


def read_plain(folder: Path, name: str) -> Any:
    """The value of NAME.json. Raises FileError."""
    try:
        return json.loads((folder / f"{name}.json").read_text())
    except FileNotFoundError:
        raise FileError(f"{folder / name}.json is missing: name a folder that holds one.") from None
    except ValueError:
        raise FileError(f"{folder / name}.json is not JSON: make it again.") from None


def digest(value: Any) -> str:
    """sha256 of a plain value as canonical JSON, 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()).hexdigest()
