"""Meshes in class folders: CLASS/…, SPLIT/CLASS/… or CLASS/SPLIT/…, at any depth below; a CSV beside them may name other labels."""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from pipeline.sources.asset import SPLITS, Asset, SourceError, Split
from render.meshes import SUFFIXES as EXTENSIONS
from render.meshes import Mesh, MeshError, folder_of, load
from render.textures import find_inside


class Labels(BaseModel):
    """Columns of a CSV that say more than the folders do. `csv` is relative to the source's folder.

    The `key` columns, joined by slashes, are the end of a mesh's path without its extension (and without the repeated name of an
    object that has a folder of its own). A mesh whose class cell is empty is left out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True)

    csv: str
    key: tuple[str, ...] = ("id",)
    cls: str | None = Field(default=None, alias="class")
    split: str | None = None
    licence: str | None = None

    @field_validator("key", mode="before")
    @classmethod
    def _one_or_more(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


class FolderSource(BaseModel):
    """A folder of meshes.

    leave_out_identical drops assets of the other splits whose content is byte for byte that of a train asset; common_classes keeps
    the classes that every split has; test_fraction cuts a test split, by content, where the folders and the CSV name none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["folder"] = "folder"
    path: Path
    licence: str = ""
    labels: Labels | None = None
    classes: tuple[str, ...] = ()
    test_fraction: float = Field(default=0.0, ge=0, lt=1)
    leave_out_identical: bool = False
    common_classes: bool = False


def assets(source: FolderSource) -> Iterator[Asset]:
    """The meshes, class by class, the files of a folder before its folders, by name.

    Raises SourceError: no folder, no mesh in it or in a class, labels that do not fit.
    """
    if not source.path.is_dir():
        raise SourceError(f"{source.path} is no folder; give the folder that holds the class folders.")
    rows = _label_rows(source) if source.labels else None
    unlabelled: list[str] = []
    found = 0
    for cls, split, uri in _walk(source.path):
        asset = Asset(uri, cls, split, source.licence)
        if rows is not None and source.labels is not None:
            row = rows.get(_label_key(uri, len(source.labels.key)))
            if row is None:
                unlabelled.append(uri)
                continue
            asset = _labelled(asset, row, source.labels, source.path / source.labels.csv)
        if asset.cls and (not source.classes or asset.cls in source.classes):
            found += 1
            yield asset
    if unlabelled:
        columns = "/".join(source.labels.key) if source.labels else ""
        raise SourceError(
            f"{source.path / (source.labels.csv if source.labels else '')} has no row for {len(unlabelled)} of the meshes, the first being "
            f"{unlabelled[0]} (column {columns}); add the rows or move the meshes out."
        )
    if not found:
        wanted = f" of the classes {', '.join(source.classes)}" if source.classes else ""
        raise SourceError(f"{source.path} holds no meshes{wanted}; give a folder with class folders of {', '.join(EXTENSIONS)} files.")


def _walk(root: Path) -> Iterator[tuple[str, Split, str]]:
    """(class, split, path relative to root) of every mesh file, in order."""
    splits: list[Split | None] = [split for split in SPLITS if (root / split).is_dir()]
    for split in splits or [None]:
        top = root / split if split else root
        stray = [entry.name for entry in sorted(top.iterdir()) if entry.suffix.lower() in EXTENSIONS and entry.is_file()]
        if stray:
            raise SourceError(f"{top / stray[0]} lies in no class folder; move it into {top}/CLASS.")
        for folder in sorted(entry for entry in top.iterdir() if entry.is_dir() and not entry.name.startswith(".")):
            inner = [name for name in SPLITS if (folder / name).is_dir()] if split is None else []
            files = 0
            for path in _mesh_files(folder):
                parts = path.relative_to(folder).parts
                own: Split = "train" if split is None else split
                own = next((name for name in inner if parts[0] == name), own)
                files += 1
                yield folder.name, own, path.relative_to(root).as_posix()
            if not files:
                raise SourceError(
                    f"The class folder {folder} holds no mesh ({', '.join(EXTENSIONS)}); put some there or remove the folder."
                )


def _mesh_files(folder: Path) -> Iterator[Path]:
    for here, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            path = Path(here, name)
            if path.suffix.lower() in EXTENSIONS and not name.startswith(".") and path.is_file():
                yield path


def _label_key(uri: str, parts: int) -> tuple[str, ...]:
    path = PurePosixPath(uri).with_suffix("")
    names = path.parts[:-1] if len(path.parts) > 1 and path.parts[-2] == path.name else path.parts
    return names[-parts:]


def _label_rows(source: FolderSource) -> dict[tuple[str, ...], dict[str, str]]:
    labels = source.labels
    assert labels is not None
    path = source.path / labels.csv
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            names = list(reader.fieldnames or ())
            for column in (*labels.key, labels.cls, labels.split, labels.licence):
                if column is not None and column not in names:
                    raise SourceError(f"{path} has no column {column!r}; use some of {', '.join(names)}.")
            return {tuple(row[column] for column in labels.key): row for row in reader}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"{path} cannot be read ({error}); give a CSV file in UTF-8, relative to the source's folder.") from None


def _labelled(asset: Asset, row: dict[str, str], labels: Labels, path: Path) -> Asset:
    if labels.cls is not None:
        asset = replace(asset, cls=row[labels.cls].strip())
    if labels.licence is not None:
        asset = replace(asset, licence=row[labels.licence].strip())
    if labels.split is not None:
        value = row[labels.split].strip()
        split = next((name for name in SPLITS if name == value), None)
        if split is None:
            raise SourceError(f"{path} gives {asset.uri} the {labels.split} {value!r}; use one of {', '.join(SPLITS)}.")
        asset = replace(asset, split=split)
    return asset


def part_labels(path: Path) -> Path | None:
    """The file of part labels that belongs to a mesh file: NAME_labels.txt beside it, where there is one."""
    labels = path.with_name(f"{path.stem}_labels.txt")
    return labels if labels.is_file() else None


def content_sha256(path: Path) -> str:
    """The mesh file's sha256; where other files belong to it, the sha256 over its digest and theirs.

    Their order: an OBJ's material files as named, each followed by its pictures as named; a glTF's buffers, then its pictures;
    part labels last. The names stand in the files themselves. A file that is not there counts as 32 zero bytes.
    """
    data = path.read_bytes()
    digests = [hashlib.sha256(data).digest(), *(_digest(other) for other in _references(path, data))]
    if (labels := part_labels(path)) is not None:
        digests.append(_digest(labels))
    return digests[0].hex() if len(digests) == 1 else hashlib.sha256(b"".join(digests)).hexdigest()


def _digest(path: Path | None) -> bytes:
    if path is None:
        return bytes(32)
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError:
        return bytes(32)


def _references(path: Path, data: bytes) -> Iterator[Path | None]:
    suffix = path.suffix.lower()
    if suffix in (".gltf", ".glb"):
        from render.gltf import named_files

        try:
            yield from named_files(path)
        except MeshError:
            return
    elif suffix == ".obj":
        for name in _values(data, b"mtllib"):
            library = _named(path.parent, name)
            yield library
            try:
                materials = library.read_bytes()
            except OSError:
                continue
            for picture in _values(materials, b"map_|bump|disp|decal|refl|norm"):
                yield _named(library.parent, picture)


def _values(data: bytes, keyword: bytes) -> list[str]:
    """What follows the keyword on the lines that begin with it, each once, in order."""
    found = re.findall(rb"^[ \t]*(?:" + keyword + rb")[^\s]*[ \t]+([^\r\n]*[^\s])", data, re.IGNORECASE | re.MULTILINE)
    return list(dict.fromkeys(value.decode("utf-8", "replace") for value in found))


def _named(folder: Path, name: str) -> Path:
    """The file that a reference means: the whole of it, or its last word after options."""
    name = name.replace("\\", "/")
    try:
        whole, last = folder / name, folder / name.split()[-1]
        if whole.is_file() or last.is_file():
            return whole if whole.is_file() else last
        # in another case, as the reader finds it
        return find_inside(name, folder, folder_of(folder / "-")) or last
    except (OSError, ValueError, IndexError):
        return folder / "-"


def open_mesh(source: FolderSource, uri: str, *, parts: bool) -> Mesh:
    """The mesh in a file of the source, with its part labels where asked for and there. Raises MeshError."""
    path = source.path / uri
    return load(path, labels=part_labels(path) if parts else None)
