"""glTF 2.0 and GLB files as they stand in their default pose. Read here, since trimesh keeps colour factors to 8 bits of linear light,
drops how textures wrap and are placed, leaves out skins, and passes over required extensions.

Skins follow section 3.7.3 of the specification: the joints place a skinned mesh, its own node does not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from render import srgb
from render.gltf import Document, Json, attribute, corners, is_triangle_list, item, open_document, resource, view_bytes, whole
from render.meshes import MAX_FACES, Material, Mesh, MeshError, Wrap
from render.skinning import Nodes, Shape, place, read_nodes, read_shape, world_matrices
from render.textures import read_picture
from render.wording import plain

Floats = npt.NDArray[np.float64]

_WRAPS: dict[int, Wrap] = {10497: "repeat", 33071: "clamp", 33648: "mirror"}


@dataclass(frozen=True)
class Piece:
    """One primitive on one node."""

    shape: Shape
    faces: npt.NDArray[np.int64]
    material: int
    uv: Floats | None
    colors: npt.NDArray[np.uint8] | None


def read_gltf(path: Path, root: Path) -> Mesh:
    """All triangles of the default scene, placed by their nodes or joints. Raises MeshError: unsupported for a required extension."""
    document = open_document(path, root)
    with whole(path):
        nodes = read_nodes(document)
        return join(document, nodes, read_pieces(document, nodes))


def read_pieces(document: Document, nodes: Nodes) -> list[Piece]:
    """All primitives with faces, in the order of the scene's tree."""
    tree, worlds = document.tree, world_matrices(nodes, nodes.rest[None])[0]
    pieces: list[Piece] = []
    total = 0
    for row, number in enumerate(nodes.numbers):
        node = tree["nodes"][number]
        if "mesh" not in node:
            continue
        for primitive in item(tree["meshes"], node["mesh"])["primitives"]:
            if primitive.get("mode", 4) < 4:
                document.flags.append("lines_ignored")
                continue
            if "POSITION" not in primitive["attributes"]:
                continue
            piece = _piece(document, nodes, row, primitive, bool(_determinant(worlds[row]) < 0))
            total += max(len(piece.faces), len(piece.shape.positions) // 3)
            if total > MAX_FACES:
                raise MeshError(
                    "too_large", f"{document.path}: more than the {MAX_FACES} faces that are read, copies counted; simplify it."
                )
            if len(piece.faces):
                pieces.append(piece)
    return pieces


def _determinant(m: Floats) -> float:
    value = m[0, 0] * (m[1, 1] * m[2, 2] - m[1, 2] * m[2, 1]) - m[0, 1] * (m[1, 0] * m[2, 2] - m[1, 2] * m[2, 0])
    return float(value + m[0, 2] * (m[1, 0] * m[2, 1] - m[1, 1] * m[2, 0]))


def _piece(document: Document, nodes: Nodes, row: int, primitive: Json, mirrored: bool) -> Piece:
    attributes = primitive["attributes"]
    shape = read_shape(document, nodes, row, primitive)
    mode = 4 if is_triangle_list(document, primitive) else primitive["mode"]
    faces = _triangles(corners(document, primitive, len(shape.positions)), mode)
    if mirrored and shape.skin is None:
        faces = faces[:, ::-1]
    material = -1
    if "material" in primitive:
        material = primitive["material"]
        item(document.tree["materials"], material)
    uv = None
    texture = _texture_info(document, material)
    if texture is not None:
        placed = texture.get("extensions", {}).get("KHR_texture_transform", {})
        name = f"TEXCOORD_{placed.get('texCoord', texture.get('texCoord', 0))}"
        if name in attributes:
            uv = _placed_uv(attribute(document, primitive, name).astype(np.float64), placed)
    colors = None
    if "COLOR_0" in attributes:
        linear = attribute(document, primitive, "COLOR_0")
        colors = np.full((len(linear), 4), 255, np.uint8)
        share = linear / np.iinfo(linear.dtype).max if linear.dtype.kind == "u" else linear
        colors[:, :3] = np.floor(srgb.encode(np.nan_to_num(share[:, :3].astype(np.float64))) * 255 + 0.5)
    if any(array is not None and len(array) != len(shape.positions) for array in (uv, colors)):
        raise ValueError("texture coordinates or colours of another number of vertices")
    return Piece(shape, faces, material, uv, colors)


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


def _texture_info(document: Document, material: int) -> Json | None:
    if material < 0:
        return None
    look = document.tree["materials"][material]
    glossy = look.get("extensions", {}).get("KHR_materials_pbrSpecularGlossiness", {})
    info = look.get("pbrMetallicRoughness", {}).get("baseColorTexture") or glossy.get("diffuseTexture")
    return info if isinstance(info, dict) else None


def _placed_uv(uv: Floats, placed: Json) -> Floats:
    """uv after KHR_texture_transform, turned to crossloom's origin at the lower left."""
    scale, offset, angle = placed.get("scale", (1, 1)), placed.get("offset", (0, 0)), placed.get("rotation", 0.0)
    u, v = uv[:, 0] * scale[0], uv[:, 1] * scale[1]
    cosine, sine = math.cos(angle), math.sin(angle)
    return np.stack((cosine * u + sine * v + offset[0], 1 - (cosine * v - sine * u + offset[1])), axis=1)


def _picture(document: Document, number: int) -> npt.NDArray[np.uint8] | None:
    image = item(document.tree["images"], number)
    if number not in document.pictures:
        if "bufferView" in image:
            data: bytes | None = view_bytes(document, image["bufferView"])
        else:
            data = resource(document, image["uri"])
        if data is None:
            document.flags.append("texture_missing")
        picture = None if data is None else read_picture(data, f"{document.path}, image {number}")
        if data is not None and picture is None:
            document.flags.append("texture_unreadable")
        document.pictures[number] = picture
    return document.pictures[number]


def _material(document: Document, number: int) -> Material:
    if number < 0:
        return Material(base_color=np.ones(4, np.float32))
    look = document.tree["materials"][number]
    factor = look.get("pbrMetallicRoughness", {}).get("baseColorFactor")
    if factor is None:
        factor = look.get("extensions", {}).get("KHR_materials_pbrSpecularGlossiness", {}).get("diffuseFactor", (1, 1, 1, 1))
    color = np.array(factor, np.float64)
    color[:3] = srgb.encode(color[:3])
    info, picture, wrap = _texture_info(document, number), None, (_WRAPS[10497], _WRAPS[10497])
    if info is not None:
        texture = item(document.tree["textures"], info["index"])
        source = texture.get("source", texture.get("extensions", {}).get("EXT_texture_webp", {}).get("source"))
        if source is None:
            document.flags.append("texture_missing")
        else:
            picture = _picture(document, source)
        if "sampler" in texture:
            sampler = item(document.tree["samplers"], texture["sampler"])
            wrap = (_WRAPS[sampler.get("wrapS", 10497)], _WRAPS[sampler.get("wrapT", 10497)])
    return Material(plain(look.get("name", "")), color.astype(np.float32), picture, wrap)


def join(document: Document, nodes: Nodes, pieces: list[Piece]) -> Mesh:
    """One mesh of all pieces in the default pose."""
    in_use = sorted({piece.material for piece in pieces})
    materials = tuple(_material(document, number) for number in in_use)
    places = {number: place for place, number in enumerate(in_use)}
    if not pieces:
        raise MeshError("empty", f"{document.path}: no faces in its scene; give a surface, not points or lines.")
    textured = any(material.texture is not None for material in materials)
    faces, face_material, corner_uv, colors = [], [], [], []
    first = 0
    for piece in pieces:
        material = places[piece.material]
        count = len(piece.shape.positions)
        faces.append(piece.faces + first)
        face_material.append(np.full(len(piece.faces), material, np.int32))
        if piece.uv is None and materials[material].texture is not None:
            document.flags.append("uv_missing")
        uv = np.zeros((count, 2)) if piece.uv is None else piece.uv
        corner_uv.append(uv.astype(np.float32)[piece.faces])
        colors.append(np.full((count, 4), 255, np.uint8) if piece.colors is None else piece.colors)
        first += count
    return Mesh(
        vertices=place(nodes, [piece.shape for piece in pieces], nodes.rest[None])[0],
        faces=np.concatenate(faces).astype(np.int32),
        materials=materials,
        face_material=np.concatenate(face_material),
        corner_uv=np.concatenate(corner_uv) if textured else None,
        vertex_colors=np.concatenate(colors) if any(piece.colors is not None for piece in pieces) else None,
        flags=tuple(dict.fromkeys(document.flags)),
    )
