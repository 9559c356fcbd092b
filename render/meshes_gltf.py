"""glTF 2.0 and GLB files as they stand in their default pose. Read here, since trimesh keeps colour factors to 8 bits of linear light,
drops how textures wrap and are placed, leaves out skins, and passes over required extensions.

Skins follow section 3.7.3 of the specification: the joints place a skinned mesh, its own node does not.
"""

from __future__ import annotations

import base64
import json
import math
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt

from render.checks import Flag
from render.meshes import MAX_FACES, Material, Mesh, MeshError, Wrap
from render.textures import find_inside, read_picture

Floats = npt.NDArray[np.float64]
Json = dict[str, Any]

# What these add is of no account to shape and base colour, or is read below.
_SUPPORTED_PREFIXES = (
    "KHR_materials_",
    "KHR_lights_punctual",
    "KHR_mesh_quantization",
    "KHR_texture_transform",
    "EXT_texture_webp",
    "KHR_xmp",
)
_COMPONENTS = {5120: "i1", 5121: "u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
_WRAPS: dict[int, Wrap] = {10497: "repeat", 33071: "clamp", 33648: "mirror"}


@dataclass
class _File:
    """One document with its buffers and pictures, each read once."""

    path: Path
    root: Path
    tree: Json
    binary: bytes | None
    flags: list[Flag] = field(default_factory=list)
    buffers: dict[int, bytes] = field(default_factory=dict)
    pictures: dict[int, npt.NDArray[np.uint8] | None] = field(default_factory=dict)


@dataclass
class _Piece:
    """One primitive where it stands."""

    vertices: Floats
    faces: npt.NDArray[np.int64]
    material: int
    uv: Floats | None
    colors: npt.NDArray[np.uint8] | None


def read_gltf(path: Path, root: Path) -> Mesh:
    """All triangles of the default scene, placed by their nodes or joints. Raises MeshError: unsupported for a required extension."""
    tree, binary = _document(path)
    for extension in tree.get("extensionsRequired", []):
        if not str(extension).startswith(_SUPPORTED_PREFIXES):
            raise MeshError("unsupported", f"{path}: needs the glTF extension {extension}, which is not read; export it without.")
    file = _File(path, root, tree, binary)
    try:
        pieces = _pieces(file)
        return _join(file, pieces)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError, struct.error) as error:
        text = f"{type(error).__name__}: {error}"
        raise MeshError("unreadable", f"{path}: the glTF document does not hold together ({text[:160]}); export it again.") from error


def _document(path: Path) -> tuple[Json, bytes | None]:
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


def _resource(file: _File, uri: str) -> bytes | None:
    if uri.startswith("data:"):
        return base64.b64decode(uri.partition(",")[2])
    found = find_inside(unquote(uri), file.path.parent, file.root)
    return None if found is None else found.read_bytes()


def _buffer(file: _File, number: int) -> bytes:
    if number not in file.buffers:
        uri = file.tree["buffers"][number].get("uri")
        data = file.binary if uri is None else _resource(file, uri)
        if data is None:
            raise MeshError("io_error", f"{file.path}: its buffer {uri or 'chunk'} is not in {file.root}; put it beside the file.")
        file.buffers[number] = data
    return file.buffers[number]


def _view(file: _File, number: int, offset: int, dtype: str, count: int, width: int, strided: bool = True) -> npt.NDArray[Any]:
    """(count, width) numbers of a buffer view; raises MeshError where they are not all there."""
    view = file.tree["bufferViews"][number]
    data = _buffer(file, view["buffer"])
    item = np.dtype(dtype).itemsize * width
    stride = view.get("byteStride", item) if strided else item
    start = view.get("byteOffset", 0) + offset
    end = start + stride * (count - 1) + item
    if count <= 0:
        return np.zeros((0, width), dtype)
    if start < 0 or stride < item or end > len(data) or offset + stride * (count - 1) + item > view["byteLength"]:
        raise MeshError("unreadable", f"{file.path}: buffer view {number} is shorter than what it should hold; fetch the file again.")
    return np.ndarray((count, width), dtype, data, start, (stride, np.dtype(dtype).itemsize))


def _accessor(file: _File, number: int) -> npt.NDArray[Any]:
    """(count, width) numbers, floats where they are normalised integers (section 3.6.2.2), sparse ones filled in."""
    accessor = file.tree["accessors"][number]
    dtype, width, count = _COMPONENTS[accessor["componentType"]], _WIDTHS[accessor["type"]], int(accessor["count"])
    if count > 12 * MAX_FACES:
        raise MeshError("too_large", f"{file.path}: accessor {number} has {count} elements; simplify the mesh.")
    if "bufferView" in accessor:
        values = _view(file, accessor["bufferView"], accessor.get("byteOffset", 0), dtype, count, width)
    else:
        values = np.zeros((count, width), dtype)
    if "sparse" in accessor:
        sparse = accessor["sparse"]
        places, new = sparse["indices"], sparse["values"]
        at = _view(file, places["bufferView"], places.get("byteOffset", 0), _COMPONENTS[places["componentType"]], sparse["count"], 1, False)
        values = values.copy()
        values[at[:, 0]] = _view(file, new["bufferView"], new.get("byteOffset", 0), dtype, sparse["count"], width, False)
    if accessor.get("normalized"):
        return np.asarray(np.maximum(values / np.iinfo(values.dtype).max, -1.0))
    return values


def _local(node: Json) -> Floats:
    """The node's 4×4 matrix."""
    if "matrix" in node:
        return np.array(node["matrix"], np.float64).reshape(4, 4).T
    x, y, z, w = np.array(node.get("rotation", (0, 0, 0, 1)), np.float64)
    matrix = np.eye(4)
    matrix[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    matrix[:3, :3] *= np.array(node.get("scale", (1, 1, 1)), np.float64)
    matrix[:3, 3] = node.get("translation", (0, 0, 0))
    return matrix


def _worlds(file: _File) -> dict[int, Floats]:
    """World matrices of the nodes of the default scene, in the order of its tree, and of all nodes where the file has no scene."""
    nodes, scenes = file.tree.get("nodes", []), file.tree.get("scenes", [])
    if scenes:
        roots = scenes[file.tree.get("scene", 0)].get("nodes", [])
    else:
        roots = sorted(set(range(len(nodes))) - {child for node in nodes for child in node.get("children", [])})
    worlds: dict[int, Floats] = {}
    waiting = [(number, np.eye(4)) for number in reversed(roots)]
    while waiting:
        number, parent = waiting.pop()
        if number in worlds or number < 0:
            raise MeshError("unreadable", f"{file.path}: node {number} of the scene is no part of a tree; export it again.")
        worlds[number] = _product(parent, _local(nodes[number]))
        waiting += [(child, worlds[number]) for child in reversed(nodes[number].get("children", []))]
    return worlds


def _product(a: Floats, b: Floats) -> Floats:
    # A sum written out: what a linear algebra library gives depends on the host in the last bit.
    return np.asarray(sum(a[:, i, None] * b[None, i] for i in range(4)))


def _moved(points: Floats, matrix: Floats) -> Floats:
    x, y, z = points.T[:3]
    return np.stack([matrix[i, 0] * x + matrix[i, 1] * y + matrix[i, 2] * z + matrix[i, 3] for i in range(3)], axis=1)


def _pieces(file: _File) -> list[_Piece]:
    tree, worlds = file.tree, _worlds(file)
    pieces: list[_Piece] = []
    total = 0
    for number, world in worlds.items():
        node = tree["nodes"][number]
        if "mesh" not in node:
            continue
        mesh = tree["meshes"][node["mesh"]]
        for primitive in mesh["primitives"]:
            mode = primitive.get("mode", 4)
            if mode < 4:
                file.flags.append("lines_ignored")
                continue
            if "POSITION" not in primitive["attributes"]:
                continue
            piece = _piece(file, primitive, mode, node.get("weights", mesh.get("weights", [])))
            total += len(piece.faces)
            if total > MAX_FACES:
                raise MeshError("too_large", f"{file.path}: more than the {MAX_FACES} faces that are read, copies counted; simplify it.")
            if "skin" in node and "JOINTS_0" in primitive["attributes"]:
                piece.vertices = _skinned(file, piece.vertices, tree["skins"][node["skin"]], primitive["attributes"], worlds)
            else:
                piece.vertices = _moved(piece.vertices, world)
                if np.linalg.det(world[:3, :3]) < 0:
                    piece.faces = piece.faces[:, ::-1]
            pieces.append(piece)
    return pieces


def _piece(file: _File, primitive: Json, mode: int, weights: list[float]) -> _Piece:
    attributes = primitive["attributes"]
    vertices = _accessor(file, attributes["POSITION"]).astype(np.float64)
    for weight, target in zip(weights, primitive.get("targets", []), strict=False):
        if weight and "POSITION" in target:
            vertices = vertices + weight * _accessor(file, target["POSITION"])
    corners = np.arange(len(vertices))
    if "indices" in primitive:
        indices = _accessor(file, primitive["indices"])
        if indices.dtype.kind != "u" or indices.shape[1] != 1:
            raise ValueError("indices that are no unsigned integers")
        corners = indices[:, 0].astype(np.int64)
    if len(corners) and corners.max() >= len(vertices):
        raise MeshError("unreadable", f"{file.path}: a face names a vertex that does not exist; export it again.")
    material = primitive.get("material", -1)
    uv = None
    texture = _texture_info(file, material)
    if texture is not None:
        placed = texture.get("extensions", {}).get("KHR_texture_transform", {})
        name = f"TEXCOORD_{placed.get('texCoord', texture.get('texCoord', 0))}"
        if name in attributes:
            uv = _placed_uv(_accessor(file, attributes[name]).astype(np.float64), placed)
    colors = None
    if "COLOR_0" in attributes:
        linear = _accessor(file, attributes["COLOR_0"])
        colors = np.full((len(linear), 4), 255, np.uint8)
        share = linear / np.iinfo(linear.dtype).max if linear.dtype.kind == "u" else linear
        colors[:, :3] = np.floor(srgb(np.nan_to_num(share[:, :3].astype(np.float64))) * 255 + 0.5)
    return _Piece(vertices, _triangles(corners, mode), material, uv, colors)


def _triangles(corners: npt.NDArray[np.int64], mode: int) -> npt.NDArray[np.int64]:
    if mode == 4:
        return corners[: len(corners) // 3 * 3].reshape(-1, 3)
    if len(corners) < 3:
        return np.zeros((0, 3), np.int64)
    if mode == 6:
        return np.stack((corners[1:-1], corners[2:], np.broadcast_to(corners[0], len(corners) - 2)), axis=1)
    strip = np.stack((corners[:-2], corners[1:-1], corners[2:]), axis=1)
    strip[1::2] = strip[1::2][:, [0, 2, 1]]
    return strip


def _skinned(file: _File, vertices: Floats, skin: Json, attributes: dict[str, int], worlds: dict[int, Floats]) -> Floats:
    joints = skin["joints"]
    inverse = np.tile(np.eye(4), (len(joints), 1, 1))
    if "inverseBindMatrices" in skin:
        inverse = _accessor(file, skin["inverseBindMatrices"]).astype(np.float64).reshape(-1, 4, 4).transpose(0, 2, 1)
    matrices = np.stack([_product(worlds[joint], inverse[i]) for i, joint in enumerate(joints)])
    result, total = np.zeros_like(vertices), np.zeros(len(vertices))
    for group in range(len(attributes)):
        if f"JOINTS_{group}" not in attributes:
            break
        numbers = _accessor(file, attributes[f"JOINTS_{group}"])
        # Weights that are NaN or do not sum to one occur in files of every exporter.
        weights = np.nan_to_num(_accessor(file, attributes[f"WEIGHTS_{group}"]).astype(np.float64), posinf=0, neginf=0)
        for column in range(4):
            matrix, weight = matrices[numbers[:, column]], weights[:, column]
            for axis in range(3):
                row = matrix[:, axis]
                moved = row[:, 0] * vertices[:, 0] + row[:, 1] * vertices[:, 1] + row[:, 2] * vertices[:, 2] + row[:, 3]
                result[:, axis] += weight * moved
            total += weight
    return np.where(total[:, None] > 0, result / np.where(total > 0, total, 1)[:, None], _moved(vertices, matrices[0]))


def _texture_info(file: _File, material: int) -> Json | None:
    if material < 0:
        return None
    look = file.tree["materials"][material]
    glossy = look.get("extensions", {}).get("KHR_materials_pbrSpecularGlossiness", {})
    info = look.get("pbrMetallicRoughness", {}).get("baseColorTexture") or glossy.get("diffuseTexture")
    return info if isinstance(info, dict) else None


def _placed_uv(uv: Floats, placed: Json) -> Floats:
    """uv after KHR_texture_transform, turned to crossloom's origin at the lower left."""
    scale, offset, angle = placed.get("scale", (1, 1)), placed.get("offset", (0, 0)), placed.get("rotation", 0.0)
    u, v = uv[:, 0] * scale[0], uv[:, 1] * scale[1]
    cosine, sine = math.cos(angle), math.sin(angle)
    return np.stack((cosine * u + sine * v + offset[0], 1 - (cosine * v - sine * u + offset[1])), axis=1)


def srgb(linear: Floats) -> Floats:
    """sRGB-encoded values of linear light, both 0 to 1 and clipped to that (IEC 61966-2-1)."""
    clipped = np.clip(linear, 0, 1)
    return np.where(clipped <= 0.0031308, 12.92 * clipped, 1.055 * clipped ** (1 / 2.4) - 0.055)


def _picture(file: _File, number: int) -> npt.NDArray[np.uint8] | None:
    if number not in file.pictures:
        image = file.tree["images"][number]
        if "bufferView" in image:
            view = file.tree["bufferViews"][image["bufferView"]]
            data: bytes | None = _view(file, image["bufferView"], 0, "u1", view["byteLength"], 1, False).tobytes()
        else:
            data = _resource(file, image["uri"])
        if data is None:
            file.flags.append("texture_missing")
        picture = None if data is None else read_picture(data, f"{file.path}, image {number}")
        if data is not None and picture is None:
            file.flags.append("texture_unreadable")
        file.pictures[number] = picture
    return file.pictures[number]


def _material(file: _File, number: int) -> Material:
    if number < 0:
        return Material(base_color=np.ones(4, np.float32))
    look = file.tree["materials"][number]
    factor = look.get("pbrMetallicRoughness", {}).get("baseColorFactor")
    if factor is None:
        factor = look.get("extensions", {}).get("KHR_materials_pbrSpecularGlossiness", {}).get("diffuseFactor", (1, 1, 1, 1))
    color = np.array(factor, np.float64)
    color[:3] = srgb(color[:3])
    info, picture, wrap = _texture_info(file, number), None, (_WRAPS[10497], _WRAPS[10497])
    if info is not None:
        texture = file.tree["textures"][info["index"]]
        source = texture.get("source", texture.get("extensions", {}).get("EXT_texture_webp", {}).get("source"))
        if source is None:
            file.flags.append("texture_missing")
        else:
            picture = _picture(file, source)
        if "sampler" in texture:
            sampler = file.tree["samplers"][texture["sampler"]]
            wrap = (_WRAPS[sampler.get("wrapS", 10497)], _WRAPS[sampler.get("wrapT", 10497)])
    return Material(str(look.get("name", "")), color.astype(np.float32), picture, wrap)


def _join(file: _File, pieces: list[_Piece]) -> Mesh:
    in_use = sorted({piece.material for piece in pieces if len(piece.faces)})
    materials = tuple(_material(file, number) for number in in_use)
    places = {number: place for place, number in enumerate(in_use)}
    pieces = [piece for piece in pieces if len(piece.faces)]
    if not pieces:
        raise MeshError("empty", f"{file.path}: no faces in its scene; give a surface, not points or lines.")
    textured = any(material.texture is not None for material in materials)
    vertices, faces, face_material, corner_uv, colors = [], [], [], [], []
    first = 0
    for piece in pieces:
        material = places[piece.material]
        vertices.append(piece.vertices)
        faces.append(piece.faces + first)
        face_material.append(np.full(len(piece.faces), material, np.int32))
        if piece.uv is None and materials[material].texture is not None:
            file.flags.append("uv_missing")
        uv = np.zeros((len(piece.vertices), 2)) if piece.uv is None else piece.uv
        corner_uv.append(uv.astype(np.float32)[piece.faces])
        colors.append(np.full((len(piece.vertices), 4), 255, np.uint8) if piece.colors is None else piece.colors)
        first += len(piece.vertices)
    return Mesh(
        vertices=np.concatenate(vertices),
        faces=np.concatenate(faces).astype(np.int32),
        materials=materials,
        face_material=np.concatenate(face_material),
        corner_uv=np.concatenate(corner_uv) if textured else None,
        vertex_colors=np.concatenate(colors) if any(piece.colors is not None for piece in pieces) else None,
        flags=tuple(dict.fromkeys(file.flags)),
    )
