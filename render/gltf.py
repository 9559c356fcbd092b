"""The document of a glTF 2.0 or GLB file: its buffers, its numbers, plain, sparse or compressed by Draco, and the tree of its scene."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt

from render.checks import Flag
from render.meshes import MAX_FACES, MeshError, folder_of
from render.textures import find_inside
from render.wording import plain

Json = dict[str, Any]

# What these add is of no account to shape, movement and base colour, or is read.
_SUPPORTED_PREFIXES = (
    "KHR_draco_mesh_compression",
    "KHR_materials_",
    "KHR_lights_punctual",
    "KHR_mesh_quantization",
    "KHR_texture_transform",
    "EXT_texture_webp",
    "KHR_xmp",
)
_COMPONENTS = {5120: "i1", 5121: "u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}


@dataclass
class Document:
    """One document with its buffers, pictures, Draco data and key times, each read once, and the warnings gathered on the way."""

    path: Path
    root: Path
    tree: Json
    binary: bytes | None
    flags: list[Flag] = field(default_factory=list)
    buffers: dict[int, bytes] = field(default_factory=dict)
    pictures: dict[int, npt.NDArray[np.uint8] | None] = field(default_factory=dict)
    draco: dict[int, Any] = field(default_factory=dict)
    times: dict[int, npt.NDArray[np.float64]] = field(default_factory=dict)


@contextmanager
def whole(path: Path) -> Iterator[None]:
    """What goes wrong where a document contradicts itself becomes MeshError("unreadable")."""
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError, RecursionError, struct.error) as error:
        text = f"{type(error).__name__}: {error}".replace("\n", " ")
        raise MeshError("unreadable", f"{path}: the glTF document does not hold together ({text[:160]}); export it again.") from error


def open_document(path: Path, root: Path) -> Document:
    """The document of a file; what it names is read from inside root. Raises MeshError: unsupported for a required extension."""
    tree, binary = _parse(path)
    with whole(path):
        for extension in tree.get("extensionsRequired", []):
            if not str(extension).startswith(_SUPPORTED_PREFIXES):
                raise MeshError(
                    "unsupported", f"{path}: needs the glTF extension {plain(extension, 80)}, which is not read; export it without."
                )
    return Document(path, root, tree, binary)


def named_files(path: Path) -> list[Path | None]:
    """The files that a document names for its buffers, then for its pictures, as reading it finds them; None for one that is not there.

    Raises MeshError, OSError.
    """
    tree, _ = _parse(path)
    with whole(path):
        uris = [item.get("uri") for kind in ("buffers", "images") for item in tree.get(kind, ())]
        named = [uri for uri in uris if isinstance(uri, str) and not uri.startswith("data:")]
        return [find_inside(unquote(uri), path.parent, folder_of(path)) for uri in named]


def item(things: Any, number: Any) -> Any:
    """An entry of a document's list by its number. Raises IndexError where there is none, which Python would count from the end for −1."""
    if type(number) is not int or not 0 <= number < len(things):
        raise IndexError(f"no entry {plain(number, 40)} in a list of {len(things)}")
    return things[number]


def _parse(path: Path) -> tuple[Json, bytes | None]:
    data = path.read_bytes()
    binary = None
    if data[:4] == b"glTF":
        chunks: dict[bytes, bytes] = {}
        if len(data) < 12 or struct.unpack_from("<I", data, 8)[0] > len(data):
            raise MeshError("unreadable", f"{path}: the GLB file is cut short; fetch it again.")
        place = 12
        while place + 8 <= len(data):
            length, kind = struct.unpack_from("<I4s", data, place)
            chunks.setdefault(kind, data[place + 8 : place + 8 + length])
            place += 8 + length
        data, binary = chunks.get(b"JSON", b""), chunks.get(b"BIN\0")
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise MeshError("unreadable", f"{path}: neither a GLB file nor a glTF document; export it again.") from error
    if not isinstance(tree, dict) or not isinstance(tree.get("asset"), dict):
        raise MeshError("unreadable", f"{path}: the JSON in it is no glTF document; export it again.")
    if not str(tree["asset"].get("version", "")).startswith("2"):
        raise MeshError("unsupported", f"{path}: only glTF 2 is read; convert it.")
    return tree, binary


def resource(document: Document, uri: str) -> bytes | None:
    """The bytes that a URI stands for; None where they are not inside the root."""
    if uri.startswith("data:"):
        return base64.b64decode(uri.partition(",")[2])
    found = find_inside(unquote(uri), document.path.parent, document.root)
    return None if found is None else found.read_bytes()


def _buffer(document: Document, number: int) -> bytes:
    stored = item(document.tree["buffers"], number)
    if number not in document.buffers:
        uri = stored.get("uri")
        # Only the first buffer can be the file's own chunk (section 4.4.3.1).
        data = (document.binary if number == 0 else None) if uri is None else resource(document, uri)
        if data is None:
            name = f"buffer {number}" if uri is None else f"buffer {plain(uri, 100)}"
            raise MeshError("io_error", f"{document.path}: its {name} is not there; put it beside the file.")
        document.buffers[number] = data
    return document.buffers[number]


def view(document: Document, number: int, offset: int, dtype: str, count: int, width: int, strided: bool = True) -> npt.NDArray[Any]:
    """(count, width) numbers of a buffer view; raises MeshError where they are not all there."""
    stored = item(document.tree["bufferViews"], number)
    data = _buffer(document, stored["buffer"])
    each = np.dtype(dtype).itemsize * width
    stride = stored.get("byteStride", each) if strided else each
    start = stored.get("byteOffset", 0) + offset
    end = start + stride * (count - 1) + each
    if count <= 0:
        return np.zeros((0, width), dtype)
    if start < 0 or offset < 0 or stride < each or end > len(data) or offset + stride * (count - 1) + each > stored["byteLength"]:
        raise MeshError("unreadable", f"{document.path}: buffer view {number} is shorter than what it should hold; fetch the file again.")
    return np.ndarray((count, width), dtype, data, start, (stride, np.dtype(dtype).itemsize))


def view_bytes(document: Document, number: int) -> bytes:
    """All of a buffer view."""
    return view(document, number, 0, "u1", int(item(document.tree["bufferViews"], number)["byteLength"]), 1, False).tobytes()


def accessor(document: Document, number: int) -> npt.NDArray[Any]:
    """(count, width) numbers, floats where they are normalised integers (section 3.6.2.2), sparse ones filled in."""
    stored = _accessor(document, number)
    dtype, width, count = _COMPONENTS[stored["componentType"]], _WIDTHS[stored["type"]], int(stored["count"])
    if "bufferView" in stored:
        values = view(document, stored["bufferView"], stored.get("byteOffset", 0), dtype, count, width)
    else:
        values = np.zeros((count, width), dtype)
    if "sparse" in stored:
        sparse = stored["sparse"]
        places, new = sparse["indices"], sparse["values"]
        places_dtype = _COMPONENTS[places["componentType"]]
        if np.dtype(places_dtype).kind != "u":
            raise ValueError("sparse indices that are no unsigned integers")
        at = view(document, places["bufferView"], places.get("byteOffset", 0), places_dtype, sparse["count"], 1, False)
        values = values.copy()
        values[at[:, 0]] = view(document, new["bufferView"], new.get("byteOffset", 0), dtype, sparse["count"], width, False)
    return _floats_of_normalised(values, stored)


def _accessor(document: Document, number: int) -> Json:
    stored = item(document.tree["accessors"], number)
    if int(stored["count"]) > 12 * MAX_FACES:
        raise MeshError("too_large", f"{document.path}: accessor {number} has {stored['count']} elements; simplify the mesh.")
    return stored  # type: ignore[no-any-return]


def _floats_of_normalised(values: npt.NDArray[Any], stored: Json) -> npt.NDArray[Any]:
    if stored.get("normalized") and values.dtype.kind in "iu":
        return np.asarray(np.maximum(values / np.iinfo(values.dtype).max, -1.0))
    return values


def attribute(document: Document, primitive: Json, name: str) -> npt.NDArray[Any]:
    """One attribute of a primitive as `accessor` gives it, out of its Draco data where it is compressed."""
    number = primitive["attributes"][name]
    compressed = _draco(document, primitive)
    if compressed is None or name not in compressed["attributes"]:
        return accessor(document, number)
    stored = _accessor(document, number)
    decoded = _decoded(document, compressed["bufferView"])
    found = [entry["data"] for entry in decoded.attributes if entry["unique_id"] == compressed["attributes"][name]]
    if not found or found[0].ndim != 2 or found[0].shape[1] != _WIDTHS[stored["type"]]:
        raise MeshError("unreadable", f"{document.path}: its Draco data hold no {name} such as the document names; export it again.")
    # Draco may keep numbers in more bits than the accessor has, which says what 1 is.
    return _floats_of_normalised(np.asarray(found[0]).astype(_COMPONENTS[stored["componentType"]]), stored)


def corners(document: Document, primitive: Json, count: int) -> npt.NDArray[np.int64]:
    """(C,) vertex numbers of a primitive with `count` vertices, in the order of its mode."""
    compressed = _draco(document, primitive)
    result = np.arange(count)
    if compressed is not None:
        result = np.asarray(_decoded(document, compressed["bufferView"]).faces).astype(np.int64).reshape(-1)
    elif "indices" in primitive:
        indices = accessor(document, primitive["indices"])
        if indices.dtype.kind != "u" or indices.shape[1] != 1:
            raise ValueError("indices that are no unsigned integers")
        result = indices[:, 0].astype(np.int64)
    if len(result) and not 0 <= result.min() <= result.max() < count:
        raise MeshError("unreadable", f"{document.path}: a face names a vertex that does not exist; export it again.")
    return result


def is_triangle_list(document: Document, primitive: Json) -> bool:
    """Whether `corners` gives three numbers a face: Draco decodes strips to triangles."""
    return primitive.get("mode", 4) == 4 or _draco(document, primitive) is not None


def _draco(document: Document, primitive: Json) -> Json | None:
    """The primitive's Draco extension, where its attributes are nowhere else: uncompressed ones stand in full precision."""
    compressed = primitive.get("extensions", {}).get("KHR_draco_mesh_compression")
    position = item(document.tree["accessors"], primitive["attributes"]["POSITION"])
    return None if compressed is None or "bufferView" in position else compressed


def _decoded(document: Document, number: int) -> Any:
    item(document.tree["bufferViews"], number)
    if number not in document.draco:
        import DracoPy

        data = view_bytes(document, number)
        try:
            decoded = DracoPy.decode(data)
        except Exception as error:  # the package's own errors share no base class
            message = f"{document.path}: the Draco data of buffer view {number} cannot be decoded; export it again."
            raise MeshError("unreadable", message) from error
        if not hasattr(decoded, "faces"):
            raise MeshError("unreadable", f"{document.path}: the Draco data of buffer view {number} are points; give a surface.")
        if len(decoded.faces) > MAX_FACES:
            raise MeshError("too_large", f"{document.path}: more than the {MAX_FACES} faces that are read; simplify it.")
        document.draco[number] = decoded
    return document.draco[number]


def scene_nodes(document: Document) -> list[tuple[int, int]]:
    """(node, its parent or −1) of the default scene in the order of its tree, parents first; of all nodes where the file has no scene."""
    nodes, scenes = document.tree.get("nodes", []), document.tree.get("scenes", [])
    if scenes:
        roots = item(scenes, document.tree.get("scene", 0)).get("nodes", [])
    else:
        roots = sorted(set(range(len(nodes))) - {child for node in nodes for child in node.get("children", [])})
    result: list[tuple[int, int]] = []
    seen: set[int] = set()
    waiting = [(number, -1) for number in reversed(roots)]
    while waiting:
        number, parent = waiting.pop()
        node = item(nodes, number)
        if number in seen:
            raise MeshError("unreadable", f"{document.path}: node {number} of the scene is no part of a tree; export it again.")
        seen.add(number)
        result.append((number, parent))
        waiting += [(child, number) for child in reversed(node.get("children", []))]
    return result
